"""How many functions of the package stand between a call and the model."""

from __future__ import annotations

import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import keras_fim
from keras_fim import attacks, defenses

BRANCHES = ("<listcomp>", "if_body", "else_body", "loop_body")
PACKAGE = str(Path(keras_fim.__file__).parent)


@keras.saving.register_keras_serializable("tests")
class Watched(keras.layers.Layer):
    """A layer that notes the package's functions on the stack, whenever it is called."""

    stacks: list[list[str]] = []  # noqa: RUF012 - shared on purpose

    def call(self, inputs):
        frame, names = sys._getframe(), []
        while frame:
            file = frame.f_code.co_filename
            name = frame.f_code.co_name
            # AutoGraph compiles functions of ours into files of its own, and branches into functions
            if (file.startswith(PACKAGE) or "__autograph_generated_file" in file) and name not in BRANCHES:
                names.append(name.removeprefix("tf__"))
            frame = frame.f_back
        self.stacks.append(names[::-1])
        return inputs


def watched():
    layers = [keras.Input((4, 4, 1)), Watched(), keras.layers.Flatten(), keras.layers.Dense(3, activation="softmax")]
    model = keras.Sequential(layers)
    Watched.stacks.clear()
    return model


def show(title):
    """The first call of the model, and the one with most functions before it."""
    first, deepest = Watched.stacks[0], max(Watched.stacks, key=len)
    print(f"\n{title}: first {len(first)} ({' > '.join(first)}), deepest {len(deepest)} ({' > '.join(deepest)})")
    return len(first), len(deepest)


def test_an_attack_reaches_the_model_in_few_hops():
    model, images = watched(), np.full((5, 4, 4, 1), 0.4, "float32")
    attacks.PGD(steps=2)(model, images, [0, 1, 2, 0, 1], epsilon=0.1)
    first, deepest = show("PGD")
    assert first <= 8 and deepest <= 11  # with the loop that all iterative attacks share


def test_a_training_step_reaches_the_model_in_few_hops():
    model = watched()
    defended = defenses.SpectralDefense(model, mu=1.0)
    defended.compile("sgd", loss="sparse_categorical_crossentropy")
    Watched.stacks.clear()
    defended.fit(tf.fill((4, 4, 4, 1), 0.4), tf.constant([0, 1, 2, 0]), verbose=0)
    first, deepest = show("SpectralDefense")
    assert first <= 8 and deepest <= 8
