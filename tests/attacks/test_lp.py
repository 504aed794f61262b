from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_fim.attacks import lp

NORMS = [1, 2, np.inf]
DUAL = {1: np.inf, 2: 2, np.inf: 1}


def vectors(seed, batch=4):
    return np.random.default_rng(seed).normal(size=(batch, 3, 2)) * 10.0 ** np.arange(-2, 2)[:, None, None]


@pytest.mark.parametrize("norm", NORMS)
@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), radius=st.floats(0, 50))
def test_projection_is_the_nearest_point_of_the_ball(norm, seed, radius):
    x = vectors(seed)
    inside = lp.project(tf.constant(x), tf.fill([4], tf.constant(radius, tf.float64)), norm).numpy()
    assert (lp.norms(inside, norm) <= radius * (1 + 1e-9) + 1e-12).all()
    # a convex set: the angle between what was cut off and any way inside is obtuse
    others = np.random.default_rng(seed + 1).normal(size=(20, 4, 3, 2))
    for other in others:
        other *= radius / np.maximum(lp.norms(other, norm), 1e-12)[:, None, None]
        assert (((x - inside) * (other - inside)).sum(axis=(1, 2)) <= 1e-9 * (1 + np.abs(x).max() * radius)).all()


@pytest.mark.parametrize("norm", NORMS)
def test_steepest_direction_reaches_the_dual_norm(norm):
    g = vectors(0)
    direction = lp.steepest(tf.constant(g), norm).numpy()
    np.testing.assert_allclose(lp.norms(direction, norm), 1)
    np.testing.assert_allclose((direction * g).sum(axis=(1, 2)), lp.norms(g, DUAL[norm]))
    np.testing.assert_array_equal(lp.steepest(tf.zeros((2, 3)), norm), 0)


def test_sparse_steps_share_the_length():
    g = tf.constant([[4.0, -3.0, 2.0, 1.0]])
    np.testing.assert_allclose(lp.steepest(g, 1, sparsity=0.5), [[0.5, -0.5, 0, 0]])


@pytest.mark.parametrize("norm", NORMS)
def test_random_points_fill_the_ball(norm):
    n, size = 20_000, 3
    points = lp.random_in_ball(tf.zeros((n, size)), tf.fill([n], 2.0), norm, tf.constant([1, 2])).numpy()
    lengths = lp.norms(points, norm) / 2
    assert lengths.max() <= 1 + 1e-6
    np.testing.assert_allclose(points.mean(axis=0), 0, atol=0.05)
    # uniform in the ball: the share within radius r is r ** size
    np.testing.assert_allclose([(lengths <= r).mean() for r in (0.5, 0.8)], [0.5**size, 0.8**size], atol=0.01)


def test_only_known_norms():
    with pytest.raises(ValueError, match=r"`norm` should be one of 1, 2, np.inf. Received: norm=3"):
        lp.check_norm(3)
