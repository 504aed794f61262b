from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from keras_fim import attacks, evaluation
from keras_fim.logits import logits_function


@pytest.fixture
def boundary():
    """Two classes that part at 0.5 of the first pixel, and six images at known distances of it."""
    model = logits_function(lambda x: tf.stack([x[:, 0] - 0.5, 0.5 - x[:, 0]], axis=-1) * 4, from_logits=True)
    images = np.array([[0.55], [0.65], [0.75], [0.95], [0.2], [0.9]], "float32")
    return model, images, np.array([0, 0, 0, 0, 1, 1])  # the last one is wrong before the attack


@pytest.mark.parametrize("attack", [attacks.FGSM(), attacks.OSSA()], ids=repr)
def test_fooling_ratio_counts_originally_correct_samples_only(attack, boundary):
    curve = evaluation.robustness_curve(*boundary, attack, [0.0, 0.1, 0.2, 0.26, 0.5])
    assert curve.fooling_ratios == pytest.approx((0.0, 0.2, 0.4, 0.6, 1.0))
    assert (curve.num_correct, curve.num_samples) == (5, 6)
    assert curve.norm == {"fgsm": "linf", "ossa": "l2"}[attack.name] and curve.options == repr(attack)


def test_clean_performance(boundary):
    model, images, labels = boundary
    clean = evaluation.clean_performance(model, images, labels, batch_size=4)
    margins = 8 * np.abs(images[:, 0] - 0.5)
    assert clean.accuracy == pytest.approx(5 / 6) and clean.num_samples == 6
    assert clean.mean_confidence == pytest.approx((1 / (1 + np.exp(-margins))).mean(), rel=1e-5)
