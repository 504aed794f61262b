"""What an exported model takes: the range of its pixels, image files of all kinds, models of all kinds."""

from __future__ import annotations

import io
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_fim import export, models
from keras_fim.detection import FisherDetector
from keras_fim.export import runner, signatures
from keras_fim.export.decoding import decoded
from keras_fim.logits import logits_function
from keras_fim.pixels import PixelRange

Image = pytest.importorskip("PIL.Image")
LAYERS = keras.layers
SHAPE = (8, 6, 3)
BYTES = np.random.default_rng(0).integers(0, 256, (4, *SHAPE), np.uint8)


def bytes_model(dtype="float32"):
    keras.utils.set_random_seed(0)
    layers = [LAYERS.Rescaling(1 / 255), LAYERS.Conv2D(2, 3), LAYERS.Flatten(), LAYERS.Dense(3, activation="softmax")]
    return keras.Sequential([keras.Input(SHAPE, dtype=dtype), *layers])


def serve(path):
    return tf.saved_model.load(str(path)).signatures


def png(image):
    return tf.io.encode_png(image)


@pytest.mark.parametrize("dtype", ["float32", pytest.param("uint8", marks=pytest.mark.slow)])
def test_files_reach_a_model_of_bytes_as_bytes(dtype, tmp_path):
    model = bytes_model(dtype)
    path = export.saved_model(model, tmp_path / "m", images=BYTES)
    served = serve(path)
    expected = model(BYTES.astype(dtype))
    by_file = served["image_bytes"](image_bytes=tf.stack([png(image) for image in BYTES]))
    np.testing.assert_allclose(by_file["probabilities"], expected, atol=1e-5)
    fisher = served["fisher"](images=tf.constant(BYTES, tf.float32))
    assert np.min(fisher["lambda_max"]) > 0
    card = json.loads((path / "model_card.json").read_text())
    assert card["images"]["bounds"] == [0, 255] and card["images"]["found"] == "found from Rescaling(1/255)"
    assert "EXIF" in card["images"]["files"]
    assert all(check["passed"] for check in runner.check_model(path))


@pytest.mark.slow
def test_verification_notices_files_on_another_scale(tmp_path, monkeypatch):
    monkeypatch.setattr(
        signatures, "decoded", lambda files, shape, _, limits: decoded(files, shape, (0.0, 1.0), limits)
    )
    path = export.saved_model(bytes_model(), tmp_path / "m", images=BYTES)
    failed = {(check["signature"], check["output"]) for check in runner.check_model(path) if not check["passed"]}
    assert ("image_bytes", "probabilities") in failed and {signature for signature, _ in failed} == {"image_bytes"}


def test_bounds_that_contradict_a_rescaling(tmp_path):
    with pytest.raises(ValueError, match="`bounds` should agree with the model, which takes pixels 0..255"):
        export.saved_model(bytes_model(), tmp_path / "m", bounds=PixelRange(0.0, 1.0, "found from a record"))
    with pytest.raises(ValueError, match=r"pixels 0..255, found from Rescaling\(1/255\). Received: values up to 1"):
        export.saved_model(bytes_model(), tmp_path / "m", images=BYTES / 255)
    with pytest.raises(ValueError, match="the model does not begin with a rescaling that tells"):
        export.saved_model(keras.Sequential([keras.Input(SHAPE), LAYERS.Flatten(), LAYERS.Dense(3)]), tmp_path / "m")
    assert not list(tmp_path.iterdir())
    with pytest.warns(UserWarning, match="`bounds` should agree with the model.* Received: pixels 0..1, as given"):
        export.saved_model(bytes_model(), tmp_path / "m", bounds=(0, 1))


@pytest.mark.slow
def test_rows_outside_are_marked_and_do_not_fail_the_batch(tmp_path):
    model = models.convnet(filters=(2, 2))
    digits = np.random.default_rng(0).uniform(size=(4, 28, 28, 1)).astype("float32")
    detector = FisherDetector(threshold=1e6, false_positive_rate=0.1)
    served = serve(export.saved_model(model, tmp_path / "m", bounds=(0, 1), detector=detector, direction=True))
    images = digits * np.array([1, 255, 1, 1], "float32")[:, None, None, None]
    images[2, 0, 0], images[3, 0, 0] = 1.0015, -0.0025  # within 0.5/255 of the range and beyond
    for name in ("serving_default", "logits", "fisher", "trust", "detect"):
        actual = {key: value.numpy() for key, value in served[name](images=tf.constant(images)).items()}
        assert actual["in_bounds"].tolist() == [True, False, True, False]
        for key in {"lambda_max", "kl_radius", "boundary_radius", "direction", "score"} & set(actual):
            nan = np.isnan(actual[key].reshape(4, -1))
            assert nan.all(axis=-1).tolist() == nan.any(axis=-1).tolist() == [False, True, False, True]
        if name == "detect":
            assert actual["is_adversarial"].tolist() == [False, True, False, True]
        if name == "serving_default":
            np.testing.assert_allclose(actual["probabilities"][1], model(images)[1], atol=1e-6)


@pytest.mark.slow
def test_one_range_for_each_channel(tmp_path):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input(SHAPE), LAYERS.Flatten(), LAYERS.Dense(3, activation="softmax")])
    low, high = np.array([-2.0, -1.0, 0.0], "float32"), np.array([2.0, 1.0, 0.5], "float32")
    path = export.saved_model(model, tmp_path / "m", bounds=(low, high))
    assert all(check["passed"] for check in runner.check_model(path))
    served = serve(path)["image_bytes"](image_bytes=png(BYTES[0])[None])
    np.testing.assert_allclose(served["probabilities"], model(low + (high - low) * BYTES[:1] / 255), atol=1e-5)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = LAYERS.Dense(3, activation="softmax")

    def call(self, images):
        return self.dense(tf.reduce_mean(images, axis=(1, 2)))


