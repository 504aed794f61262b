from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_fim.callbacks import FisherSpectrum, fisher
from keras_fim.logits import logits_function
from tests import oracles


def fit(model, patterns, *callbacks, epochs=2):
    return model.fit(*patterns, batch_size=16, epochs=epochs, callbacks=list(callbacks), verbose=0).history


@pytest.mark.slow
def test_figures_are_those_of_dense_matrices(small_model, patterns):
    callback = FisherSpectrum(patterns, max_samples=12)
    history = fit(small_model, patterns, callback)
    images = tf.constant(callback.images)
    logits_fn = logits_function(small_model)
    with tf.GradientTape() as tape:
        tape.watch(images)
        logits = logits_fn(images)
    jacobians = tape.batch_jacobian(logits, images).numpy().reshape(12, 4, 36).astype(float)
    p = oracles.softmax(logits.numpy().astype(float))
    in_logits = np.array([np.diag(row) - np.outer(row, row) for row in p])
    in_input = np.einsum("nkd,nkl,nle->nde", jacobians, in_logits, jacobians)
    expected = {
        "largest_x": np.linalg.eigvalsh(in_input)[:, -1],
        "trace_x": np.trace(in_input, axis1=1, axis2=2),
        "largest_s": 1 / p.min(axis=1),
        "largest_z": np.linalg.eigvalsh(in_logits)[:, -1],
    }
    for key, values in expected.items():
        for share in (0.1, 0.5, 0.9):
            quantile = np.quantile(values, share, method="lower")
            assert history[f"fisher/{key}/q{100 * share:g}"][-1] == pytest.approx(quantile, rel=1e-3)
    assert history["fisher/confidence/mean"][-1] == pytest.approx(p.max(axis=1).mean(), rel=1e-4)
    assert history["fisher_seconds"][-1] > 0


@pytest.mark.slow
def test_event_files_hold_scalars_and_histograms(small_model, patterns, tmp_path, read_events):
    callback = FisherSpectrum(patterns, max_samples=12, log_dir=tmp_path)
    history = fit(small_model, patterns, callback, epochs=3)
    events = read_events(tmp_path / "spectrum")
    for key in ("fisher/largest_x/q50", "fisher/trace_x/q90", "fisher/confidence/mean"):
        written = [float(tf.make_ndarray(event.tensor_proto)) for event in events.Tensors(key)]
        assert written == pytest.approx(history[key], rel=1e-6)
    for key in ("log10_largest_x", "log10_trace_x", "log10_largest_s", "log10_largest_z", "confidence"):
        buckets = tf.make_ndarray(events.Tensors(f"fisher/{key}")[-1].tensor_proto)
        assert buckets[:, 2].sum() == 12
    assert events.SummaryMetadata("fisher/confidence").plugin_data.plugin_name == "histograms"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("medians", "warned"),
    [
        ([(20, 1), (10, 2), (5, 4)], 1),  # and once only
        ([(20, 1), (10, 1.03), (5, 1.02)], 0),  # within the tolerance
        ([(20, 1), (19.2, 1.04), (18.5, 1.08)], 1),  # slowly, since the first
        ([(10, 3), (20, 1), (15, 2)], 1),  # from one to the next
        ([(10, 1), (20, 2), (40, 3)], 0),
        ([(20, 3), (10, 2), (5, 1)], 0),
    ],
)
def test_warns_once_when_one_falls_and_the_other_rises(monkeypatch, medians, warned):
    told = iter(medians)

    def information(logits_fn, images, max_steps):
        largest_s, largest_x = next(told)
        values = (largest_x, largest_x, largest_s, 0.1, 1.0, 0.5)
        names = fisher.spectrum.QUANTITIES
        return {name: np.array([value]) for name, value in zip(names, values, strict=True)}

    monkeypatch.setattr(fisher.spectrum, "information", information)
    callback = FisherSpectrum((np.zeros((2, 3)), [0, 1]))
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, activation="softmax")])
    model.compile("sgd", loss="sparse_categorical_crossentropy")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(model, (np.zeros((4, 3)), np.array([0, 1, 0, 1])), callback, epochs=3)
    messages = [str(warning.message) for warning in caught if "λ_max(G_x) rose" in str(warning.message)]
    assert len(messages) == warned


def test_saturated_samples_give_finite_histograms(patterns, tmp_path, read_events):
    """1/p overflows and λ_max(G_x) underflows."""
    layers = [keras.layers.Flatten(), keras.layers.Dense(4), keras.layers.Softmax()]
    model = keras.Sequential([keras.Input((6, 6, 1)), *layers])
    model.compile("sgd", loss="sparse_categorical_crossentropy")
    model.layers[1].bias.assign([0.0, 0.0, 0.0, 300.0])
    model.optimizer.learning_rate = 0.0
    history = fit(model, patterns, FisherSpectrum(patterns, max_samples=8, log_dir=tmp_path, strict=True), epochs=1)
    assert history["fisher/largest_s/q50"] == [np.inf] and history["fisher/largest_x/q50"] == [0]
    events = read_events(tmp_path / "spectrum")
    for key in ("log10_largest_x", "log10_largest_s"):
        assert np.isfinite(tf.make_ndarray(events.Tensors(f"fisher/{key}")[0].tensor_proto)).all()


@pytest.mark.slow
def test_a_failure_says_so(small_model, patterns):
    callback = FisherSpectrum((np.zeros((4, 3)), [0, 1, 2, 3]))  # images of another shape
    with pytest.warns(RuntimeWarning, match="FisherSpectrum: measuring after epoch 1 failed; training goes on"):
        history = fit(small_model, patterns, callback, epochs=1)
    assert not any(key.startswith("fisher") for key in history)
