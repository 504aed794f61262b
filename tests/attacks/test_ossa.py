from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_fim import attacks
from keras_fim.logits import logits_function
from tests import oracles

WIDE = (-100.0, 100.0)


@pytest.fixture
def smooth():
    """A smooth float64 classifier of 12 classes, inputs, and what it predicts for them."""
    layers = [
        keras.Input((8,), dtype="float64"),
        keras.layers.Dense(20, activation="tanh", dtype="float64"),
        keras.layers.Dense(12, dtype="float64"),
        keras.layers.Softmax(dtype="float64"),
    ]
    model = keras.Sequential(layers)
    model.set_weights([weight * 1.5 for weight in model.get_weights()])
    images = np.random.default_rng(1).normal(size=(6, 8))
    return model, images, model(images).numpy().argmax(axis=-1)


def loss(model, images, labels):
    return -np.log(model(images).numpy()[np.arange(len(labels)), labels])


@pytest.mark.slow
def test_no_other_direction_has_a_larger_quadratic_form(smooth):
    """Of G_x: the Krylov direction against the gradient, its signs and random directions."""
    model, images, labels = smooth
    result = attacks.OSSA(bounds=WIDE, method="krylov")(model, images, labels, epsilon=0.5)

    def log_p(x):
        return np.log(model(x[None]).numpy()[0])

    rng = np.random.default_rng(0)
    for x, label, step in zip(images, labels, (result.adversarials - images) / 0.5, strict=True):
        fim, gradient = oracles.input_fim(log_p, x), oracles.jacobian(log_p, x)[label]
        others = [np.sign(gradient), gradient, *rng.normal(size=(20, 8))]
        assert all(step @ fim @ step >= (o @ fim @ o) / (o @ o) for o in others)
        assert step @ fim @ step >= np.linalg.eigvalsh(fim)[-1] * 0.99


@pytest.mark.slow
def test_methods_agree_and_details_say_what_they_took(smooth):
    model, images, labels = smooth
    exact = attacks.OSSA(bounds=WIDE, method="exact")(model, images, labels, epsilon=0.1)
    krylov = attacks.OSSA(bounds=WIDE, method="krylov", rtol=1e-5, max_steps=20)(model, images, labels, epsilon=0.1)
    np.testing.assert_allclose(krylov.adversarials, exact.adversarials, atol=1e-5)
    assert not exact.details["num_steps"].any() and (krylov.details["num_steps"] >= 1).all()
    assert exact.details["converged"].all() and krylov.details["converged"].all()
    assert (
        not attacks.OSSA(bounds=WIDE, rtol=1e-9, max_steps=1)(model, images, labels, epsilon=0.1)
        .details["converged"]
        .any()
    )


def test_a_saturated_sample_goes_along_the_margin_of_the_two_likeliest_classes():
    weights = tf.constant([[300.0, -300.0, 200.0, -300.0, -500.0], [400.0, -400.0, 100.0, -400.0, -500.0]])
    images = np.array([[0.5, 0.5], [0.0, 0.0]], "float32")
    logits_fn = logits_function(lambda x: x @ weights, from_logits=True)
    result = attacks.OSSA(bounds=(-1, 1), method="krylov")(logits_fn, images, [0, 0], epsilon=0.1)
    assert result.details["saturated"].tolist() == [True, False]
    expected = np.array([100.0, 300.0]) / np.hypot(100, 300)
    np.testing.assert_allclose(result.adversarials[0], images[0] - 0.1 * expected, rtol=1e-5)


@pytest.mark.slow
def test_several_steps_stay_within_budget_and_bounds_and_raise_the_loss(smooth):
    model, images, labels = smooth
    images = np.clip(images, -1, 1)
    one, many = (attacks.OSSA(bounds=(-1, 1), steps=n)(model, images, labels, epsilon=1.5) for n in (1, 6))
    assert (many.distances <= 1.5 + 1e-12).all() and np.abs(many.adversarials).max() <= 1
    assert loss(model, many.adversarials, labels).mean() > loss(model, one.adversarials, labels).mean()
    assert (many.details["num_steps"] >= 6).all()


@pytest.mark.slow
def test_steps_take_the_eigenvector_where_they_stand(smooth):
    """Two steps, by hand: each is one of half the length from the point before."""
    model, images, labels = smooth
    step = attacks.OSSA(bounds=WIDE, method="exact")
    first = step(model, images, labels, epsilon=0.1).adversarials
    second = step(model, first, labels, epsilon=0.1).adversarials
    better = loss(model, second, labels) >= loss(model, first, labels)
    expected = np.where(better[:, None], second, first)
    both = attacks.OSSA(bounds=WIDE, method="exact", steps=2)(model, images, labels, epsilon=0.2)
    np.testing.assert_allclose(both.adversarials, expected, atol=1e-12)


@pytest.mark.slow
def test_two_steps_follow_the_eigenvectors_of_both_points(smooth):
    """Against dense eigenvectors of finite differences: the sides, the lengths, and how the second step goes on."""
    model, images, labels = smooth

    def top(x):
        fim = oracles.input_fim(lambda point: np.log(model(point[None]).numpy()[0]), x)
        return np.linalg.eigh(fim)[1][:, -1]

    result = attacks.TSSA(bounds=WIDE, method="exact")(model, images, labels, epsilon=0.5)
    for x, label, reached in zip(images, labels, result.adversarials, strict=True):
        ends = [x + side * 0.3 * top(x) for side in (1, -1)]
        middle = max(ends, key=lambda end: loss(model, end[None], [label])[0])
        onward = top(middle)
        onward *= np.sign(onward @ (middle - x))
        np.testing.assert_allclose(reached, middle + 0.2 * onward, atol=1e-5)
    assert result.details["converged"].all() and (result.distances <= 0.5 + 1e-9).all()
    inside = attacks.TSSA(bounds=(-1, 1), share=0.3)(model, np.clip(images, -1, 1), labels, epsilon=1.5)
    assert np.abs(inside.adversarials).max() <= 1 and (inside.distances <= 1.5 + 1e-9).all()
    with pytest.raises(ValueError, match=r"`share` should be in \(0, 1\)"):
        attacks.TSSA(share=1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "`steps` should be a positive integer. Received: steps=0"),
        ({"method": "lanczos"}, "`method` should be one of auto, exact, krylov. Received: method='lanczos'"),
        ({"rtol": -1.0}, "`rtol` should be a positive number. Received: rtol=-1.0"),
    ],
    ids=str,
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        attacks.OSSA(**options)