def dynamic():
    pooled = LAYERS.GlobalAveragePooling2D()
    return keras.Sequential([keras.Input((None, None, 3)), pooled, LAYERS.Dense(3, activation="softmax")])


@pytest.mark.slow
@pytest.mark.parametrize("make", [Subclassed, dynamic])
def test_models_that_do_not_state_the_shape_of_their_images(make, tmp_path):
    with pytest.raises(ValueError, match=r"pass input_shape=\(height, width, channels\)"):
        export.saved_model(make(), tmp_path / "m", bounds=(0, 1))
    path = export.saved_model(make(), tmp_path / "m", bounds=(0, 1), input_shape=SHAPE)
    assert all(check["passed"] for check in runner.check_model(path))
    with pytest.raises(ValueError, match=r"`input_shape` should fit that of the model, \(8, 6, 3\)"):
        export.saved_model(bytes_model(), tmp_path / "m", input_shape=(8, 8, 3))


@pytest.mark.slow
def test_a_model_of_token_ids_serves_its_predictions(tmp_path):
    ids = keras.Input((5,), dtype="int32")
    model = keras.Sequential([ids, LAYERS.Embedding(9, 2), LAYERS.Flatten(), LAYERS.Dense(3, activation="softmax")])
    with pytest.warns(UserWarning, match="the signature `fisher` is left out"):
        path = export.saved_model(model, tmp_path / "m", bounds=(0, 8))
    served = serve(path)
    assert set(served) == {"serving_default", "logits"}
    tokens = np.arange(10).reshape(2, 5) % 9
    actual = served["serving_default"](images=tf.constant(tokens, tf.float32))
    np.testing.assert_allclose(actual["probabilities"], model(tokens), atol=1e-6)
    assert all(check["passed"] for check in runner.check_model(path))


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["sigmoid", "linear"])
def test_one_unit_is_served_as_two_classes(activation, tmp_path):
    model = keras.Sequential([keras.Input((5,)), LAYERS.Dense(1, activation=activation)])
    logits_fn = logits_function(model, from_logits=activation == "linear")
    path = export.saved_model(logits_fn, tmp_path / "m", bounds=(0, 1))
    images = tf.random.stateless_uniform((3, 5), (0, 0))
    p = tf.sigmoid(model(images)) if activation == "linear" else model(images)
    served = serve(path)["serving_default"](images=images)["probabilities"]
    np.testing.assert_allclose(served, np.concatenate([1 - p, p], axis=-1), atol=1e-6)
    assert all(check["passed"] for check in runner.check_model(path))


@pytest.mark.parametrize("version", [True, 1.5, "2"])
def test_a_version_is_a_whole_number(version, tmp_path):
    with pytest.raises(ValueError, match="`version` should be of type int"):
        export.saved_model(bytes_model(), tmp_path / "m", version=version)


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels_of(file, channels=3, size=(8, 6)):
    return decoded(tf.constant([file]), (*size, channels), (0.0, 255.0)).numpy()[0]


@pytest.mark.parametrize("orientation", range(1, 10))
@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_orientation_of_a_file(kind, orientation, byte_order):
    """Against Pillow's turns; 9 is none."""
    kinds = ("FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90")
    turns = dict(enumerate(kinds, start=2))
    exif = Image.Exif()
    exif.endian = byte_order
    exif[0x010F], exif[0x0112], exif[0x0131] = "maker", orientation, "software"
    file = encoded(Image.fromarray(BYTES[0]), kind, quality=100, exif=exif)
    upright = Image.fromarray(tf.io.decode_image(file).numpy())
    if orientation in turns:
        upright = upright.transpose(getattr(Image.Transpose, turns[orientation]))
    upright = np.asarray(upright)
    np.testing.assert_array_equal(pixels_of(file, size=upright.shape[:2]), upright)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_blended_with_white(mode, channels):
    rgba = np.random.default_rng(1).integers(0, 256, (8, 6, 4), np.uint8)
    image = Image.fromarray(rgba)
    image = image.convert("LA") if mode == "LA" else image.quantize(8) if mode == "P" else image
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    blended = Image.alpha_composite(white, image.convert("RGBA")).convert("L" if channels == 1 else "RGB")
    actual = pixels_of(encoded(image, "PNG"), channels)
    np.testing.assert_allclose(actual, np.asarray(blended).reshape(8, 6, channels), atol=2)


@pytest.mark.parametrize("channels", [1, 3])
def test_cmyk_becomes_rgb_or_gray(channels):
    smooth = np.linspace(20, 235, 8 * 6 * 3).reshape(8, 6, 3).astype("uint8")
    image = Image.fromarray(smooth).convert("CMYK")
    expected = np.asarray(Image.fromarray(smooth).convert("L" if channels == 1 else "RGB")).reshape(8, 6, channels)
    actual = pixels_of(encoded(image, "JPEG", quality=100), channels)
    assert np.abs(actual - expected).mean() < 6


EXIF = b"\xff\xe1\x00\x10Exif\x00\x00"


@pytest.mark.parametrize("tail", [b"", EXIF, EXIF + b"II*\x00\xff\xff\xff\xff"])
def test_a_broken_exif_segment_is_no_orientation(tail):
    plain = encoded(Image.fromarray(BYTES[0]), "JPEG", quality=100)
    segment = tail and tail[:2] + (len(tail) - 2).to_bytes(2, "big") + tail[4:]
    np.testing.assert_array_equal(pixels_of(plain[:2] + segment + plain[2:]), pixels_of(plain))
