from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_fim
from keras_fim import evaluation
from keras_fim.logits import logits_function


def line(images):
    """Two classes that part where the first pixel is 0.5; a step in the second pixel has no gradient."""
    return tf.stack([images[:, 0] - 0.5, 0.5 - images[:, 0]], axis=-1)


LINE = logits_function(line, from_logits=True)


def test_radius_rival_and_batches():
    images = np.random.default_rng(0).uniform(size=(23, 3))
    whole = keras_fim.boundary_radius(LINE, images)
    np.testing.assert_allclose(whole.radius, np.abs(images[:, 0] - 0.5), rtol=1e-12)
    np.testing.assert_array_equal(whole.rival, images[:, 0] > 0.5)
    assert whole.defined.all() and whole.radius.dtype == np.float64
    for column, again in zip(whole, keras_fim.boundary_radius(LINE, images, batch_size=5), strict=True):
        np.testing.assert_array_equal(column, again)


def test_one_sigmoid_unit_has_two_classes():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, activation="sigmoid")])
    model.set_weights([np.array([[3.0], [4.0]]), np.array([-2.0])])
    result = keras_fim.boundary_radius(model, [[0.0, 0.0], [1.0, 1.0]])
    np.testing.assert_allclose(result.radius, [2 / 5, 5 / 5], rtol=1e-6)
    np.testing.assert_array_equal(result.rival, [1, 0])


def test_the_range_of_the_pixels_is_that_of_the_spectrum():
    """Behind a rescaling the radius is on the scale of the pixels as they are."""
    inner = [keras.layers.Dense(3)]
    plain = keras.Sequential([keras.Input((4,)), *inner])
    scaled = keras.Sequential([keras.Input((4,)), keras.layers.Rescaling(1 / 255), *inner])
    images = np.random.default_rng(0).uniform(size=(6, 4)).astype("float32")
    small, large = keras_fim.boundary_radius(plain, images), keras_fim.boundary_radius(scaled, 255 * images)
    np.testing.assert_allclose(large.radius, 255 * small.radius, rtol=1e-4)
    with pytest.raises(ValueError, match="within the bounds"):
        keras_fim.boundary_radius(scaled, 999 * images)
    with pytest.raises(ValueError, match="pass bounds="):
        keras_fim.boundary_radius(plain, 255 * images)


def test_it_is_not_the_radius_of_lambda_where_the_model_is_sure():
    """Of a linear margin m x the boundary stays where it is as m grows, while λ vanishes with the confidence."""
    steep = logits_function(lambda x: 20 * line(x), from_logits=True)
    summary = evaluation.spectrum_summary(steep, np.array([[0.9, 0.0]]), quantiles=(0.5,))
    assert summary.values["boundary radius"][0] == pytest.approx(0.4)
    assert np.sqrt(2 * np.log(2) / summary.values["λ_max(G_x)"][0]) > 50 * 0.4


def test_images_without_a_gradient_are_counted_and_flagged():
    def flat_in_places(x):
        return tf.where(x[:, 1:2] > 0.5, tf.zeros_like(line(x)) + [[1.0, 0.0]], line(x))

    model = logits_function(flat_in_places, from_logits=True)
    images = np.random.default_rng(1).uniform(size=(40, 2))
    result = keras_fim.boundary_radius(model, images)
    np.testing.assert_array_equal(result.defined, images[:, 1] <= 0.5)
    np.testing.assert_array_equal(np.isnan(result.radius), ~result.defined)
    summary = evaluation.spectrum_summary(model, images)
    assert summary.num_without_radius == (~result.defined).sum()
    assert summary.quantile("boundary radius", 0.5) in result.radius[result.defined]
    labels = np.argmax(model(tf.constant(images)), axis=-1)
    report = evaluation.evaluate(
        model, (images, labels), attacks=["fgsm"], epsilons=[0.1], bounds=(0, 1), progress=None
    )
    assert f"no boundary radius: at {summary.num_without_radius} of 40 images" in report.verdict


@pytest.mark.parametrize("norm", [2, np.inf])
def test_one_step_more_comes_nearer_to_a_boundary_that_bends(norm):
    """Inside a circle the margin is 36 - |x|², whose square Newton's method reaches along the diagonal."""
    ball = logits_function(lambda x: tf.stack([36 - tf.reduce_sum(x**2, -1), 0 * x[:, 0]], axis=-1), from_logits=True)
    images = np.array([[2.0, 2.0], [3.0, 3.0], [-1.0, 1.0]])
    length, unit = np.linalg.norm(images, axis=-1), 1 if norm == 2 else 2**0.5
    first = length + (36 - length**2) / (2 * length)
    second = first + (36 - first**2) / (2 * first)
    radii = [keras_fim.boundary_radius(ball, images, norm=norm, refine=refine) for refine in (False, True)]
    np.testing.assert_allclose(radii[0].radius, (first - length) / unit, rtol=1e-6)
    np.testing.assert_allclose(radii[1].radius, (second - length) / unit, rtol=1e-6)
    assert (np.abs(second - 6) < 0.7 * np.abs(first - 6)).all() and (radii[1].rival == 1).all()
    straight = np.random.default_rng(0).uniform(size=(5, 3))
    same = keras_fim.boundary_radius(LINE, straight, norm=norm, refine=True).radius
    np.testing.assert_allclose(same, np.abs(straight[:, 0] - 0.5), atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": 1, "refine": True}, "`norm` should be 2 or inf with refine=True. Received: norm=1"),
        ({"norm": 3}, "`norm` should be one of 1, 2, np.inf. Received: norm=3"),
        ({"rivals": 0}, "`rivals` should be a positive integer. Received: rivals=0"),
        ({"batch_size": 0}, "`batch_size` should be a positive integer. Received: batch_size=0"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        keras_fim.boundary_radius(LINE, [[0.1, 0.2]], **options)


def test_a_model_without_a_gradient_is_an_error():
    rounding = logits_function(lambda x: tf.round(line(x)), from_logits=True)
    with pytest.raises(ValueError, match="has no gradient from its logits to its images"):
        keras_fim.boundary_radius(rounding, [[0.1, 0.2]])
