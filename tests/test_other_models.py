"""Models unlike the paper's: what has no gradient, one sigmoid unit, several inputs, other dtypes."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_fim
from keras_fim import attacks
from keras_fim.geometry.jacobian import NoGradientError
from keras_fim.logits import logits_function

LAYERS = keras.layers
IMAGES = np.random.default_rng(0).uniform(0, 255, (6, 8, 8, 1)).astype("float32")
LABELS = np.arange(6) % 3


def pixels_model(dtype="uint8", *, nested=False, sequential=True):
    keras.utils.set_random_seed(1)
    layers = [LAYERS.Rescaling(1 / 255), LAYERS.Flatten(), LAYERS.Dense(3, activation="softmax")]
    image = keras.Input((8, 8, 1), dtype=dtype)
    if sequential:
        model = keras.Sequential([image, *layers])
    else:
        outputs = image
        for layer in layers:
            outputs = layer(outputs)
        model = keras.Model(image, outputs)
    if not nested:
        return model
    outer = keras.Input((8, 8, 1), dtype=dtype)
    return keras.Model(outer, LAYERS.Activation("linear")(model(outer)))


@pytest.mark.parametrize("options", [{}, {"sequential": False}, {"nested": True}], ids=str)
def test_an_integer_input_is_attacked_through_its_twin_on_floats(options, tmp_path):
    model, twin = pixels_model(**options), pixels_model("float32", **options)
    model.set_weights(twin.get_weights())
    attack = attacks.FGSM(bounds=(0, 255))
    own, theirs = (attack(classifier, IMAGES, LABELS, epsilon=20) for classifier in (model, twin))
    np.testing.assert_allclose(own.adversarials, theirs.adversarials)
    own, theirs = (keras_fim.fisher_spectrum(classifier, IMAGES).eigenvalues for classifier in (model, twin))
    np.testing.assert_allclose(own, theirs, rtol=1e-5)
    assert np.min(own) > 0
    model.save(tmp_path / "m.keras")  # the file knows nothing of the twin
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(loaded(IMAGES.astype("uint8")), model(IMAGES.astype("uint8")), rtol=1e-6)
    assert loaded.inputs[0].dtype == "uint8"


def test_an_integer_input_of_a_compiled_model_has_a_radius_at_once():
    """The twin on floats is made before TensorFlow traces: Keras asks the optimizer for its learning rate."""
    model = pixels_model()
    model.compile("adam", loss="sparse_categorical_crossentropy")
    model.fit(IMAGES.astype("uint8"), LABELS, verbose=0)
    assert keras_fim.boundary_radius(model, IMAGES.astype("uint8")).defined.all()


def embedding():
    return keras.Sequential(
        [keras.Input((8,), dtype="int32"), LAYERS.Embedding(255, 4, name="ids"), LAYERS.Flatten(), LAYERS.Dense(3)]
    )


def lambda_model(function, num_classes=3):
    image = keras.Input((8,))
    hidden = LAYERS.Lambda(function, name="hard")(LAYERS.Dense(8, name="before")(image))
    return keras.Model(image, LAYERS.Dense(num_classes, activation="softmax")(hidden))


NO_GRADIENT = {
    "embedding": (embedding, r"it stops at the layer ids \(Embedding\)"),
    "rounding": (lambda: lambda_model(tf.round), r"at the layer hard \(Lambda\)"),
    "stopped": (lambda: lambda_model(tf.stop_gradient), r"at the layer hard \(Lambda\)"),
    "many classes": (lambda: lambda_model(tf.stop_gradient, 100), r"at the layer hard \(Lambda\)"),
    "nested": (
        lambda: keras.Sequential([keras.Input((8,)), lambda_model(tf.round), LAYERS.Activation("linear")]),
        r"at the layer hard \(Lambda\)",
    ),
    "a callable": (lambda: logits_function(lambda x: tf.round(x)[:, :3], from_logits=True), "to its images. Integer"),
}
TOKENS = np.random.default_rng(0).uniform(size=(6, 8)).astype("float32")


@pytest.mark.parametrize("case", NO_GRADIENT)
def test_no_gradient_from_the_logits_to_the_images_is_refused(case):
    make, place = NO_GRADIENT[case]
    model = make()
    calls = [
        lambda: attacks.FGSM()(model, TOKENS, LABELS, epsilon=0.1),
        lambda: attacks.PGD(norm=2, steps=2)(model, TOKENS, LABELS, epsilon=0.1),
        lambda: keras_fim.fisher_spectrum(model, TOKENS),
        lambda: keras_fim.fisher_spectrum(model, TOKENS, method="exact"),
    ]
    for call in calls:
        with pytest.raises(NoGradientError, match=place) as error:
            call()
        assert "logits_function(model, backward=twin)" in str(error.value) and "user code" not in str(error.value)


def test_no_gradient_inside_of_a_loop_is_refused_though_compiled_it_is_zero():
    model = logits_function(lambda x: tf.map_fn(lambda row: tf.round(4 * row)[:3], x), from_logits=True)
    for call in (keras_fim.fisher_spectrum, keras_fim.boundary_radius):
        with pytest.raises(NoGradientError, match="to its images"):
            call(model, TOKENS)
    smooth = logits_function(lambda x: tf.map_fn(lambda row: row[:3] - 100 * tf.range(3.0), x), from_logits=True)
    assert not keras_fim.fisher_spectrum(smooth, TOKENS).eigenvalues.numpy().any()  # confident, but with a gradient


def one_unit(activation="sigmoid"):
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((8,)), LAYERS.Dense(1, activation=activation)])


def two_units(model, activation="softmax"):
    kernel, bias = model.get_weights()
    twin = keras.Sequential([keras.Input((8,)), LAYERS.Dense(2, activation=activation)])
    twin.set_weights([np.concatenate([0 * kernel, kernel], axis=-1), np.concatenate([0 * bias, bias])])
    return twin


def ways(model):
    yield logits_function(model)
    yield logits_function(model, from_logits=False)
    yield logits_function(lambda x: tf.sigmoid(model(x)._keras_logits), from_logits=False)
    yield logits_function(lambda x: model(x)._keras_logits, from_logits=True)


def test_one_sigmoid_unit_is_the_classifier_of_two_classes():
    model = one_unit()
    twin = two_units(model)
    for logits_fn in ways(model):
        np.testing.assert_allclose(logits_fn(tf.constant(TOKENS)), logits_function(twin)(TOKENS), atol=1e-6)
        actual, expected = (keras_fim.fisher_spectrum(model, TOKENS).eigenvalues for model in (logits_fn, twin))
        np.testing.assert_allclose(actual, expected, rtol=1e-4)
        labels = LABELS % 2
        actual, expected = (
            attacks.FGSM()(model, TOKENS, labels[:, None], epsilon=0.1).adversarials for model in (logits_fn, twin)
        )
        np.testing.assert_allclose(actual, expected, atol=1e-6)


def several(kind):
    first, second = keras.Input((8,), name="image"), keras.Input((8,), name="mask")
    if kind == "inputs":
        return keras.Model([first, second], LAYERS.Dense(3, activation="softmax")(first + second))
    return keras.Model(first, [LAYERS.Dense(3, activation="softmax", name=name)(first) for name in ("a", "b")])


REFUSED = {
    "softmax over one unit": (lambda: one_unit("softmax"), "a softmax over one unit, which is always 1: give the unit"),
    "one linear unit": (lambda: one_unit("linear"), "from_logits=True. in its place if it is the logit of class 1"),
    "several sigmoids": (
        lambda: keras.Sequential([keras.Input((8,)), LAYERS.Dense(3, activation="sigmoid")]),
        "several sigmoids, as of a model with several labels",
    ),
    "two inputs": (lambda: several("inputs"), r"2 inputs \(image, mask\)(.|\n)*def classifier\(images\):"),
    "two outputs": (lambda: several("outputs"), r"2 outputs \(a, b\)(.|\n)*def classifier\(images\):"),
    "a dictionary": (lambda: lambda images: {"a": images, "b": images}, "dict of 2 outputs"),
}


@pytest.mark.filterwarnings("ignore:You are using a softmax over axis")
@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_classifier_is_refused_with_a_remedy(case):
    make, message = REFUSED[case]
    model = make()
    for call in (
        lambda: attacks.FGSM()(model, TOKENS, LABELS % 2, epsilon=0.1),
        lambda: keras_fim.fisher_spectrum(model, TOKENS),
        *([lambda: logits_function(model, TOKENS, from_logits=False)] if case != "one linear unit" else []),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_float64_layers_behind_a_float32_input():
    model = keras.Sequential([keras.Input((8,)), LAYERS.Dense(3, activation="softmax", dtype="float64")])
    assert logits_function(model)(tf.constant(TOKENS)).dtype == tf.float32
    assert np.min(keras_fim.fisher_spectrum(model, TOKENS, method="krylov").eigenvalues) > 0
    assert np.isfinite(attacks.OSSA()(model, TOKENS, LABELS, epsilon=0.1).adversarials).all()


def test_the_gradient_of_a_smooth_twin():
    hard = lambda_model(tf.round)
    smooth = lambda_model(tf.identity)
    smooth.set_weights(hard.get_weights())
    logits_fn = logits_function(hard, backward=smooth)
    np.testing.assert_array_equal(logits_fn(tf.constant(TOKENS)), logits_function(hard)(tf.constant(TOKENS)))
    actual, expected = (attacks.FGSM()(model, TOKENS, LABELS, epsilon=0.1) for model in (logits_fn, smooth))
    assert np.mean(actual.adversarials == expected.adversarials) > 0.9
    np.testing.assert_array_equal(actual.predictions, np.argmax(hard(actual.adversarials), axis=-1))


@pytest.mark.parametrize(
    "attack",
    [
        *(attacks.FGSM(), attacks.FGM(), attacks.OSSA(), attacks.TSSA(), attacks.MIM(steps=10)),
        *(attacks.PGD(norm=2, steps=10), attacks.APGD(norm=2, steps=5), attacks.APGD(norm=1, steps=5)),
        *(attacks.FMN(norm=2, steps=60), attacks.FMN(norm=np.inf, steps=60), attacks.DeepFool(), attacks.FAB(norm=2)),
        *(attacks.CarliniWagner(steps=100, search_steps=2), attacks.SigmaZero(steps=60)),
    ],
    ids=lambda attack: attack.name,
)
def test_an_infinite_slope_at_a_black_pixel_stops_no_attack(attack):
    """The gradient of a square root is infinite at 0, and NaN behind a function that has no slope there."""

    def roots(images):
        squares = tf.sqrt(images[:, 4:] ** 2)  # NaN at 0
        return tf.concat([tf.sqrt(images[:, :4]), squares], axis=-1) @ kernel

    kernel = 4 * np.stack([np.ones(8), -0.5 * np.ones(8)], axis=-1).astype("float32")
    rng = np.random.default_rng(0)
    images = rng.uniform(0.1, 0.9, (6, 8)).astype("float32")
    images[:, ::3] = 0
    model = logits_function(lambda x: roots(x) - 4 * tf.constant([[2.6, 0.0]]), from_logits=True)
    labels = model(tf.constant(images)).numpy().argmax(axis=-1)
    epsilon = {1: 8.0, 2: 3.0, np.inf: 1.0}.get(attack.norm, 8)
    result = attack(model, images, labels, epsilon=epsilon)
    assert np.isfinite(result.adversarials).all() and result.was_correct.all() and result.success.all()
    assert (result.distances <= epsilon * (1 + 1e-5)).all()
    predicted = model(tf.constant(result.adversarials)).numpy().argmax(axis=-1)
    np.testing.assert_array_equal(predicted, result.predictions)
