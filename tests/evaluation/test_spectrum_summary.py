from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_fim import evaluation
from keras_fim.evaluation.spectrum import information
from keras_fim.logits import logits_function
from tests import oracles


def test_quantiles_are_those_of_the_dense_matrices(mlp, points):
    summary = evaluation.spectrum_summary(mlp, points, quantiles=(0.2, 0.6, 1.0))

    def log_p(x):
        return np.log(mlp(x[None]).numpy()[0])

    dense = [np.linalg.eigvalsh(oracles.input_fim(log_p, x)) for x in points.numpy()]
    p = mlp(points).numpy()
    expected = {
        "λ_max(G_x)": [values[-1] for values in dense],
        "tr G_x": [values.sum() for values in dense],
        "λ_max(G_s)": 1 / p.min(axis=-1),
        "λ_max(G_z)": [np.linalg.eigvalsh(np.diag(row) - np.outer(row, row))[-1] for row in p],
    }
    for quantity, values in expected.items():  # of five values the first, the third and the last
        np.testing.assert_allclose(summary.values[quantity], np.sort(values)[[0, 2, 4]], rtol=1e-5)
    assert summary.num_samples == 5 and summary.quantile("tr G_x", 1.0) == pytest.approx(max(expected["tr G_x"]))


def test_boundary_radius_is_the_distance_to_the_boundary():
    """Of two linear classes with the logit gap g the boundary is at g / ‖w‖, however sure the model is."""
    weights = tf.constant([[3.0], [4.0]])
    model = logits_function(lambda x: tf.concat([x @ weights, -x @ weights], axis=-1), from_logits=True)
    for height in (1e-2, 1.0, 100.0):
        summary = evaluation.spectrum_summary(model, [[3 * height / 25, 4 * height / 25]], quantiles=(0.5,))
        assert summary.values["boundary radius"][0] == pytest.approx(height / 5, rel=1e-5)


def test_without_information_there_is_no_radius():
    model = logits_function(lambda x: tf.stack([0 * x[:, 0], 0 * x[:, 0] + 1], axis=-1), from_logits=True)
    summary = evaluation.spectrum_summary(model, [[0.5, 0.5]])
    assert set(summary.values["λ_max(G_x)"]) == {0.0} and np.isnan(summary.values["boundary radius"]).all()
    assert summary.num_without_radius == summary.num_samples == 1 and "at 1 of 1 images" in summary.flags[0]
    confident = logits_function(lambda x: tf.stack([0 * x[:, 0], x[:, 0] + 300], axis=-1), from_logits=True)
    assert np.isfinite(evaluation.spectrum_summary(confident, [[0.5, 0.5]]).values["λ_max(G_s)"]).all()


def test_summary_is_saved_and_loaded(mlp, points, tmp_path):
    summary = evaluation.spectrum_summary(mlp, points)
    assert type(summary).load(summary.save(tmp_path / "spectrum.json")) == summary
    with pytest.raises(ValueError, match=r"`quantiles` should be numbers in \[0, 1\]"):
        evaluation.spectrum_summary(mlp, points, quantiles=(1.5,))


def wide_network(classes=80, pixels=12):
    rng = np.random.default_rng(3)
    first, second = tf.constant(rng.normal(size=(pixels, 20)) / 3), tf.constant(rng.normal(size=(20, classes)))
    return logits_function(lambda x: tf.tanh(x @ first) @ second, from_logits=True), rng.normal(size=(24, pixels))


@pytest.mark.slow
def test_of_many_classes_one_krylov_step_and_a_few_probes_are_near_the_dense_matrices():
    model, points = wide_network()
    summary = information(model, tf.constant(points), max_steps=10)

    def log_p(x):
        logits = model(tf.constant(x[None])).numpy()[0]
        return logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()

    dense = [np.linalg.eigvalsh(oracles.input_fim(log_p, x)) for x in points]
    largest, trace = (np.array([f(values) for values in dense]) for f in (np.max, np.sum))
    np.testing.assert_allclose(summary["λ_max(G_x)"], largest, rtol=0.02)
    one_step = information(model, tf.constant(points))["λ_max(G_x)"]
    assert (one_step <= summary["λ_max(G_x)"] * (1 + 1e-9)).all() and np.median(one_step / largest) > 0.95
    assert (summary["tr G_x"] >= summary["λ_max(G_x)"]).all()
    ratio = summary["tr G_x"] / trace
    assert abs(np.mean(ratio) - 1) < 0.05 and np.abs(ratio - 1).max() < 0.4  # √(2 / 8) of what is beyond the first
    alone = information(model, tf.constant(points[5:6]), max_steps=10)
    for key, values in alone.items():
        np.testing.assert_allclose(values, summary[key][5:6], rtol=1e-6)


def test_a_trace_of_rank_one_is_exact_from_any_probes():
    weights = tf.constant(np.random.default_rng(1).normal(size=(1, 70)))
    model = logits_function(lambda x: tf.reduce_sum(x, axis=-1, keepdims=True) @ weights, from_logits=True)
    summary = information(model, tf.constant(np.random.default_rng(2).normal(size=(5, 6))))
    np.testing.assert_allclose(summary["tr G_x"], summary["λ_max(G_x)"], rtol=1e-6)


def test_probes_of_a_convolutional_network_in_batches(monkeypatch):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.MaxPooling2D(), keras.layers.Flatten()]
    model = keras.Sequential([keras.Input((9, 9, 1)), *layers, keras.layers.Dense(65, activation="softmax")])
    model.layers[-1].set_weights([8 * weight for weight in model.layers[-1].get_weights()])  # sure, as a trained model
    images = np.random.default_rng(0).uniform(size=(7, 9, 9, 1)).astype("float32")
    whole = information(logits_function(model), images)
    monkeypatch.setattr("keras_fim.evaluation.measurement.fits_memory", lambda shape, **options: 3)
    for key, values in information(logits_function(model), images).items():
        np.testing.assert_allclose(values, whole[key], rtol=1e-4)
    monkeypatch.setattr("keras_fim.evaluation.spectrum.EXACT_CLASSES", 65)
    exact = information(logits_function(model), images)
    ratio = whole["λ_max(G_x)"] / exact["λ_max(G_x)"]
    assert (ratio <= 1 + 1e-4).all() and (ratio > 0.6).all() and np.median(ratio) > 0.85
    np.testing.assert_allclose(whole["tr G_x"], exact["tr G_x"], rtol=0.4)


def test_without_probes_the_summary_has_no_trace():
    model, points = wide_network()
    columns = information(model, tf.constant(points), probes=0)
    whole = information(model, tf.constant(points))
    assert np.isnan(columns["tr G_x"]).all()
    for key in set(columns) - {"tr G_x"}:
        np.testing.assert_allclose(columns[key], whole[key], rtol=1e-9)
    labels = model(tf.constant(points)).numpy().argmax(axis=-1)
    options = {"attacks": ["fgsm"], "epsilons": [0.1], "bounds": (points.min(), points.max()), "progress": None}
    report = evaluation.evaluate(model, (points, labels), **options)
    assert list(report.spectrum.values) == ["λ_max(G_x)", "λ_max(G_s)", "λ_max(G_z)", "boundary radius"]
    assert report.spectrum.quantile("λ_max(G_x)", 0.5) == np.sort(whole["λ_max(G_x)"])[11]
    assert "nan" not in str(report)
