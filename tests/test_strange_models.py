"""Models of strangers: functions of NumPy arrays, structures around one output, states, answers of NaN."""

from __future__ import annotations

import threading
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_fim
from keras_fim import attacks
from keras_fim.evaluation import evaluate, flags, measurement
from keras_fim.geometry.jacobian import NoGradientError
from keras_fim.logits import classes_of, logits_function

LAYERS = keras.layers
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(size=(12, 4, 4, 1)).astype("float32")


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    dense = LAYERS.Dense(3, activation="softmax", kernel_initializer=keras.initializers.RandomNormal(stddev=3))
    return keras.Sequential([keras.Input((4, 4, 1)), LAYERS.Flatten(), dense])


@pytest.fixture(scope="module")
def labels(model):
    return np.argmax(model(IMAGES), axis=-1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_function_of_numpy_arrays_is_a_black_box(model, labels, dtype):
    def function(images):
        return np.asarray(model(np.asarray(images))).astype(dtype)

    logits_fn = logits_function(function, IMAGES)
    np.testing.assert_allclose(tf.nn.softmax(logits_fn(IMAGES)), model(IMAGES), rtol=1e-5)
    with pytest.raises(NoGradientError, match="functions of NumPy arrays have none.*black_box=True"):
        keras_fim.boundary_radius(function, IMAGES)
    options = {"black_box": True, "progress": None, "epsilons": [0.2], "attacks": [attacks.Square(queries=20)]}
    own, theirs = (evaluate(one, (IMAGES, labels), **options).rows[0].fooling for one in (function, model))
    assert own == theirs and own.count > 0


def test_a_function_of_numpy_arrays_is_called_outside_of_compiled_functions(model, labels):
    """One that calls TensorFlow, as `predict` does, could wait forever for the threads that wait for it."""
    inside = []

    def function(images):
        inside.append(threading.get_ident())
        return model.predict(np.asarray(images), verbose=0)

    attack = attacks.Square(queries=5)
    own, theirs = (
        evaluate(one, (IMAGES, labels), black_box=True, progress=None, epsilons=[0.2], attacks=[attack]).rows[0].fooling
        for one in (function, model)
    )
    assert own == theirs and set(inside) == {threading.get_ident()}


def test_a_smooth_twin_gives_a_function_of_numpy_arrays_its_gradient(model):
    function = logits_function(lambda images: model(images).numpy(), IMAGES, backward=model)
    own, theirs = (keras_fim.boundary_radius(one, IMAGES).radius for one in (function, model))
    np.testing.assert_allclose(own, theirs, rtol=1e-4)


FAILING = {
    "of arrays alone": (lambda images: images.reshape(len(images), -1), r"np.asarray\(images\).*AttributeError"),
    "not to be compiled": (lambda images: tf.constant(images[:, 0, :3, 0].numpy() * 0 + 1 / 3), "has no attr.*'numpy'"),
    "of another batch": (lambda images: tf.reshape(images, (12, 16)), "any number of images.*InvalidArgumentError"),
    "classes alone": (lambda images: np.zeros(len(images)), r"one row of 2 or more classes.*shape=\(4,\)"),
    "nothing": (lambda images: None, "one output. Received: NoneType"),
    "no number of classes": (
        lambda images: tf.numpy_function(lambda x: np.full((len(x), 3), 1 / 3, "float32"), [images], tf.float32),
        "known number of classes when compiled: see tf.ensure_shape",
    ),
}


@pytest.mark.parametrize("case", FAILING)
def test_a_function_that_fails_says_how_it_is_called(case):
    function, message = FAILING[case]
    with pytest.raises(ValueError, match=rf"^`model` should [^\n]*{message}"):
        keras_fim.boundary_radius(function, IMAGES)


def test_a_structure_around_one_output_or_input_is_seen_through(model):
    images = keras.Input((4, 4, 1), name="images")
    expected = keras_fim.boundary_radius(model, IMAGES).radius
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for outputs in ({"probabilities": model(images)}, [model(images)]):
            for inputs in (images, {"images": images}):
                own = keras_fim.boundary_radius(keras.Model(inputs, outputs), IMAGES).radius
                np.testing.assert_allclose(own, expected, rtol=1e-6)


def test_a_signature_is_a_model_and_a_saved_model_states_its_shape(model, tmp_path):
    model.export(tmp_path / "1", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "1")
    for stranger in (loaded.signatures["serving_default"], logits_function(tmp_path / "1")):
        np.testing.assert_allclose(tf.nn.softmax(logits_function(stranger, IMAGES)(IMAGES)), model(IMAGES), rtol=1e-5)
    with pytest.raises(ValueError, match="its folder or one of its `signatures`"):
        logits_function(loaded, IMAGES)
    with pytest.raises(ValueError, match=r"shape \(batch, 4, 4, 1\)"):
        logits_function(tmp_path / "1", IMAGES[..., 0])


@pytest.mark.parametrize("shapes", [[(8, 4, 4, 1)], [(None, 4, 4, 1), ()]], ids=str)
def test_a_saved_model_of_a_fixed_batch_or_of_two_inputs_is_refused(shapes, tmp_path):
    module = tf.Module()
    specs = [tf.TensorSpec(shape, name=name) for shape, name in zip(shapes, "xt", strict=False)]
    module.call = tf.function(lambda *inputs: tf.nn.softmax(inputs[0][:, 0, :3, 0]), input_signature=specs)
    tf.saved_model.save(module, tmp_path, signatures=module.call)
    with pytest.raises(ValueError, match=r"one input, any number of images. Received: .*\((8|None), 4"):
        logits_function(tmp_path, IMAGES)


def test_a_state_between_calls_is_refused():
    images = keras.Input(batch_shape=(4, 4, 4, 1))
    state = LAYERS.GRU(2, stateful=True, name="memory")(LAYERS.Reshape((4, 4))(images))
    model = keras.Model(images, LAYERS.Dense(3, activation="softmax")(state))
    with pytest.raises(ValueError, match="stateful=False, and set the weights. Received: a state in memory"):
        keras_fim.boundary_radius(model, IMAGES)


def test_sure_sigmoids_are_several_sigmoids_too():
    """Each row of sigmoids that are sure of one class sums to 1, as rows of a softmax do."""
    dense = LAYERS.Dense(3, activation="sigmoid")
    model = keras.Sequential([keras.Input((3,)), dense])
    dense.set_weights([24 * np.eye(3) - 12, np.zeros(3)])
    sure = np.eye(3, dtype="float32")[[0, 1, 2, 0]]
    np.testing.assert_allclose(np.sum(model(sure), axis=-1), 1, atol=1e-4)
    with pytest.raises(ValueError, match="several sigmoids"):
        logits_function(model, sure)


def test_a_softmax_that_returns_nan_alone_is_not_taken_for_sigmoids():
    dense = LAYERS.Dense(3, activation="softmax")
    model = keras.Sequential([keras.Input((3,)), dense])
    dense.set_weights([np.full((3, 3), np.nan), np.zeros(3)])
    with pytest.raises(ValueError, match="NaN or infinite numbers for all of 4 images"):
        logits_function(model, np.eye(3, dtype="float32")[[0, 1, 2, 0]])


def test_an_object_with_nothing_but_a_method_logits_is_measured(model, labels):
    class Bare:
        def logits(self, images, training=False):
            return tf.math.log(model(images, training=training))

    options = {"attacks": ["fgsm"], "epsilons": [0.2], "bounds": (0, 1), "spectrum": False, "progress": None}
    own, theirs = (evaluate(one, (IMAGES, labels), **options).rows[0].fooling for one in (Bare(), model))
    assert own == theirs and own.count > 0


def test_an_answer_of_nan_is_no_class(model, labels, tmp_path):
    """Of an image that is too bright the model makes NaN; the label 0 used to be right there, and to stand."""

    def function(images):
        bright = images[:, :1, 0, 0] > 2
        return tf.where(bright, np.nan, model(images))

    images = np.concatenate([IMAGES] * 6)
    images[-3:] = 3.0
    truth = np.append(np.tile(labels, 6)[:-3], [0, 0, 0])
    model_fn = logits_function(function, images)
    assert measurement.predicted_classes(model_fn, images)[-3:].tolist() == [-1, -1, -1]
    result = attacks.FGSM(bounds=(0, 4))(model_fn, images, truth, epsilon=0.0)
    assert result.was_correct.tolist() == [True] * 69 + [False] * 3
    report = evaluate(model_fn, (images, truth), attacks=["fgsm"], epsilons=[0.1], bounds=(0, 4), progress=None)
    performance = measurement.clean_performance(model_fn, images, truth)
    assert performance.mean_confidence == pytest.approx(report.mean_confidence)
    assert report.mean_confidence == pytest.approx(np.mean(report.samples.confidence[:69]))
    assert report.accuracy.count == 69 and report.samples.prediction[-3:] == (-1, -1, -1)
    assert any(flag.startswith("no answer: the model returns NaN for 3 of 72 images") for flag in report.flags)
    assert "no answer" in str(report)
    for suffix in ("json", "html"):
        assert report.save(tmp_path / f"report.{suffix}")


def test_the_class_of_a_row():
    rows = np.array([[0.0, 1.0], [np.nan, 0.0], [-np.inf, 0.0], [np.nan, np.nan]])
    assert classes_of(rows).tolist() == [1, -1, 1, -1]


def test_a_budget_with_bounds_for_each_channel_is_of_their_range():
    bounds = (-1000.0, 0.0), (1000.0, 5000.0)
    assert flags.budget_flags([(np.inf, 0.1)], bounds) == []
    assert "more than the whole range" in flags.budget_flags([(np.inf, 1.5)], bounds)[0]


@pytest.mark.parametrize("around", ["input", "output"])
def test_a_model_with_a_dictionary_trains_in_a_defense_and_is_exported(around, tmp_path):
    """A dictionary around the one input, which images may come in, or around the one output."""
    keras.utils.set_random_seed(0)
    images = keras.Input((4, 4, 1), name="images")
    probabilities = LAYERS.Dense(3, activation="softmax")(LAYERS.Flatten()(images))
    ends = ({"images": images}, probabilities) if around == "input" else (images, {"probabilities": probabilities})
    defense = keras_fim.defenses.n_fgm(keras.Model(*ends), 0.5)
    defense.compile("sgd", keras_fim.FisherTraceLoss(mu=0.02), metrics=["accuracy"])
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="The structure of `inputs`")
        history = defense.fit({"images": IMAGES} if around == "input" else IMAGES, np.arange(12) % 3, verbose=0)
        path = keras_fim.export.saved_model(defense, tmp_path, bounds=(0, 1), images=IMAGES)
    assert np.isfinite(history.history["loss"]).all()
    own = tf.nn.softmax(logits_function(path)(IMAGES))
    np.testing.assert_allclose(own, tf.nest.flatten(defense.predict(IMAGES, verbose=0))[0], rtol=1e-5)


def test_a_dictionary_may_hold_the_images_alone(model, labels):
    options = {"attacks": ["fgsm"], "epsilons": [0.2], "bounds": (0, 1), "spectrum": False, "progress": None}
    own, theirs = (evaluate(model, (images, labels), **options).rows for images in (IMAGES, {"images": IMAGES}))
    assert own[0].fooling == theirs[0].fooling and own[0].fooling.count > 0
    with pytest.raises(ValueError, match="`images` should be one array. Received: 2: images, masks"):
        evaluate(model, ({"images": IMAGES, "masks": IMAGES}, labels), progress=None)


def test_several_gradients_of_a_python_function(model):
    """TensorFlow keeps the tape of a ``tf.py_function`` for one gradient only."""

    def function(images):
        return tf.ensure_shape(tf.py_function(model, [images], tf.float32), [None, model.output_shape[-1]])

    model_fn = logits_function(function, IMAGES, from_logits=False)
    with pytest.raises(ValueError, match="allow several gradients of a call. Received: tf.py_function"):
        keras_fim.boundary_radius(model_fn, IMAGES[:2])
