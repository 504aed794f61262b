from __future__ import annotations

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_fim
from keras_fim import inspection
from keras_fim.logits import LogitsFunction, logits_function

IMAGES = tf.constant(np.random.default_rng(0).uniform(size=(3, 4)).astype("float32"))
KERNEL = np.random.default_rng(1).normal(size=(4, 5)).astype("float32")


def with_weights(*head):
    model = keras.Sequential([keras.Input((4,)), *head])
    model.set_weights([KERNEL, np.zeros(5, "float32")])
    return model


def with_regularizer():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5), keras_fim.layers.FisherTraceRegularization()])
    model.layers[0].set_weights([KERNEL, np.zeros(5, "float32")])
    return model


def nested():
    return keras.Sequential([keras.Input((4,)), with_weights(keras.layers.Dense(5)), keras.layers.Softmax()])


def functional():
    inputs = keras.Input((4,))
    return keras.Model(inputs, with_weights(keras.layers.Dense(5, activation="softmax"))(inputs))


@keras.saving.register_keras_serializable("tests")
class Subclassed(keras.Model):
    def __init__(self, activation=None):
        super().__init__()
        self.dense = keras.layers.Dense(5, use_bias=False, kernel_initializer=lambda s, dtype: tf.constant(KERNEL))
        self.last = activation

    def call(self, images):
        outputs = self.dense(images)
        return outputs if self.last is None else self.last(outputs)


class LayerNamedLogits(keras.Model):
    def __init__(self):
        super().__init__()
        self.logits = keras.layers.Dense(5, use_bias=False, kernel_initializer=lambda s, dtype: tf.constant(KERNEL))

    def call(self, images):
        return tf.nn.softmax(self.logits(images))


class WithMethod(keras.Model):
    def call(self, images):
        raise AssertionError("asked for predictions")

    def logits(self, images, training=False):
        return images @ KERNEL


MODELS = {
    "softmax activation": (with_weights(keras.layers.Dense(5, activation="softmax")), "softmax"),
    "softmax layer": (with_weights(keras.layers.Dense(5), keras.layers.Softmax()), "softmax"),
    "activation layer": (with_weights(keras.layers.Dense(5), keras.layers.Activation("softmax")), "softmax"),
    "raw logits": (with_weights(keras.layers.Dense(5)), "logits"),
    "nested": (nested(), "softmax"),
    "functional": (functional(), "softmax"),
    "subclassed, Keras softmax": (Subclassed(keras.activations.softmax), "softmax"),
    "subclassed, another softmax": (Subclassed(tf.nn.softmax), "probabilities"),
    "subclassed, a layer named logits": (LayerNamedLogits(), "probabilities"),
    "softmax, then linear": (
        with_weights(keras.layers.Dense(5, activation="softmax"), keras.layers.Activation("linear", dtype="float32")),
        "softmax",
    ),
    "regularized logits": (with_regularizer(), "logits"),
    "with a method": (WithMethod(), "method"),
    "any callable": (lambda images: tf.nn.softmax(images @ KERNEL), "probabilities"),
}


@pytest.mark.parametrize("name", MODELS)
def test_logits_of_any_classifier(name):
    model, form = MODELS[name]
    function = logits_function(model, IMAGES)
    assert function.form == form
    expected = tf.nn.log_softmax(IMAGES @ KERNEL)
    np.testing.assert_allclose(tf.nn.log_softmax(function(IMAGES)), expected, atol=1e-5)
    np.testing.assert_allclose(tf.nn.log_softmax(tf.function(function)(IMAGES)), expected, atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_logits_are_float32_under_a_mixed_policy(policy):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5, activation="softmax", dtype=policy)])
    assert logits_function(model)(IMAGES).dtype == tf.float32


def test_keras_file(tmp_path):
    model = MODELS["softmax layer"][0]
    model.save(tmp_path / "model.keras")
    function = logits_function(tmp_path / "model.keras")
    np.testing.assert_allclose(function(IMAGES), IMAGES @ KERNEL, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("export", ["keras", "keras_fim"])
def test_saved_model(tmp_path, export):
    model = MODELS["softmax layer"][0]
    if export == "keras":
        model.export(tmp_path / "1", verbose=False)
    else:
        keras_fim.export.saved_model(model, tmp_path, bounds=(0, 1))
    function = logits_function(tmp_path / "1", IMAGES)
    np.testing.assert_allclose(tf.nn.log_softmax(function(IMAGES)), tf.nn.log_softmax(IMAGES @ KERNEL), atol=1e-5)
    spectrum = keras_fim.fisher_spectrum(function, IMAGES)
    np.testing.assert_allclose(spectrum.eigenvalues, keras_fim.fisher_spectrum(model, IMAGES).eigenvalues, rtol=1e-4)


def test_raw_logits_of_an_unknown_model_are_an_error_that_says_what_to_do():
    with pytest.raises(ValueError, match=r"rows >= 0 that sum to 1.*logits_function\(model, from_logits=True\)"):
        logits_function(Subclassed(), IMAGES)
    stated = logits_function(Subclassed(), from_logits=True)
    np.testing.assert_allclose(stated(IMAGES), IMAGES @ KERNEL, atol=1e-5)
    assert logits_function(stated) is stated


def softmax_with_nan(rows):
    return keras.ops.where(keras.ops.arange(keras.ops.shape(rows)[0])[:, None] < 1, np.nan, keras.ops.softmax(rows))


def test_a_row_of_nan_does_not_hide_what_a_model_returns():
    function = logits_function(lambda images: softmax_with_nan(images @ KERNEL), IMAGES)
    assert function.form == "probabilities"
    with pytest.raises(ValueError, match="Received: NaN or infinite numbers for all of 3 images"):
        logits_function(lambda images: images @ KERNEL * np.nan, IMAGES)


def test_sigmoid_outputs_are_refused():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5, activation="sigmoid")])
    with pytest.raises(ValueError, match="rows >= 0 that sum to 1"):
        logits_function(model)


