"""What an evaluation costs: gradients, counted where they are executed, stage by stage."""

from __future__ import annotations

import importlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_fim import attacks
from keras_fim.evaluation import evaluate, flags, plans
from keras_fim.evaluation.page import Gallery
from keras_fim.logits import logits_function, predict_logits

BOUNDS = (-1.0, 1.0)
CLASSES = 1000


class Counted:
    """A model that notes of how many images a gradient, or a product with the Jacobian, was executed."""

    def __init__(self, model):
        self.model, self.number = model, 0

    def _note(self, number, _):
        self.number += int(number)
        return np.float32(0)

    def _counting(self, values):  # without its result it is pruned
        first = tf.reshape(values, [-1])[:1]
        zero = tf.numpy_function(self._note, [tf.shape(values)[0], first], tf.float32, stateful=False)
        return values + tf.ensure_shape(zero, [])

    @property
    def logits_fn(self):
        @tf.custom_gradient
        def watched(images):
            @tf.custom_gradient
            def back(upstream):
                return self._counting(upstream), self._counting

            return tf.identity(images), back

        return logits_function(lambda images: self.model(watched(images)), from_logits=True)

    def taken(self):
        number, self.number = self.number, 0
        return number


@pytest.fixture(scope="module")
def case():
    """A small network of as many classes as ImageNet has, and eight images that it has right."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.Flatten(), keras.layers.Dense(CLASSES)]
    counted = Counted(keras.Sequential([keras.Input((8, 8, 3)), *layers]))
    logits_fn = counted.logits_fn
    images = np.random.default_rng(0).uniform(-1, 1, size=(8, 8, 8, 3)).astype("float32")
    return counted, logits_fn, (images, logits_fn.in_batches(predict_logits, images).argmax(axis=-1))


def test_each_gradient_of_an_evaluation_is_for_a_figure(case, monkeypatch):
    """Those of the attacks, six for λ and the radius, and one for flag and estimate; the pictures take none."""
    counted, logits_fn, data = case
    counted.taken()
    stages = {}

    def counting(owner, name):
        function = getattr(owner, name)

        def call(*args, **options):
            counted.taken()
            result = function(*args, **options)
            stages[name] = stages.get(name, 0) + counted.taken()
            return result

        monkeypatch.setattr(owner, name, call)

    for owner, name in ((plans, "estimate"), (flags, "slope_flags"), (Gallery, "examples")):
        counting(owner, name)
    counting(importlib.import_module("keras_fim.evaluation.evaluate"), "information")
    for kind in (attacks.FGSM, attacks.Strong):
        counting(kind, "sweep")
    report = evaluate(logits_fn, data, bounds=BOUNDS, progress=lambda line: None)
    attacked = stages.pop("sweep")
    assert stages == {"estimate": 8, "slope_flags": 0, "information": 6 * 8, "examples": 0}
    assert counted.taken() == 0 and len(report.examples) == 8
    monkeypatch.undo()
    epsilons = [row.epsilon for row in report.rows if row.attack == "fgsm"]
    for attack in (attacks.FGSM(bounds=BOUNDS), attacks.Strong(bounds=BOUNDS)):
        attack.sweep(logits_fn, *data, epsilons)
    assert counted.taken() == attacked > 0


def test_without_a_line_to_show_the_flag_alone_takes_a_gradient(case):
    counted, logits_fn, data = case
    counted.taken()
    options = {"attacks": ["fgsm"], "epsilons": [0.1], "spectrum": False, "bounds": BOUNDS}
    evaluate(logits_fn, data, progress=None, **options)
    assert counted.taken() == 2 * 8


def test_the_flag_needs_no_gradient_where_the_estimate_has_one(case):
    counted, logits_fn, (images, labels) = case
    images, slopes = tf.constant(images), np.zeros(3)
    counted.taken()
    expected = "zero gradients: of 38 % of the images"
    (flag,) = flags.slope_flags(logits_fn, images, labels, slopes)
    assert counted.taken() == 5 and flag.startswith(expected)
    assert flags.slope_flags(logits_fn, images, labels, np.ones(8)) == [] and counted.taken() == 0


def test_pictures_are_of_what_the_evaluation_found(case, tmp_path):
    """Figures of an earlier process come without images: then the few that are shown are attacked again."""
    counted, logits_fn, data = case
    options = {"attacks": ["fgsm"], "epsilons": [0.4, 0.02], "bounds": BOUNDS, "folder": tmp_path, "spectrum": False}
    first = evaluate(logits_fn, data, **options)
    counted.taken()
    again = evaluate(logits_fn, data, **options)
    assert counted.taken() == 2 * 8  # the flag, and the pictures
    assert len(first.examples) == 8
    for one, other in zip(first.examples, again.examples, strict=True):
        assert (one.index, one.attack, one.prediction) == (other.index, other.attack, other.prediction)
        assert one.pictures == other.pictures
