from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_fim
from keras_fim import attacks
from keras_fim.geometry.jacobian import NoGradientError
from keras_fim.layers import FisherTraceRegularization, ThermometerEncoding
from keras_fim.logits import logits_function


def classifier(regularized):
    keras.utils.set_random_seed(3)
    layers = [keras.Input((3,)), keras.layers.Dense(4)]
    if regularized:
        layers.append(FisherTraceRegularization(0.05, gradient_limit=None))
    return keras.Sequential([*layers, keras.layers.Softmax()])


def test_training_equals_that_with_the_loss():
    """Cross-entropy with the layer is eq. (4) without it."""
    images, labels = np.random.default_rng(0).normal(size=(64, 3)).astype("float32"), np.arange(64) % 4
    own, theirs = classifier(True), classifier(False)
    own.compile("sgd", loss="sparse_categorical_crossentropy")
    theirs.compile("sgd", loss=keras_fim.FisherTraceLoss(0.05, gradient_limit=None))
    losses = [m.fit(images, labels, batch_size=16, epochs=3, shuffle=False, verbose=0).history for m in (own, theirs)]
    np.testing.assert_allclose(losses[0]["loss"], losses[1]["loss"], rtol=1e-5)
    for mine, its in zip(own.layers[0].get_weights(), theirs.layers[0].get_weights(), strict=True):
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


def test_thermometer_encoding_is_that_of_the_definition():
    levels, values = 5, np.random.default_rng(0).uniform(size=(3, 2, 4)).astype("float32")
    values[0, 0, :3] = 0.0, 1.0, 0.4
    encoded = ThermometerEncoding(np.int64(levels))(values).numpy().reshape(3, 2, 4, levels)
    expected = values[..., None] <= np.arange(1, levels + 1, dtype="float32") / np.float32(levels)
    np.testing.assert_array_equal(encoded, expected)
    smooth = ThermometerEncoding(levels).smooth(1e-3)(values).numpy().reshape(expected.shape)
    far = np.abs(values[..., None] - np.arange(1, levels + 1) / levels) > 0.02
    np.testing.assert_allclose(smooth[far], expected[far], atol=1e-6)
    assert ThermometerEncoding(levels).compute_output_shape((None, 2, 4)) == (None, 2, 20)


def thermometer_model(levels=16, temperature=None):
    """The linear classifier of values that are rounded up to the next level: entries sum to the levels above."""
    kernel = np.random.default_rng(0).normal(size=(8, 3))
    layers = [ThermometerEncoding(levels, temperature=temperature), keras.layers.Dense(3, activation="softmax")]
    model = keras.Sequential([keras.Input((8,)), *layers])
    model.layers[1].set_weights([np.repeat(-kernel / levels, levels, axis=0), 0.5 * kernel.sum(axis=0)])
    return model, kernel


def test_thermometer_encoding_makes_the_round_trip(tmp_path):
    for temperature in (None, 0.05):
        model, _ = thermometer_model(temperature=temperature)
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        assert loaded.layers[0].get_config() == model.layers[0].get_config()
        points = np.random.default_rng(1).uniform(size=(4, 8)).astype("float32")
        np.testing.assert_array_equal(loaded(points), model(points))


def test_what_thermometer_encoding_hides_from_gradients_a_smooth_twin_finds():
    model, kernel = thermometer_model(levels=64)
    images = np.random.default_rng(2).uniform(0.1, 0.9, size=(40, 8)).astype("float32")
    labels, epsilon = model(images).numpy().argmax(axis=-1), 0.06
    pgd = attacks.PGD(steps=20)
    with pytest.raises(NoGradientError, match=r"stops at the layer thermometer_encoding\w* \(ThermometerEncoding\)"):
        pgd(model, images, labels, epsilon=epsilon)
    flat = logits_function(lambda x: model(x)._keras_logits + 0 * tf.reduce_sum(x), from_logits=True)
    assert not attacks.BIM()(flat, images, labels, epsilon=epsilon).success.any()  # zeros in place of the gradient
    twin = keras.models.clone_model(
        model, clone_function=lambda layer: layer.smooth() if isinstance(layer, ThermometerEncoding) else layer
    )
    assert twin.layers[1] is model.layers[1]
    fooled = pgd(logits_function(model, backward=twin), images, labels, epsilon=epsilon).success
    margins = np.min(  # over the other classes: how far the linear classifier's boundary is in l∞
        [
            np.where(labels == other, np.inf, ((images - 0.5) * (kernel.T[labels] - kernel.T[other])).sum(axis=-1))
            / np.maximum(np.abs(kernel.T[labels] - kernel.T[other]).sum(axis=-1), 1e-9)
            for other in range(3)
        ],
        axis=0,
    )
    assert fooled[margins < epsilon - 1 / 64].all() and not fooled[margins > epsilon + 1 / 64].any()
    assert (margins < epsilon - 1 / 64).sum() > 10 and not fooled.all()


@pytest.mark.parametrize("options", [{"levels": 1}, {"levels": True}, {"levels": 2.5}, {"temperature": 0.0}], ids=str)
def test_bad_options_of_thermometer_encoding(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"`{name}` should be"):
        ThermometerEncoding(**options)
