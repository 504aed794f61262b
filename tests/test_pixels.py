"""The range of pixel values: given, told by the model, or confirmed by its accuracy; anything else is refused."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_fim
from keras_fim.detection import FisherDetector
from keras_fim.logits import logits_function
from keras_fim.pixels import PixelRange, find_range, images_in_range, range_by_accuracy
from keras_fim.training.inputs import DataOptions, described_recipe, model_range

LAYERS = keras.layers
SHAPE = (4, 4, 3)
IMAGES = np.random.default_rng(0).uniform(size=(60, *SHAPE)).astype("float32")


def model(*leading, dtype="float32"):
    head = [LAYERS.Conv2D(2, 3), LAYERS.Flatten(), LAYERS.Dense(3, activation="softmax")]
    return keras.Sequential([keras.Input(SHAPE, dtype=dtype), *leading, *head])


def functional(function):
    image = keras.Input(SHAPE)
    return keras.Model(image, LAYERS.Dense(3)(LAYERS.Flatten()(function(image))))


def normalization(mean, variance):
    return LAYERS.Normalization(mean=mean, variance=variance)


TOLD = {
    "1/255": (lambda: model(LAYERS.Rescaling(1 / 255)), "pixels 0..255, found from Rescaling(1/255)"),
    "1/256": (lambda: model(LAYERS.Rescaling(1 / 256)), "pixels 0..255, found from Rescaling(1/256)"),
    "to -1": (lambda: model(LAYERS.Rescaling(1 / 127.5, -1)), "pixels 0..255, found from Rescaling(1/127.5, -1)"),
    "from 0..1": (lambda: model(LAYERS.Rescaling(2, -1)), "pixels 0..1, found from Rescaling(2, -1)"),
    "from -1..1": (lambda: model(LAYERS.Rescaling(0.5, 0.5)), "pixels -1..1, found from Rescaling(1/2, 0.5)"),
    "16 bits": (lambda: model(LAYERS.Rescaling(1 / 65535)), "pixels 0..65535, found from Rescaling(1/65535)"),
    "uint8": (lambda: model(LAYERS.Rescaling(1 / 255), dtype="uint8"), "pixels 0..255, found from Rescaling(1/255)"),
    "augmented": (
        lambda: model(LAYERS.RandomFlip(), keras.Sequential([LAYERS.RandomZoom(0.1)]), LAYERS.Rescaling(1 / 255)),
        "pixels 0..255, found from Rescaling(1/255)",
    ),
    "nested": (
        lambda: keras.Sequential([keras.Input(SHAPE), model(LAYERS.Rescaling(1 / 255))]),
        "pixels 0..255, found from Rescaling(1/255)",
    ),
    "arithmetic": (lambda: functional(lambda x: x / 127.5 - 1), "pixels 0..255, found from preprocessing(1/127.5, -1)"),
    "normalized": (
        lambda: model(normalization([0.485, 0.456, 0.406], [0.052, 0.050, 0.051])),
        "pixels 0..1, found from Normalization(mean (0.485, 0.456, 0.406), deviation (0.228035, 0.223607, 0.225832))",
    ),
    "normalized bytes": (lambda: model(normalization(120.0, 3600.0)), "pixels 0..255, found from Normalization("),
}


@pytest.mark.parametrize("case", TOLD)
def test_the_model_tells(case):
    make, text = TOLD[case]
    assert str(find_range(make())).startswith(text)


@pytest.mark.parametrize("leading", [(), (LAYERS.Rescaling(0.017, -2.1),), (LAYERS.Rescaling(1 / 128, -2.5),)])
def test_the_model_does_not_tell(leading):
    with pytest.raises(ValueError, match="`bounds` should be .lowest, highest. pixel value: the model does not begin"):
        find_range(model(*leading), IMAGES)


def accurate(low, high):
    """Classes of the images at 0..1, and a model without a rescaling that has them right at low..high."""
    keras.utils.set_random_seed(0)
    layers = [LAYERS.Flatten(), LAYERS.Dense(3)]
    classifier = keras.Sequential([keras.Input(SHAPE), *layers])
    kernel, _ = classifier.get_weights()
    span = high - low
    classifier.set_weights([kernel / span, -(low / span + 0.5) * kernel.sum(axis=0)])
    return classifier, np.argmax(classifier(low + span * IMAGES), axis=-1)


@pytest.mark.parametrize("low, high", [(0, 1), (0, 255), (-1, 1)])
def test_the_accuracy_confirms_the_range_of_the_images(low, high):
    classifier, classes = accurate(low, high)
    actual = find_range(classifier, low + (high - low) * IMAGES, classes)
    assert actual.bounds == (low, high)
    assert str(actual).startswith(f"pixels {low}..{high}, found from the images: accuracy 100 % there, ")
    one_hot = find_range(classifier, low + (high - low) * IMAGES, np.eye(3)[classes])
    assert one_hot == actual


def test_the_accuracy_contradicts_the_range_of_the_images():
    classifier, classes = accurate(-1, 1)
    for images in (IMAGES, 255 * IMAGES):
        with pytest.raises(ValueError, match="the accuracy does not confirm.*100 % at -1..1.*pass bounds"):
            find_range(classifier, images, classes)
    constant = keras.Sequential([keras.Input(SHAPE), LAYERS.Flatten(), LAYERS.Dense(3, kernel_initializer="zeros")])
    with pytest.raises(ValueError, match="the accuracy does not confirm"):
        find_range(constant, IMAGES, np.zeros(60, int))  # 100 %, by chance
    with pytest.raises(ValueError, match="images from .* which is no usual range"):
        find_range(classifier, 1000 * IMAGES, classes)


def test_images_of_another_scale_than_the_model_tells_are_refused():
    rescaling = model(LAYERS.Rescaling(1 / 255))
    with pytest.raises(ValueError, match=r"pixels 0..255, found from Rescaling\(1/255\). Received: values up to 0.99"):
        find_range(rescaling, IMAGES)
    assert find_range(rescaling, IMAGES, bounds=(0, 1)) == PixelRange(0.0, 1.0)
    assert str(find_range(rescaling, bounds=(0, 1))) == "pixels 0..1, as given"


def test_images_a_little_outside_are_clipped_and_counted():
    images = np.stack([np.full(SHAPE, value) for value in (0.0, 255.4, 254.0, -0.3)])
    clipped, count = PixelRange(0.0, 255.0).clip(images)
    assert count == 2 and float(np.max(clipped)) == 255 and float(np.min(clipped)) == 0
    with pytest.raises(ValueError, match=r"within the bounds \(0.0, 255.0\); scale.*: values from 0 to 255.6"):
        PixelRange(0.0, 255.0).clip(np.full((1, *SHAPE), 255.6) * [1, 1, 0])


def test_one_pair_for_each_channel():
    given = find_range(model(), bounds=([-2, -1, 0], (2.0, 1.0, 0.5)))
    assert given.bounds == ((-2.0, -1.0, 0.0), (2.0, 1.0, 0.5))
    assert str(given) == "pixels (-2, -1, 0)..(2, 1, 0.5), as given"
    assert given.clip(np.full((1, *SHAPE), (2.0, 1.0, 0.5)))[1] == 0
    with pytest.raises(ValueError, match="within the bounds"):
        given.clip(np.full((1, *SHAPE), 0.6))
    with pytest.raises(ValueError, match="`bounds` should have 1 values for the last axis"):
        given.clip(np.zeros((1, 4, 4, 1)))


@pytest.mark.parametrize("bounds", [(1, 0), (0,), (0, np.inf), ([0, 0], [1]), ([0, 1], [1, 1])])
def test_bad_bounds(bounds):
    with pytest.raises(ValueError, match=r"`bounds` should be \(lowest, highest\) pixel value"):
        find_range(model(), bounds=bounds)


@pytest.mark.parametrize("bounds", ["ab", 3])
def test_bounds_that_are_no_pair(bounds):
    with pytest.raises(ValueError, match=r"`bounds` should be of type Bounds \| PixelRange \| None. Received: bounds="):
        find_range(model(), bounds=bounds)


def test_what_needs_no_range_refuses_bytes_that_nothing_asks_for():
    bytes_ = (255 * IMAGES).astype("uint8")
    for images in (bytes_, 255 * IMAGES):
        for call in (
            lambda images: keras_fim.fisher_spectrum(model(), images),
            lambda images: FisherDetector.fit(model(), images),
            lambda images: FisherDetector(threshold=0.0, false_positive_rate=0.1).scores(model(), images),
        ):
            with pytest.raises(ValueError, match="nothing says that it takes these: pass bounds=.0, 255. if it does"):
                call(images)
        rescaling = model(LAYERS.Rescaling(1 / 255))
        assert np.min(keras_fim.fisher_spectrum(rescaling, images).eigenvalues) > 0
        assert keras_fim.fisher_spectrum(model(), images, bounds=(0, 255)).eigenvalues.shape == (60, 1)
    for scaled in (IMAGES, 2 * IMAGES - 1, 4 * IMAGES - 2):
        np.testing.assert_array_equal(images_in_range(model(), scaled), scaled)


CAFFE = np.array([103.939, 116.779, 123.68], "float32")  # taken off blue, green and red by VGG16 and ResNet50


def caffe(image):
    return keras.applications.vgg16.preprocess_input(image)


@pytest.mark.parametrize("inside", [caffe, LAYERS.Lambda(caffe, name="preprocessing")], ids=["arithmetic", "Lambda"])
def test_preprocessing_that_only_shifts_asks_for_the_range(inside, tmp_path):
    """It tells no scale: 0..255 and 0..1 are as likely."""
    shifted, pixels = functional(inside), 255 * IMAGES
    np.testing.assert_allclose(  # the layers do what the name says
        keras.Model(shifted.inputs[0], shifted.operations[-3].output)(pixels), pixels[..., ::-1] - CAFFE, atol=1e-4
    )
    for call in (
        lambda: find_range(shifted, pixels),
        lambda: keras_fim.fisher_spectrum(shifted, pixels),
        lambda: keras_fim.export.saved_model(shifted, tmp_path / "m", images=pixels),
    ):
        with pytest.raises(ValueError, match="bounds"):
            call()
    assert find_range(shifted, pixels, bounds=(0, 255)).bounds == (0, 255)
    classes = np.argmax(shifted(pixels), axis=-1)
    assert find_range(shifted, pixels, classes).bounds == (0, 255)  # by the accuracy


def test_a_range_that_the_accuracy_does_not_tell_is_in_doubt():
    """One model compares pixels with a threshold, the other one with each other, which is the same at any scale."""
    images = np.linspace(0.02, 0.98, 50, dtype="float32")[:, None] * np.ones((1, 4), "float32")
    images[::2, 0] += 0.01
    classes = {"threshold": images[:, 1] > 0.5, "difference": images[:, 0] > images[:, 1]}
    scores = {"threshold": lambda x: x[:, 1] - 0.5, "difference": lambda x: x[:, 0] - x[:, 1] - 1e-3}
    doubts = {}
    for name, score in scores.items():
        model = logits_function(lambda x, score=score: tf.stack([-score(x), score(x)], axis=-1), from_logits=True)
        doubts[name] = range_by_accuracy(model, images, classes[name].astype(int), scale=True).doubt
    assert doubts["threshold"] == "" and "does not tell 0..1 from 0..255" in doubts["difference"]
    dataset = tf.data.Dataset.from_tensor_slices((images, classes["difference"].astype(int))).batch(10)
    with pytest.warns(UserWarning, match=r"pixels 0..1, found .* give bounds \(--bounds LOW HIGH\)"):
        model_range(model, dataset)


def test_a_model_that_is_trained_on_keeps_the_range_on_record(tmp_path):
    """At chance, as here, the accuracy tells nothing."""
    rng, (folder, archive) = np.random.default_rng(0), (tmp_path / "run", tmp_path / "noise.npz")
    np.savez(archive, images=rng.integers(0, 256, (40, 4, 4, 1), np.uint8), labels=rng.permutation(40) % 2)
    layers = [keras.layers.Flatten(), keras.layers.Dense(2, activation="softmax")]
    folder.mkdir()
    keras.Sequential([keras.Input((4, 4, 1)), *layers]).save(folder / "model.keras")
    config = {"data": "elsewhere", "model": "theirs:model", "bounds": [0, 255]}
    (folder / "run.json").write_text(json.dumps({"config": config}))
    assert described_recipe(DataOptions(str(archive)), model=str(folder)).bounds == [0.0, 255.0]


def test_images_around_zero_have_the_narrower_range():
    """Of images that stop at -0.5 and 0.5, -1..1 would let attacks leave their range."""
    images = (IMAGES - 0.5).clip(-0.5, 0.5)
    labels = (images.mean(axis=(1, 2, 3)) > 0).astype(int)
    linear = logits_function(lambda x: tf.reduce_mean(x, axis=(1, 2, 3))[:, None] * [[-1.0, 1.0]], from_logits=True)
    assert find_range(linear, images, labels).bounds == (-0.5, 0.5)
    assert find_range(linear, 2 * images, labels).bounds == (-1, 1)
    for odd in (4 * images + 1.5, np.where(IMAGES > 0.99, 1.4, IMAGES)):  # standardized, and a pixel too bright
        with pytest.raises(ValueError, match="no usual range"):
            find_range(linear, odd, labels)
