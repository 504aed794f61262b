"""Detectors under attack, on a linear model."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from keras_fim import attacks
from keras_fim.evaluation import sources
from keras_fim.evaluation.plans import Plan
from keras_fim.logits import logits_function
from keras_fim.training import detecting

pytest.importorskip("sklearn", reason="needs the extra [detection]")


def test_figures_do_not_depend_on_the_chunks_in_which_images_are_read(monkeypatch):
    weights = np.array([[3.0, -3.0], [1.0, -1.0]], np.float32)
    model = logits_function(lambda x: (x - 0.5) @ weights, from_logits=True)
    images = np.random.default_rng(0).uniform(size=(100, 2)).astype("float32")
    labels = model(tf.constant(images)).numpy().argmax(axis=-1)
    measurements = []
    for size in (100, 64):
        monkeypatch.setattr(sources, "_LARGEST", size)
        measurement = detecting._Measurement(model, (0.0, 1.0))
        measurement.fit(images, labels, images, (0.1, 0.2), 0.05)
        measurement.attack(Plan(attacks.FGSM(), (0.05, 0.3)), (images, labels), measurement.detectors)
        measurements.append(measurement)
    whole, parts = measurements
    assert list(whole.detectors) == ["lambda", "fgsm", "pgd"] and whole.rows == parts.rows
    assert whole.curves == parts.curves and len(whole.curves) == 6
    near, far = whole.rows
    assert 10 <= near["fooled"] < far["fooled"] <= far["num"] == 100
    fooled = np.abs((images - 0.5) @ weights[:, 0]) < 0.05 * np.abs(weights[:, 0]).sum()
    assert near["fooled"] == pytest.approx(fooled.sum(), abs=1)
    assert near["detectors"]["lambda"]["num_attacked"] == near["fooled"]
