from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import keras_fim
from keras_fim.geometry import penalized_cross_entropy
from keras_fim.losses import FisherEigenvalueLoss, FisherTraceLoss
from tests import oracles

LOSSES = [FisherTraceLoss, FisherEigenvalueLoss]
LOGITS = np.random.default_rng(0).normal(scale=1.5, size=(6, 5))
LABELS = np.array([0, 1, 2, 3, 4, 0])
ONE_HOT = np.eye(5)[LABELS]


def definition(loss, logits, labels, mu):
    """Eq. (4) or eq. (3), from probabilities."""
    p = oracles.softmax(np.asarray(logits, np.float64))
    inverse = 1 / p
    penalty = inverse.sum(axis=-1) if loss is FisherTraceLoss else inverse.max(axis=-1)
    return -np.log(p[np.arange(len(p)), labels]) + mu * penalty


def gradient(function, logits):
    logits = tf.convert_to_tensor(logits)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = function(logits)
    return tape.gradient(value, logits).numpy()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("mu", [0.0, 0.02, 1.0])
@pytest.mark.parametrize("from_logits", [True, False])
def test_value_is_the_papers_equation(loss, mu, from_logits):
    predictions = LOGITS if from_logits else oracles.softmax(LOGITS)
    values = loss(mu, from_logits=from_logits, reduction=None)(LABELS, predictions)
    np.testing.assert_allclose(values, definition(loss, LOGITS, LABELS, mu), rtol=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_one_hot_and_integer_labels_agree(loss):
    integers = loss(0.1, from_logits=True)(LABELS, LOGITS)
    for labels in (ONE_HOT, LABELS[:, None], LABELS.astype(np.float32)):
        np.testing.assert_array_equal(loss(0.1, from_logits=True)(labels, LOGITS), integers)


def test_label_smoothing_mixes_labels_with_the_uniform_distribution():
    smoothed = FisherTraceLoss(0.1, from_logits=True, label_smoothing=0.3)(LABELS, LOGITS)
    by_hand = FisherTraceLoss(0.1, from_logits=True)(ONE_HOT * 0.7 + 0.3 / 5, LOGITS)
    np.testing.assert_allclose(smoothed, by_hand, rtol=1e-6)


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean", "sum", "mean_with_sample_weight", "none", None])
@pytest.mark.parametrize("weighted", [False, True])
def test_reductions_are_those_of_keras(reduction, weighted):
    """At μ = 0 without a limit the loss is Keras' cross-entropy, under every reduction, with weights and masks."""
    weights = np.linspace(0.0, 2.0, 6) if weighted else None
    own = FisherTraceLoss(0.0, from_logits=True, reduction=reduction)
    theirs = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
    predictions = tf.constant(LOGITS, tf.float32)
    for mask in (None, tf.constant([True, True, False, True, False, True])):
        if mask is not None:
            predictions = tf.identity(predictions)
            predictions._keras_mask = mask
        expected = theirs(LABELS, predictions, sample_weight=weights)
        np.testing.assert_allclose(own(LABELS, predictions, sample_weight=weights), expected, rtol=1e-5)


def test_mask_survives_behind_a_softmax():
    predictions = keras.activations.softmax(tf.constant(LOGITS, tf.float32))
    predictions._keras_mask = tf.constant([True, False, False, False, False, False])
    expected = definition(FisherTraceLoss, LOGITS, LABELS, 0.02)[0]
    np.testing.assert_allclose(FisherTraceLoss(0.02)(LABELS, predictions), expected, rtol=1e-5)


def test_predictions_of_a_sequence_have_a_loss_per_position():
    logits = np.random.default_rng(2).normal(size=(2, 3, 5))
    labels = np.array([[0, 1, 2], [3, 4, 0]])
    values = FisherTraceLoss(0.02, from_logits=True, reduction=None)(labels, logits)
    expected = definition(FisherTraceLoss, logits.reshape(6, 5), labels.ravel(), 0.02).reshape(2, 3)
    np.testing.assert_allclose(values, expected, rtol=1e-5)


@pytest.mark.parametrize("penalty", ["trace", "eigenvalue"])
def test_plain_gradient_agrees_with_finite_differences(penalty):
    def value(logits):
        targets = tf.constant(ONE_HOT)
        return tf.reduce_sum(penalized_cross_entropy(targets, logits, 0.3, penalty=penalty, gradient_limit=None))

    numeric = oracles.jacobian(lambda z: value(tf.constant(z)).numpy()[None], LOGITS, step=1e-6)[0]
    np.testing.assert_allclose(gradient(value, LOGITS).ravel(), numeric, rtol=1e-5, atol=1e-6)


def test_gradient_of_the_trace_is_the_closed_form():
    """``p_j Σ 1/p_i - 1/p_j`` (DESIGN: eq. 4)."""
    zeros = tf.zeros((6, 5), tf.float64)
    computed = gradient(lambda z: penalized_cross_entropy(zeros, z, 1.0, gradient_limit=None), LOGITS)
    p = oracles.softmax(LOGITS)
    np.testing.assert_allclose(computed, p * (1 / p).sum(axis=-1, keepdims=True) - 1 / p, rtol=1e-9)


@pytest.mark.parametrize("penalty", ["trace", "eigenvalue"])
@pytest.mark.parametrize("limit", [0.5, 1.0, 1e9])
def test_limited_gradient_has_the_same_direction_and_at_most_the_limit(penalty, limit):
    logits = LOGITS * np.array([0.1, 1, 2, 4, 8, 16])[:, None] / 4

    def gradients(gradient_limit):
        def value(z):
            return penalized_cross_entropy(tf.constant(ONE_HOT), z, 0.1, penalty=penalty, gradient_limit=gradient_limit)

        return gradient(value, logits)

    plain, limited = gradients(None), gradients(limit)
    norms = np.linalg.norm(plain, axis=-1)
    np.testing.assert_allclose(limited, plain * np.minimum(1, limit / norms)[:, None], rtol=1e-7)
    assert norms.max() > 1.0  # some sample is limited, or the test shows nothing


def test_limit_applies_before_weights_and_reduction():
    weights = np.array([1.0, 2.0, 0.0, 1.0, 1.0, 3.0])
    loss = FisherTraceLoss(5.0, from_logits=True, gradient_limit=0.25)
    gradients = gradient(lambda z: loss(LABELS, z, sample_weight=weights), LOGITS.astype(np.float32))
    np.testing.assert_allclose(np.linalg.norm(gradients, axis=-1), 0.25 * weights / 6, rtol=1e-5)


def test_limit_does_not_change_the_value():
    values = [FisherTraceLoss(0.1, from_logits=True, gradient_limit=g)(LABELS, LOGITS) for g in (None, 0.01)]
    np.testing.assert_array_equal(values[0], values[1])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("limit", [None, 1.0])
@pytest.mark.parametrize("softmax", [None, keras.activations.softmax])
@pytest.mark.parametrize("gap", [10.0, 13.0, 14.5, 50.0, 88.0, 100.0, 1e3, 1e4, 1e25])
def test_finite_up_to_enormous_logit_gaps(loss, limit, softmax, gap):
    """Right or wrong with any confidence: a finite loss, and a gradient that pushes the smallest logit up."""
    function = loss(0.02, from_logits=softmax is None, gradient_limit=limit)
    logits = tf.constant([[gap, 0.0, gap / 2]])
    for label in (0, 1):

        def value(z, y=label):
            return function([y], softmax(z) if softmax else z)

        assert np.isfinite(value(logits).numpy())
        gradients = gradient(value, logits)[0]
        assert np.isfinite(gradients).all()
        assert gradients[1] < -1e-3


def test_value_is_exact_up_to_the_cap_and_linear_beyond():
    def trace(gap):
        zeros = tf.zeros((1, 2), tf.float64)
        return float(penalized_cross_entropy(zeros, tf.constant([[gap, 0.0]], tf.float64), 1.0)[0])

    below = np.log(1e6 - 1)  # 1/p = 1e6 there
    assert trace(below) == pytest.approx(1e6 + 1 / (1 - 1e-6), rel=1e-9)
    assert trace(below - 3) == pytest.approx(2 + np.exp(below - 3) + np.exp(3 - below), rel=1e-12)
    assert trace(below + 7) - trace(below) == pytest.approx(7e6, rel=1e-3)


@settings(deadline=None, max_examples=40)
@given(arrays(np.float32, (3, 4), elements=st.floats(-1e4, 1e4, width=32)))
def test_loss_is_finite_and_at_least_mu_k_squared(logits):
    values = FisherTraceLoss(0.5, from_logits=True, reduction=None)([0, 1, 2], logits).numpy()
    assert np.isfinite(values).all() and (values >= 0.5 * 16 * (1 - 1e-5)).all()


def softmax_model(policy="float32"):
    layers = [keras.Input((3,)), keras.layers.Dense(4, dtype=policy), keras.layers.Softmax(dtype=policy)]
    model = keras.Sequential(layers)
    model.set_weights([np.array([[4e3, 0, 1, -4e3]] * 3), np.zeros(4)])
    return model


@pytest.mark.slow
@pytest.mark.parametrize("run_eagerly", [True, False])
@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_gradient_reaches_the_weights_of_a_saturated_softmax_model(policy, run_eagerly):
    """Probabilities underflow to 0 there: only the logits behind the softmax, found in any policy, have a gradient."""
    model = softmax_model(policy)
    before = [w.copy() for w in model.get_weights()]
    model.compile(keras.optimizers.SGD(1.0), loss=FisherTraceLoss(0.02), run_eagerly=run_eagerly)
    history = model.fit(np.ones((2, 3), "float32"), np.array([0, 1]), verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert all(np.isfinite(w).all() for w in model.get_weights())
    assert np.abs(model.get_weights()[1] - before[1]).max() > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [True, False])
def test_softmax_model_trains_like_the_same_model_on_logits(jit_compile):
    images, labels = np.random.default_rng(0).normal(size=(64, 3)).astype("float32"), np.arange(64) % 4
    weights = []
    for softmax in (True, False):
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
        if softmax:
            model.add(keras.layers.Softmax())
        model.compile("adam", loss=FisherTraceLoss(0.02, from_logits=not softmax), jit_compile=jit_compile)
        model.fit(images, labels, batch_size=16, epochs=2, shuffle=False, verbose=0)
        weights.append(model.get_weights())
    for own, theirs in zip(*weights, strict=True):
        np.testing.assert_allclose(own, theirs, atol=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_config_round_trip(loss):
    original = loss(0.3, True, 0.1, None, "sum", "mine")
    copy = keras.losses.deserialize(keras.losses.serialize(original))
    assert type(copy) is loss and copy.get_config() == original.get_config() and repr(copy) == repr(original)
    assert copy.get_config()["mu"] == 0.3
    np.testing.assert_array_equal(copy(LABELS, LOGITS), original(LABELS, LOGITS))


def test_saved_model_goes_on_training_with_the_same_loss(tmp_path):
    images, labels = np.random.default_rng(0).normal(size=(32, 3)).astype("float32"), np.arange(32) % 4
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, activation="softmax")])
    model.compile("adam", loss=FisherTraceLoss(0.05, gradient_limit=0.5), metrics=["accuracy"])
    model.fit(images, labels, epochs=2, verbose=0)
    model.loss.mu.assign(0.5)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.loss.get_config() == model.loss.get_config()
    histories = [m.fit(images, labels, epochs=2, shuffle=False, verbose=0).history["loss"] for m in (model, loaded)]
    np.testing.assert_allclose(histories[0], histories[1], rtol=1e-6)


