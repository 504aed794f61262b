from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import binom

from keras_fim import evaluation
from keras_fim.evaluation.radius import radius_and_distance
from keras_fim.logits import logits_function

WIDE = (-50.0, 50.0)
IMAGES = np.random.default_rng(0).normal(size=(400, 5)).astype("float32")


def linear(images):
    weights = tf.constant(np.random.default_rng(1).normal(size=(5, 3)), images.dtype)
    return images @ weights


@pytest.fixture(scope="module")
def network():
    """A net whose boundaries bend, so that the first-order radius is wrong by various factors."""
    keras.utils.set_random_seed(3)
    layers = [keras.layers.Dense(16, activation="tanh", kernel_initializer="random_normal") for _ in range(2)]
    model = keras.Sequential([keras.Input((5,)), *layers, keras.layers.Dense(3)])
    model.set_weights([20 * weight for weight in model.get_weights()])
    return model


@pytest.mark.parametrize("norm", [2, np.inf])
def test_of_a_linear_model_radius_and_distance_agree(norm):
    model = logits_function(linear, from_logits=True)
    radius, distance = radius_and_distance(model, IMAGES[:40], norm=norm, bounds=WIDE)
    np.testing.assert_allclose(distance, radius, rtol=0.05, atol=2e-3)
    np.testing.assert_allclose(radius, evaluation.boundary_radius(model, IMAGES[:40], norm=norm).radius, rtol=1e-4)


def test_the_factor_holds_for_its_share_on_other_images(network):
    fitted, held_out = IMAGES[:200], IMAGES[200:]
    result = evaluation.calibrate(network, fitted, share=0.9, bounds=WIDE)
    radius, distance = radius_and_distance(network, fitted, bounds=WIDE)
    inside = result.factor * radius <= distance * (1 + 1e-6)
    assert 0.9 <= inside.mean() < 0.92 and result.num_samples == 200
    radius, distance = radius_and_distance(network, held_out, bounds=WIDE)
    low, high = binom.ppf([0.001, 0.999], 200, 0.9) / 200
    assert low <= np.mean(result.factor * radius <= distance) <= high
    assert "For 90 % of images like these 200, no attack we ran succeeded within their radius" in str(result)
    assert "guarantee" not in str(result)


def test_the_unit_of_the_pixels_does_not_matter(network):
    scaled = keras.Sequential([keras.Input((5,)), keras.layers.Rescaling(0.1), network])
    small = radius_and_distance(network, IMAGES[:20], bounds=WIDE)
    large = radius_and_distance(scaled, 10 * IMAGES[:20], bounds=(-500.0, 500.0))
    np.testing.assert_allclose(large[0], 10 * small[0], rtol=1e-3)
    same = np.isclose(large[1], 10 * small[1], rtol=0.01)  # a search may end in another place after rounding
    assert same.mean() >= 0.9


def test_bad_input(network):
    with pytest.raises(ValueError, match=r"`share` should be in \(0, 1\). Received: share=1"):
        evaluation.calibrate(network, IMAGES, share=1.0, bounds=WIDE)
    with pytest.raises(ValueError, match="`images` should be at least 200 with a boundary radius. Received: 30"):
        evaluation.calibrate(network, IMAGES[:30], bounds=WIDE)
    with pytest.raises(ValueError, match="`norm` should be one of 1, 2, np.inf"):
        evaluation.calibrate(network, IMAGES, norm=0, bounds=WIDE)
    with pytest.raises(ValueError, match="`bounds` should be"):
        evaluation.calibrate(network, IMAGES)


def test_a_model_that_no_attack_fools_has_no_factor():
    """Its boundary lies beyond the range of the pixels, where no image goes."""
    far = logits_function(lambda x: linear(x) + [[1e3, 0.0, 0.0]], from_logits=True)
    with pytest.raises(ValueError, match="`images` should be fooled more often. Received: 0 fooled images"):
        evaluation.calibrate(far, IMAGES[:200], bounds=(-5.0, 5.0))
