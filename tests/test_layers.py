from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_fim
from keras_fim.layers import FisherTraceRegularization


def classifier(regularized):
    keras.utils.set_random_seed(3)
    layers = [keras.Input((3,)), keras.layers.Dense(4)]
    if regularized:
        layers.append(FisherTraceRegularization(0.05, gradient_limit=None))
    return keras.Sequential([*layers, keras.layers.Softmax()])


def test_training_equals_that_with_the_loss():
    """Cross-entropy with the layer is eq. (4) without it."""
    images, labels = np.random.default_rng(0).normal(size=(64, 3)).astype("float32"), np.arange(64) % 4
    ours, theirs = classifier(True), classifier(False)
    ours.compile("sgd", loss="sparse_categorical_crossentropy")
    theirs.compile("sgd", loss=keras_fim.FisherTraceLoss(0.05, gradient_limit=None))
    losses = [m.fit(images, labels, batch_size=16, epochs=3, shuffle=False, verbose=0).history for m in (ours, theirs)]
    np.testing.assert_allclose(losses[0]["loss"], losses[1]["loss"], rtol=1e-5)
    for mine, its in zip(ours.layers[0].get_weights(), theirs.layers[0].get_weights(), strict=True):
        np.testing.assert_allclose(mine, its, atol=1e-5)


def test_logits_pass_unchanged_and_stay_visible_behind_the_softmax():
    model, plain = classifier(True), classifier(False)
    x = np.random.default_rng(0).normal(size=(2, 3)).astype("float32")
    np.testing.assert_array_equal(model(x), plain(x))
    assert keras_fim.logits.logits_function(model).form == "softmax"


def test_save_load_and_go_on(tmp_path):
    model = classifier(True)
    model.compile("adam", loss="sparse_categorical_crossentropy")
    images, labels = np.random.default_rng(0).normal(size=(8, 3)).astype("float32"), np.arange(8) % 4
    model.fit(images, labels, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.layers[1].get_config() == model.layers[1].get_config()
    losses = [m.fit(images, labels, shuffle=False, verbose=0).history["loss"] for m in (model, loaded)]
    assert losses[0] == pytest.approx(losses[1])


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_logits_and_mu_stay_float32_under_a_mixed_policy(policy):
    keras.mixed_precision.set_global_policy(policy)
    layer = FisherTraceRegularization(1e-8)
    logits = tf.constant([[1e5, 0.0]])
    assert layer(logits).dtype == tf.float32 and layer(logits).numpy()[0, 0] == 1e5
    assert float(layer.losses[0]) == pytest.approx(1e-8 * 1e6 * (1 + 1e5 - np.log(1e6)), rel=1e-5)


def test_masked_positions_do_not_count():
    logits = tf.constant([[[0.0, 0.0], [3.0, 0.0]]])
    layer = FisherTraceRegularization(0.5)
    layer(logits, mask=tf.constant([[True, False]]))
    assert float(layer.losses[0]) == pytest.approx(2.0)


def test_gradient_is_limited():
    layer, logits = FisherTraceRegularization(1.0), tf.constant([[20.0, 0.0]])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        layer(logits)
        value = sum(layer.losses)
    assert np.linalg.norm(tape.gradient(value, logits)) == pytest.approx(1.0, rel=1e-5)