@pytest.mark.parametrize("units", [1, None])
def test_outputs_that_are_not_rows_of_classes_are_refused(units):
    layers = [keras.layers.Dense(1)] if units else [keras.layers.Dense(4), keras.layers.Reshape((2, 2))]
    with pytest.raises(ValueError, match="one row of 2 or more classes per image"):
        logits_function(keras.Sequential([keras.Input((4,)), *layers]))


def test_subclassed_model_without_images_to_try_it_on():
    with pytest.raises(ValueError, match=r"pass .*logits_function\(model, images\) in its place"):
        logits_function(Subclassed())


def test_missing_file(tmp_path):
    with pytest.raises(ValueError, match="a .keras file or a SavedModel folder"):
        logits_function(tmp_path / "nothing.keras")


@pytest.mark.slow
def test_the_same_model_gives_the_same_function_which_dies_with_it():
    model = with_weights(keras.layers.Dense(5))
    assert logits_function(model) is logits_function(model)
    program = """
import gc, weakref, numpy as np, keras, keras_fim
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5, activation="softmax")])
keras_fim.fisher_spectrum(model, np.zeros((2, 4)))
keras_fim.attacks.OSSA()(model, np.zeros((2, 4)), [0, 1], epsilon=0.1)
reference = weakref.ref(model)
del model
keras.backend.clear_session()
gc.collect()
assert reference() is None, gc.get_referrers(reference())
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=600)


def test_changed_sequential_gives_another_function():
    model = with_weights(keras.layers.Dense(5), keras.layers.Softmax())
    assert logits_function(model).form == "softmax"
    model.pop()
    np.testing.assert_allclose(logits_function(model)(IMAGES), IMAGES @ KERNEL, atol=1e-5)


def test_compiled_functions_are_traced_once_whatever_the_batch_size():
    function = logits_function(with_weights(keras.layers.Dense(5)))
    traces = []

    def double(factor: int, logits_fn: LogitsFunction, images: tf.Tensor) -> tf.Tensor:
        traces.append(factor)
        return factor * logits_fn(images)

    for batch in (IMAGES, IMAGES[:1], tf.concat([IMAGES, IMAGES], axis=0)):
        np.testing.assert_allclose(function.compiled(double, 2)(batch), 2 * function(batch), atol=1e-6)
    function.compiled(double, 3)(IMAGES)
    assert traces == [2, 3]


@pytest.mark.slow
def test_plain_callable_is_traced_once_if_its_logits_function_is_passed_on():
    def classifier(images):
        calls.append(len(calls))
        return tf.nn.softmax(images @ KERNEL)

    def calls_of_the_second(model):
        keras_fim.fisher_spectrum(model, IMAGES)
        calls.clear()
        keras_fim.fisher_spectrum(model, IMAGES)
        return len(calls)

    calls = []
    assert logits_function(classifier, IMAGES) is not logits_function(classifier, IMAGES)
    assert calls_of_the_second(classifier) > 0  # tried and traced again
    assert calls_of_the_second(logits_function(classifier, IMAGES)) == 0


def test_inference_mode_unless_training():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dropout(0.9), keras.layers.Dense(5)])
    function = logits_function(model)
    np.testing.assert_array_equal(function(IMAGES), function(IMAGES))
    assert not np.allclose(function(IMAGES, training=True), function(IMAGES))


@pytest.mark.parametrize("function", [tf.nn.softmax, keras.activations.softmax])
def test_what_is_said_of_a_model_should_not_contradict_what_it_returns(function):
    images = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    for returns, from_logits in ((function, True), (tf.identity, False)):
        with pytest.raises(ValueError, match="`model` should"):
            logits_function(lambda x, returns=returns: returns(x @ np.eye(4, 5)), images, from_logits=from_logits)


def test_a_linear_layer_on_a_softmax_returns_probabilities():
    """As where the labels are known to be wrong now and then, and the last layer is the confusion matrix."""
    confusion = keras.layers.Dense(5, use_bias=False)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5, activation="softmax"), confusion])
    model.set_weights([KERNEL, np.zeros(5, "float32"), 0.9 * np.eye(5) + 0.02])
    logits_fn = logits_function(model)
    assert logits_fn.form == "probabilities"
    np.testing.assert_allclose(tf.nn.softmax(logits_fn(IMAGES)), model(IMAGES), rtol=1e-5)


def test_one_row_of_logits_that_sums_to_one_by_chance_is_not_taken_for_probabilities():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, use_bias=False)])
    model.set_weights([np.eye(2, dtype="float32")])
    one = np.array([[0.25, 0.75]], "float32")
    for stated in (None, True):
        assert inspection.output_form(model, one, stated) == (model, "logits")
    many = np.repeat(one, 4, axis=0)
    assert inspection.output_form(model, many, None) == (model, "probabilities")
    with pytest.raises(ValueError, match="from_logits=False if it returns probabilities"):
        inspection.output_form(model, many, True)
