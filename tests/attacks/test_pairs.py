from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from keras_fim.attacks.jsma import best_pairs


def brute_force(a, b, free):
    """The largest product of sums over all pairs, and its pair; (0, None) if there is none."""
    first, second = (np.add.outer(values, values) for values in (a, b))
    products = np.where((first > 0) & (second > 0) & np.logical_and.outer(free, free), first * second, 0)
    np.fill_diagonal(products, 0)
    best = np.unravel_index(products.argmax(), products.shape)
    return (products[best], set(best)) if products[best] > 0 else (0, None)


def check(a, b, free):
    pairs, exists = (tensor.numpy() for tensor in best_pairs(*map(tf.constant, (a, b, free))))
    for row in range(len(a)):
        best, pair = brute_force(a[row], b[row], free[row])
        assert exists[row] == (pair is not None)
        if pair:
            p, q = pairs[row]
            assert p != q and free[row, p] and free[row, q]
            assert (a[row, p] + a[row, q]) * (b[row, p] + b[row, q]) == pytest.approx(best, rel=1e-12)
    return pairs


@pytest.mark.parametrize("size", [1, 2, 3, 16, 17, 300])
@pytest.mark.parametrize("correlation", [-1.0, -0.7, 0.0, 0.9])
def test_the_best_of_all_pairs(size, correlation):
    rng = np.random.default_rng(size)
    a, noise = rng.normal(size=(2, 12, size))
    b = correlation * a + np.sqrt(1 - correlation**2) * noise
    check(a, b, rng.random(a.shape) < 0.8)


def test_the_best_of_all_pairs_where_no_value_is_worse_than_another():
    """Values on a falling line or hyperbola: each is a candidate."""
    a = np.random.default_rng(0).uniform(0.1, 2, (4, 100))
    check(a, np.concatenate([2 - a[:2], 1 / a[2:]]), np.full(a.shape, True))


def test_the_best_of_all_pairs_among_equals():
    a, b = np.random.default_rng(0).integers(-1, 3, (2, 50, 9)).astype(np.float64)
    check(a, b, np.full(a.shape, True))


def test_there_is_no_pair_where_nothing_rises_or_nothing_is_free():
    zeros, ones, free = np.zeros((1, 5)), np.ones((1, 5)), np.full((1, 5), True)
    for a, b, allowed in ((zeros, ones, free), (ones, zeros, free), (ones, ones, ~free), (-ones, -ones, free)):
        assert not best_pairs(*map(tf.constant, (a, b, allowed)))[1].numpy().any()
    one = np.arange(5)[None] == 2
    assert not best_pairs(*map(tf.constant, (ones, ones, one)))[1].numpy().any()


def test_tiny_slopes_do_not_underflow():
    a, b = np.float32([[1e-30, 3e-30, 2e-30]]), np.float32([[1e-30, 1e-30, 1e-30]])
    pairs, exists = best_pairs(tf.constant(a), tf.constant(b), tf.fill([1, 3], True))
    assert exists.numpy().all() and set(pairs.numpy()[0]) == {1, 2}


def test_many_values_fit_into_memory():
    """A table of all pairs would take 160 GB."""
    a, b = np.random.default_rng(0).normal(size=(2, 4, 100_000)).astype("float32")
    a[:, 777], b[:, 777] = 50, -1
    a[:, 99_998], b[:, 99_998] = -1, 50
    pairs, _ = best_pairs(tf.constant(a), tf.constant(b), tf.fill(a.shape, True))
    assert all(set(pair) == {777, 99_998} for pair in pairs.numpy())
