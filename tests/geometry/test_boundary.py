from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from keras_fim.geometry import boundary_distance, linearize
from keras_fim.logits import logits_function
from tests import oracles

NORMS = (1, 2, np.inf)
DUAL = {1: np.inf, 2: 2, np.inf: 1}


def distances(function, images, **options):
    distance, rival = boundary_distance(linearize(function, tf.constant(images)), **options)
    return distance.numpy(), rival.numpy()


def reference(logits, jacobian, norm, rivals):
    """Straight from the definition, for one image: logits (K,), Jacobian (K, D)."""
    order = np.argsort(-logits)
    y, others = order[0], order[1 : rivals + 1]
    return min((logits[y] - logits[j]) / np.linalg.norm(jacobian[y] - jacobian[j], ord=DUAL[norm]) for j in others)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("classes", [2, 5])
def test_of_a_linear_model_it_is_the_distance_to_the_boundary(classes, norm):
    rng = np.random.default_rng(classes)
    weights, bias, images = rng.normal(size=(7, classes)), rng.normal(size=classes), rng.normal(size=(20, 7))
    distance, rival = distances(lambda x: x @ weights + bias, images, norm=norm, rivals=classes - 1)
    logits = images @ weights + bias
    expected = [reference(row, weights.T, norm, classes - 1) for row in logits]
    np.testing.assert_allclose(distance, expected, rtol=1e-13)
    for x, y, j, length in zip(images, logits.argmax(axis=-1), rival, distance, strict=True):
        slope = weights[:, j] - weights[:, y]
        if norm == 1:
            step = np.where(np.arange(7) == np.abs(slope).argmax(), np.sign(slope), 0.0)
        else:
            step = np.sign(slope) if norm == np.inf else slope / np.linalg.norm(slope)
        after = (x + length * step) @ weights + bias  # on the boundary itself
        assert after[y] == pytest.approx(after[j], abs=1e-12) and after[j] >= after.max() - 1e-12


@pytest.mark.parametrize("norm", NORMS)
def test_of_a_network_it_is_that_of_finite_differences(mlp, points, norm):
    logits_fn = logits_function(mlp)
    distance, _ = distances(logits_fn, points.numpy(), norm=norm, rivals=2)

    def logits(x):
        return logits_fn(x[None]).numpy()[0]

    expected = [reference(logits(x), oracles.jacobian(logits, x), norm, 2) for x in points.numpy()]
    np.testing.assert_allclose(distance, expected, rtol=1e-7)


def test_two_classes_have_one_rival_whatever_was_asked_for():
    distance, rival = distances(lambda x: tf.concat([x, -x], axis=-1), [[3.0], [-1.0]], rivals=9)
    np.testing.assert_array_equal(distance, [3.0, 1.0])
    np.testing.assert_array_equal(rival, [1, 0])


def test_without_a_gradient_it_is_nan_and_never_infinite():
    dead, _ = distances(lambda x: tf.nn.relu(x) @ [[1.0, -1.0]] + [0.0, 5.0], [[-1.0], [2.0]])
    np.testing.assert_array_equal(dead, [np.nan, 0.5])
    tiny, _ = distances(lambda x: x @ [[1e-39, -1e-39]] + [1.0, 0.0], [[1.0]])  # the quotient overflows
    assert np.isnan(tiny).all()
    broken, _ = distances(lambda x: tf.sqrt(x) @ [[1.0, -1.0]] + [0.0, 5.0], [[0.0]])  # an infinite slope
    assert np.isnan(broken).all()


def test_a_rival_without_a_gradient_is_left_out():
    """z_1 differs from z_0 by a constant: no change of the image ever leads there."""
    weights, bias = np.array([[1.0, 1.0, -1.0]]), np.array([0.0, -0.1, 0.0])
    distance, rival = distances(lambda x: x @ weights + bias, [[2.0]])
    assert distance[0] == 2.0 and rival[0] == 2


def test_slopes_whose_squares_underflow():
    distance, _ = distances(lambda x: x @ (1e-25 * np.float32([[3, 0], [4, 0]])), np.float32([[1.0, 0.5]]))
    assert distance[0] == pytest.approx(1.0, rel=1e-6)
