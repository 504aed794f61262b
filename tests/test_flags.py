from __future__ import annotations

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_fim.flags import flags
from keras_fim.logits import logits_function

IMAGES = np.random.default_rng(0).uniform(size=(100, 6)).astype("float32")
LABELS = np.arange(100) % 3


def network(*front, **head):
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((6,)), *front, keras.layers.Dense(3, **head)])


@keras.saving.register_keras_serializable("tests")
class AlwaysNoisy(keras.layers.Layer):
    def __init__(self, size):
        super().__init__()
        self.size, self.generator = size, keras.random.SeedGenerator(0)

    def call(self, images):
        return images + self.size * keras.random.normal(tf.shape(images), seed=self.generator)


def rounding(images):
    return tf.round(images)


CASES = {
    "sound": (lambda: network(), [], ""),
    "sure": (lambda: network(kernel_initializer=keras.initializers.RandomNormal(stddev=1e3)), [], ""),
    "dropout": (lambda: network(keras.layers.Dropout(0.5)), [], ""),
    "random": (lambda: network(AlwaysNoisy(0.1)), ["random outputs"], "Two passes give other logits.*100.0 %"),
    "rounding errors": (lambda: network(AlwaysNoisy(1e-6)), [], ""),
    "constant": (lambda: network(kernel_initializer="zeros"), ["constant", "zero gradients"], "Class 0 is predicted"),
    "dead": (lambda: network(keras.layers.ReLU(threshold=2.0)), ["constant", "zero gradients"], "for 100.0 %"),
    "NaN": (
        lambda: network(keras.layers.Lambda(lambda x: tf.sqrt(x - 0.2))),
        ["NaN logits", "zero gradients"],
        "of the logits are NaN",
    ),
    "no gradient": (
        lambda: network(keras.layers.Lambda(rounding, name="rounded")),
        ["no gradient"],
        r"it stops at the layer rounded \(Lambda\)",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_makes_a_measurement_worthless(case):
    make, names, text = CASES[case]
    found = flags(logits_function(make(), from_logits=True), IMAGES, LABELS)
    assert [flag.name for flag in found] == names
    assert re.search(text, " ".join(flag.text for flag in found))


def test_a_constant_model_is_right_where_the_labels_hold_one_class():
    model = network(bias_initializer=lambda shape, dtype: tf.constant([99.0, 0, 0]))
    logits_fn = logits_function(model, from_logits=True)
    assert [flag.name for flag in flags(logits_fn, IMAGES, LABELS, gradients=False)] == ["constant"]
    assert flags(logits_fn, IMAGES, np.zeros(100, int)) == []
