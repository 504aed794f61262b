from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_fim.attacks import draws, lp

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
def test_a_step_reaches_the_dual_norm(norm):
    g = vectors(0)
    moved = lp.step(tf.constant(0 * g + 0.5), tf.constant(g), tf.fill([4], tf.constant(0.1, tf.float64)), norm) - 0.5
    moved = moved.numpy()
    np.testing.assert_allclose(lp.norms(moved, norm), 0.1)
    np.testing.assert_allclose((moved * g).sum(axis=(1, 2)), 0.1 * lp.norms(g, DUAL[norm]))
    np.testing.assert_array_equal(lp.step(tf.ones((2, 3)), tf.zeros((2, 3)), tf.ones(2), norm), 1)


def test_sparse_steps_share_the_length_and_go_on_where_there_is_no_room():
    g, x = tf.constant([[4.0, -3.0, 2.0, 1.0]]), tf.constant([[0.5, 0.5, 0.5, 0.5], [0.9, 0.5, 0.5, 0.5]])
    moves = lp.step(x, tf.repeat(g, 2, axis=0), tf.constant([0.4, 0.4]), 1, sparsity=0.5) - x
    np.testing.assert_allclose(moves, [[0.2, -0.2, 0, 0], [0.1, -0.2, 0.1, 0]], atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("norm", NORMS)
def test_projection_onto_ball_and_cube_is_the_nearest_point_of_both(norm, dtype):
    """Both are convex: what was cut off makes an obtuse angle with every way to another of their points."""
    rng = np.random.default_rng(0)
    origin = rng.beta(0.4, 0.4, size=(60, 20)).round(3).astype(dtype)
    origin[::3] = origin[::3].round()
    points = (origin + rng.normal(size=origin.shape) * rng.choice([0.01, 0.3, 5], size=(60, 1))).astype(dtype)
    epsilon = rng.choice([0, 0.1, 1.5, 100], size=60).astype(dtype)
    inside = lp.project_inside(tf.constant(points), tf.constant(origin), tf.constant(epsilon), norm).numpy()
    slack = 1e-5 if dtype == "float32" else 1e-12
    assert inside.min() >= 0 and inside.max() <= 1 and (lp.norms(inside - origin, norm) <= epsilon + slack).all()
    for _ in range(50):
        other = np.clip(origin + rng.normal(size=origin.shape) * rng.choice([0.01, 0.3, 5], size=(60, 1)), 0, 1)
        shift = other - origin
        other = origin + shift * np.minimum(1, epsilon / np.maximum(lp.norms(shift, norm), 1e-12))[:, None]
        angle = ((points - inside).astype("float64") * (other - inside)).sum(axis=1)
        assert (angle <= slack * (1 + np.abs(points).max()) * 20).all()


@pytest.mark.parametrize("norm", NORMS)
def test_random_points_fill_the_ball(norm):
    n, size = 20_000, 3
    points = lp.random_in_ball(tf.zeros((n, size)), tf.fill([n], 2.0), norm, draws.keys_of(1, tf.range(n))).numpy()
    lengths = lp.norms(points, norm) / 2
    assert lengths.max() <= 1 + 1e-6
    np.testing.assert_allclose(points.mean(axis=0), 0, atol=0.05)
    # uniform in the ball: the share within radius r is r ** size
    np.testing.assert_allclose([(lengths <= r).mean() for r in (0.5, 0.8)], [0.5**size, 0.8**size], atol=0.01)


def test_only_known_norms():
    with pytest.raises(ValueError, match=r"`norm` should be one of 1, 2, np.inf. Received: norm=3"):
        lp.check_norm(3)
