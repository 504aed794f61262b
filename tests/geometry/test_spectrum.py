from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_fim
from keras_fim import geometry
from keras_fim.logits import logits_function
from tests import oracles


def dense_fims(model, points):
    def log_p(x):
        return np.log(model(x[None]).numpy()[0])

    return np.stack([oracles.input_fim(log_p, x) for x in points.numpy()])


def test_factor_squares_to_the_dense_fim(mlp, points):
    factor, logits = geometry.factor(logits_function(mlp), points)
    assert factor.dtype == tf.float64 and logits.shape == (5, 4)
    np.testing.assert_allclose(tf.matmul(factor, factor, transpose_a=True), dense_fims(mlp, points), atol=1e-8)


def test_factor_of_many_classes_takes_the_other_path():
    """Above 64 classes the Jacobian comes from a loop; a linear model's is known."""
    weights = np.random.default_rng(0).normal(size=(3, 70))
    x = tf.constant(np.random.default_rng(1).normal(size=(2, 3)))
    factor, logits = geometry.factor(lambda images: images @ weights, x)
    p = oracles.softmax(logits.numpy())
    expected = np.sqrt(p)[..., None] * (weights.T[None] - (p @ weights.T)[:, None])
    np.testing.assert_allclose(factor, expected, atol=1e-12)


def test_exact_spectrum_is_that_of_the_dense_fim(mlp, points):
    spectrum = geometry.exact_spectrum(logits_function(mlp), points, k=3)
    values, vectors = np.linalg.eigh(dense_fims(mlp, points))
    np.testing.assert_allclose(spectrum.eigenvalues, values[:, ::-1][:, :3], rtol=1e-5, atol=1e-10)
    cosines = np.einsum("bkd,bdk->bk", spectrum.directions.numpy(), vectors[:, :, ::-1][:, :, :3])
    np.testing.assert_allclose(np.abs(cosines), 1, atol=1e-6)
    assert spectrum.converged.numpy().all()


def test_rank_is_at_most_one_less_than_the_classes(mlp, points):
    spectrum = geometry.exact_spectrum(logits_function(mlp), points, k=4)
    np.testing.assert_array_equal(spectrum.eigenvalues[:, 3], 0)
    np.testing.assert_array_equal(spectrum.directions[:, 3], 0)


def test_kl_divergence_along_the_top_eigenvector_is_half_epsilon_squared_lambda(mlp, points):
    logits_fn = logits_function(mlp)
    spectrum = geometry.exact_spectrum(logits_fn, points)
    for epsilon, tolerance in ((1e-2, 1e-1), (1e-4, 1e-3)):
        moved = logits_fn(points + epsilon * spectrum.directions[:, 0])
        kl = geometry.kl_divergence(logits_fn(points), moved)
        np.testing.assert_allclose(kl / (0.5 * epsilon**2 * spectrum.eigenvalues[:, 0]), 1, atol=tolerance)


def test_spectrum_survives_near_saturation():
    """p = 1 - 1e-11: eigenvalue 2e-11 of the two-class model ``z = ±a x``, in float32."""
    weights = tf.constant([[12.5, -12.5]])
    spectrum = geometry.exact_spectrum(lambda x: x @ weights, tf.ones((1, 1)))
    p = 1 / (1 + np.exp(25.0))
    np.testing.assert_allclose(spectrum.eigenvalues, [[p * (1 - p) * 625]], rtol=1e-4)
    np.testing.assert_allclose(np.abs(spectrum.directions), [[[1.0]]], rtol=1e-6)


def test_saturated_and_constant_models_have_a_zero_spectrum():
    saturated = geometry.exact_spectrum(lambda x: x @ tf.constant([[200.0, -200.0]]), tf.ones((1, 1)))
    constant = geometry.exact_spectrum(lambda x: x @ tf.zeros((4, 3)), tf.ones((2, 4)))
    for spectrum in (saturated, constant):
        assert not spectrum.eigenvalues.numpy().any() and not spectrum.directions.numpy().any()


@pytest.mark.slow
def test_fisher_spectrum_of_a_softmax_model_is_that_of_its_logits():
    images = np.random.default_rng(0).uniform(size=(7, 28, 28, 1))
    model = keras_fim.models.convnet(filters=(4, 4))
    bare = keras.Model(model.inputs, model.get_layer("logits").output)
    with_softmax = keras_fim.fisher_spectrum(model, images, k=2, batch_size=3)
    without = keras_fim.fisher_spectrum(bare, images, k=2)
    np.testing.assert_allclose(with_softmax.eigenvalues, without.eigenvalues, rtol=1e-4)
    assert with_softmax.directions.shape == (7, 2, 28, 28, 1)


@pytest.mark.parametrize("k", [0, 5])
def test_k_out_of_range(mlp, points, k):
    with pytest.raises(ValueError, match=f"`k` should be from 1 to the number of classes, 4. Received: k={k}"):
        keras_fim.fisher_spectrum(mlp, points, k=k)
