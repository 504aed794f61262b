"""The same attack in this package and in its peers, for `attacks.py`: each as its own documentation calls it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_fim.attacks import FixedBudgetAttack
from keras_fim.logits import logits_function

BATCH_SIZE = 128
Run = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From images and labels to adversarials."""
Build = Callable[["Logits"], Run]
"""From a model to a run; what happens here is not timed."""


class Logits:
    """A model's logits, with the call that all libraries understand."""

    def __init__(self, model: keras.Model, *, compiled: bool = False) -> None:
        logits = keras.Model(model.input, model.get_layer("logits").output)
        self.forward = tf.function(logits, reduce_retracing=True) if compiled else logits

    def __call__(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Logits; ``training`` is there because ART passes it."""
        return self.forward(images)


class CountedLogits(Logits):
    """Counts the images that pass, forwards and backwards."""

    def __init__(self, model: keras.Model) -> None:
        super().__init__(model)
        self.forwards, self.backwards = (tf.Variable(0, dtype=tf.int64, trainable=False) for _ in range(2))

    def __call__(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Logits, counted."""
        count = tf.shape(images, out_type=tf.int64)[0]

        @tf.custom_gradient
        def counted(points: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
            self.forwards.assign_add(count)

            def gradient(upstream: tf.Tensor) -> tf.Tensor:
                self.backwards.assign_add(count)
                return upstream

            return tf.identity(points), gradient

        return self.forward(counted(tf.convert_to_tensor(images)))


def keras_fim_attack(attack: Any, epsilon: float | None = None, *, targeted: bool = False) -> Build:
    def build(logits: Logits) -> Run:
        logits_fn = logits_function(logits, from_logits=True)

        def run(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
            options = {"epsilon": epsilon} if isinstance(attack, FixedBudgetAttack) else {}
            options |= {"targets": targets(labels)} if targeted else {}
            return attack(logits_fn, images, labels, **options).adversarials

        return run

    return build


def cleverhans(name: str, norm: float, epsilon: float, **options: Any) -> Build:
    """A function of CleverHans as it stands; its sanity checks raise under Keras 3."""

    def build(logits: Logits) -> Run:
        attack = getattr(importlib.import_module(f"cleverhans.tf2.attacks.{name}"), name)
        options.update(norm=norm, clip_min=0.0, clip_max=1.0, sanity_checks=False)

        def run(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
            batches = (tf.constant(batch) for batch in _batches(images))
            pairs = zip(batches, _batches(labels), strict=True)
            return np.concatenate([attack(logits, x, eps=epsilon, y=tf.constant(y), **options) for x, y in pairs])

        return run

    return build


def foolbox(name: str, epsilon: float | None = None, **options: Any) -> Build:
    def build(logits: Logits) -> Run:
        library = importlib.import_module("foolbox")
        attack = getattr(library.attacks, name)(**options)
        model = library.TensorFlowModel(logits, bounds=(0, 1), device="/CPU:0")

        def run(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
            pairs = zip(_batches(images), _batches(labels), strict=True)
            parts = [attack(model, tf.constant(x), tf.constant(y), epsilons=epsilon)[1] for x, y in pairs]
            return np.concatenate([batch.numpy() for batch in parts])

        return run

    return build


def art(name: str, *, targeted: bool = False, **options: Any) -> Build:
    def build(logits: Logits) -> Run:
        classifier = importlib.import_module("art.estimators.classification").TensorFlowV2Classifier(
            model=logits,
            nb_classes=10,
            input_shape=(28, 28, 1),
            loss_object=keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum"),
            clip_values=(0.0, 1.0),
        )
        attack = getattr(importlib.import_module("art.attacks.evasion"), name)(
            classifier, batch_size=BATCH_SIZE, **options
        )
        if "verbose" in attack.attack_params:
            attack.set_params(verbose=False)

        def run(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
            return attack.generate(images, y=np.eye(10)[targets(labels) if targeted else labels])

        return run

    return build


def targets(labels: np.ndarray) -> np.ndarray:
    """Other classes, the same in each library."""
    return (labels + 1 + np.arange(len(labels)) % 9) % 10


def _batches(array: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(array), BATCH_SIZE):
        yield array[start : start + BATCH_SIZE]
