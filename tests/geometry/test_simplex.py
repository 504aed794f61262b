from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from keras_fim import geometry
from tests import oracles

LOGITS = np.random.default_rng(0).normal(scale=2, size=(6, 5))


@pytest.mark.parametrize("row", LOGITS)
def test_trace_and_largest_eigenvalue_are_those_of_the_dense_matrix(row):
    dense = oracles.simplex_fim(oracles.softmax(row))
    np.testing.assert_allclose(geometry.simplex_fim_trace(tf.constant(row)), np.trace(dense), rtol=1e-12)
    largest = geometry.simplex_fim_largest_eigenvalue(tf.constant(row))
    np.testing.assert_allclose(largest, np.linalg.eigvalsh(dense)[-1], rtol=1e-12)


@pytest.mark.parametrize("row", LOGITS)
def test_logit_fim_is_the_dense_matrix(row):
    dense = oracles.logit_fim(oracles.softmax(row))
    np.testing.assert_allclose(geometry.logit_fim(tf.constant(row)), dense, atol=1e-14)
    largest = geometry.logit_fim_largest_eigenvalue(tf.constant(row))
    np.testing.assert_allclose(largest, np.linalg.eigvalsh(dense)[-1], rtol=1e-12)


@settings(deadline=None, max_examples=50)
@given(arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(2, 9)), elements=st.floats(-20, 20)))
def test_trace_obeys_its_bounds(logits):
    num_classes = logits.shape[-1]
    trace = geometry.simplex_fim_trace(tf.constant(logits)).numpy()
    largest = geometry.simplex_fim_largest_eigenvalue(tf.constant(logits)).numpy()
    assert (trace >= num_classes**2 * (1 - 1e-12)).all()  # arithmetic and harmonic mean
    assert (largest <= trace).all() and (trace <= num_classes * largest * (1 + 1e-12)).all()
    assert (geometry.logit_fim_largest_eigenvalue(tf.constant(logits)).numpy() <= 0.5 + 1e-12).all()


def test_kl_divergence_is_the_sum_over_classes():
    p, q = oracles.softmax(LOGITS), oracles.softmax(LOGITS[::-1])
    expected = (p * np.log(p / q)).sum(axis=-1)
    np.testing.assert_allclose(geometry.kl_divergence(LOGITS, LOGITS[::-1].copy()), expected, rtol=1e-12)


@pytest.mark.parametrize("num_classes", [2, 3, 10, 43, 1000])
@pytest.mark.parametrize("alpha", [0.01, 0.3, 0.765, 0.99])
def test_mu_and_label_smoothing_are_inverse(alpha, num_classes):
    mu = geometry.mu_from_label_smoothing(alpha, num_classes)
    assert geometry.label_smoothing_from_mu(mu, num_classes) == pytest.approx(alpha, rel=1e-9)


@pytest.mark.parametrize(("mu", "num_classes"), [(0.02, 10), (0.00126, 43), (0.5, 3)])
def test_label_smoothing_from_mu_minimizes_eq_4_on_a_sample(mu, num_classes):
    """Compares with a fine grid over the probability of the other classes."""
    q = np.linspace(1e-5, 1 / num_classes, 400_001)
    t = 1 - (num_classes - 1) * q
    best = q[np.argmin(-np.log(t) + mu * (1 / t + (num_classes - 1) / q))]
    assert geometry.label_smoothing_from_mu(mu, num_classes) == pytest.approx(num_classes * best, abs=1e-4)


def test_figures_of_the_papers_mu():
    assert geometry.label_smoothing_from_mu(0.02, 10) == pytest.approx(0.765, abs=1e-3)
    assert geometry.mu_from_label_smoothing(0.765, 43) == pytest.approx(0.00126, abs=1e-5)
    assert geometry.label_smoothing_from_mu(0.0, 10) == 0.0
    assert geometry.default_mu(10) == 0.02
