"""Training on noisy images."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import kstest

from keras_fim import data, defenses
from keras_fim.training.defending import check_defense, default_options

IMAGES = np.full((64, 10, 10, 1), 0.9, "float32")


def classifier():
    return keras.Sequential([keras.Input((10, 10, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])


def test_the_noise_is_gaussian_beyond_the_bounds_and_new_in_each_step():
    defense = defenses.GaussianAugmentation(classifier(), 0.25)
    first, second, again = (
        defense.perturb(tf.constant(IMAGES), None, None, tf.constant(seed)).numpy() - IMAGES for seed in (1, 2, 1)
    )
    assert kstest(first.ravel() / 0.25, "norm").pvalue > 1e-3 and first.max() > 0.1
    np.testing.assert_array_equal(first, again)
    for other in (second, first[::-1], first[:, ::-1]):
        assert abs(np.corrcoef(first.ravel(), other.ravel())[0, 1]) < 0.05


def test_it_trains_on_noise_and_logs_the_accuracy_there():
    defense = defenses.GaussianAugmentation(classifier(), 0.25)
    defense.compile("sgd", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    history = defense.fit(IMAGES, np.arange(64) % 3, epochs=1, verbose=0).history
    assert set(history) == {"loss", "noisy_accuracy"}


def test_in_a_training_run_sigma_follows_the_range_of_the_pixels():
    facts = data.info("mnist")
    check_defense("gaussian", {"sigma": 0.5})
    assert default_options("gaussian", facts, {}, (0, 255)) == {"sigma": 0.25 * 255}
    assert default_options("gaussian", facts, {"sigma": 0.5}) == {"sigma": 0.5}


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("inf"), float("nan")])
def test_bad_input(sigma):
    with pytest.raises(ValueError, match="`sigma` should be a positive number. Received: sigma="):
        defenses.GaussianAugmentation(classifier(), sigma)