def test_mu_may_be_a_variable_that_others_change():
    mu = keras.Variable(0.0, trainable=False)
    loss = FisherTraceLoss(mu, from_logits=True)
    compiled = tf.function(lambda: loss(LABELS, LOGITS))
    plain = compiled().numpy()
    mu.assign(0.1)
    np.testing.assert_allclose(compiled() - plain, 0.1 * (1 / oracles.softmax(LOGITS)).sum(axis=-1).mean(), rtol=1e-4)


def test_the_front_door_defaults():
    loss = keras_fim.FisherTraceLoss()
    assert repr(loss).startswith("FisherTraceLoss(name='fisher_trace_loss', reduction='sum_over_batch_size', mu=0.02")


def test_sigmoid_outputs_are_not_taken_for_a_softmax():
    """Keras keeps the logits behind a sigmoid as well."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, activation="sigmoid")])
    model.compile("sgd", loss=FisherTraceLoss(0.02))
    with pytest.raises(Exception, match="should hold probabilities"):
        model.fit(np.ones((2, 3), "float32"), np.array([0, 1]), verbose=0)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("shape", [(6,), (6, 1)])
def test_one_sigmoid_unit_is_two_classes(loss, shape):
    logit = LOGITS[:, :1].astype("float32")
    labels = (LABELS % 2).reshape(shape)
    expected = definition(loss, np.concatenate([0 * logit, logit], axis=-1), LABELS % 2, 0.1)
    behind = keras.activations.sigmoid(tf.constant(logit))
    for predictions, options in ((logit, {"from_logits": True}), (behind, {}), (behind.numpy(), {})):
        values = loss(0.1, reduction=None, **options)(labels, predictions)
        np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_one_sigmoid_unit_trains_as_with_keras():
    """At μ = 0 without a limit, with smoothed labels."""
    trained = []
    for loss in (
        FisherTraceLoss(0.0, label_smoothing=0.2, gradient_limit=None),
        keras.losses.BinaryCrossentropy(label_smoothing=0.2),
    ):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1, activation="sigmoid")])
        model.compile("sgd", loss=loss)
        model.fit(LOGITS, LABELS % 2, epochs=3, verbose=0)
        trained.append(model.get_weights()[0])
    np.testing.assert_allclose(trained[0], trained[1], rtol=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_nan_in_rows_of_targets_is_a_nan_loss(loss):
    rows = np.where(np.arange(6)[:, None] == 2, np.nan, ONE_HOT)
    values = loss(0.0, from_logits=True, reduction=None)(rows, LOGITS)
    np.testing.assert_array_equal(np.isnan(values), np.arange(6) == 2)
