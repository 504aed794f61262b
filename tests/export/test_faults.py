"""Faults at any point of an export, and requests that nobody should send."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_fim import export, models, records
from keras_fim.export import companions, saved
from keras_fim.export.decoding import Limits, decoded
from keras_fim.export.signatures import classifier_signatures
from keras_fim.logits import logits_function
from keras_fim.pixels import PixelRange


class Killed(BaseException):
    """Nothing catches it."""


class Tracer:
    """Collects the lines of the exporter in the order of their first run, and raises at one of them."""

    FILES = (saved.__file__, companions.__file__)

    def __init__(self, fatal=None):
        self.fatal, self.lines = fatal, {}

    def __call__(self, frame, event, argument):
        return self.in_frame if frame.f_code.co_filename in self.FILES else None

    def in_frame(self, frame, event, argument):
        if event == "line":
            line = (frame.f_code.co_filename, frame.f_lineno)
            self.lines[line] = None
            if line == self.fatal:
                raise Killed
        return self.in_frame

    def run(self, function):
        before = sys.gettrace()
        sys.settrace(self)
        try:
            function()
        finally:
            sys.settrace(before)


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.slow
def test_killed_at_any_line_it_leaves_the_old_versions_and_nothing_half(tmp_path, monkeypatch):
    """TensorFlow's writing is replaced by something quick; nothing is cleaned up, as after SIGKILL."""
    model = models.convnet(filters=(1, 1))
    concrete = {}

    class Traced:
        def __init__(self, name, function):
            self.name, self.function = name, function

        def get_concrete_function(self):
            if self.name not in concrete:
                concrete[self.name] = self.function.get_concrete_function()
            return concrete[self.name]

    def signatures(serving):
        functions = concrete or classifier_signatures(serving)
        return {name: Traced(name, function) for name, function in functions.items()}

    def save(module, path, signatures):
        tf.io.gfile.makedirs(f"{path}/variables")
        for name in ("saved_model.pb", "variables/variables.index"):
            tf.io.write_file(f"{path}/{name}", name)

    monkeypatch.setattr(saved, "classifier_signatures", signatures)
    monkeypatch.setattr(saved.tf.saved_model, "save", save)
    folder, labels = tmp_path / "m", [str(index) for index in range(10)]
    assert export.saved_model(model, folder, labels=labels, bounds=(0, 1)).name == "1"
    whole = tree(folder / "1")
    counter = Tracer()
    counter.run(lambda: export.saved_model(model, folder, labels=labels, bounds=(0, 1)))
    assert len(counter.lines) > 80
    monkeypatch.setattr(records, "_remove", lambda path: None)
    outcomes = set()
    for line in counter.lines:
        versions = sorted(path.name for path in folder.iterdir())
        with pytest.raises(Killed):
            Tracer(line).run(lambda: export.saved_model(model, folder, labels=labels, bounds=(0, 1)))
        new = {path.name for path in folder.iterdir()} - set(versions)
        outcomes.add(len(new))
        assert new <= {str(len(versions) + 1)}
        assert all(tree(path) == whole for path in folder.iterdir())
    assert outcomes == {0, 1}  # the last lines come after the renaming


@pytest.mark.nightly
def test_killed_at_a_random_moment_every_version_is_whole(tmp_path):
    program = """
import sys
from keras_fim import export, models, records
model = models.convnet(filters=(1, 1))
while True:
    export.saved_model(model, sys.argv[1], bounds=(0, 1))
"""
    for seconds in (0.7, 1.6):
        folder = tmp_path / str(seconds) / "m"
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        process = subprocess.Popen([sys.executable, "-c", program, str(folder)], env=environment)
        try:
            deadline = time.monotonic() + 120
            while not (folder / "1").exists() and time.monotonic() < deadline:
                assert process.poll() is None
                time.sleep(0.05)
            time.sleep(seconds)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        versions = list(folder.iterdir())
        assert versions and all(path.name.isdecimal() for path in versions)
        assert all(tree(path) == tree(folder / "1") for path in versions)
        for path in versions:
            tf.saved_model.load(str(path))


PNG = tf.io.encode_png(np.random.default_rng(0).integers(0, 256, (28, 28, 1), np.uint8)).numpy()
JPEG = tf.io.encode_jpeg(np.random.default_rng(0).integers(0, 256, (28, 28, 1), np.uint8)).numpy()
NAN = np.full((2, 28, 28, 1), 0.5, "float32")
NAN[1, 3, 4, 0] = np.nan


def announcing(height, width):
    """A small PNG file whose header announces a large image."""
    return PNG[:16] + height.to_bytes(4, "big") + width.to_bytes(4, "big") + PNG[24:]


IMAGES = {
    "NaN": NAN,
    "infinite": np.where(np.isnan(NAN), np.inf, NAN),
    "wrong shape": np.zeros((2, 28, 27, 1), "float32"),
    "no batch axis": np.zeros((28, 28, 1), "float32"),
    "float64": np.zeros((2, 28, 28, 1)),
    "uint8": np.zeros((2, 28, 28, 1), "uint8"),
    "strings": np.full((2, 28, 28, 1), "x"),
}
FILES = {
    "truncated PNG": PNG[:60],
    "truncated header": PNG[:18],
    "truncated JPEG": JPEG[:100],
    "nothing": b"",
    "text": b"hello, this is no image at all",
    "zeros": bytes(4000),
    "100 MB of noise": np.random.default_rng(0).bytes(100_000_000),
    "a PNG that announces 100 MB": announcing(10_000, 10_000),
    "a PNG that announces 2^62 pixels": announcing(2**31 - 1, 2**31 - 1),
    "a PNG of negative size": announcing(2**32 - 1, 28),
    "a PNG of no size": announcing(0, 28),
}


def refused(function, **inputs):
    with pytest.raises((tf.errors.OpError, TypeError, ValueError)):
        function(**inputs)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["serving_default", "logits", "fisher", "trust", "detect"])
@pytest.mark.parametrize("images", IMAGES.values(), ids=IMAGES.keys())
def test_bad_images_are_errors_of_the_request(name, images, signatures, exported):
    refused(signatures[name], images=tf.constant(images))
    assert np.isfinite(signatures[name](images=exported.images[:2]).popitem()[1]).all()


@pytest.mark.slow
def test_what_the_model_makes_of_an_image_is_finite_or_an_error(tmp_path):
    layers = [keras.Input((2,)), keras.layers.Dense(3, kernel_initializer=keras.initializers.Constant(3e38))]
    options = {"bounds": (0, 1), "images": np.zeros((4, 2))}  # whose references are finite
    loaded = tf.saved_model.load(str(export.saved_model(keras.Sequential(layers), tmp_path / "m", **options)))
    for name, function in loaded.signatures.items():
        with pytest.raises(tf.errors.InvalidArgumentError, match="not finite"):
            function(images=tf.constant([[1.0, 1.0]]))
        answer = function(images=tf.zeros((1, 2)))
        assert all(np.isfinite(value).all() for key, value in answer.items() if key != "boundary_radius"), name
    flat = loaded.signatures["trust"](images=tf.zeros((1, 2)))
    assert np.isnan(flat["boundary_radius"])  # all classes have one weight: no margin has a gradient


@pytest.mark.parametrize("file", FILES.values(), ids=FILES.keys())
def test_bad_files_are_errors_of_the_request(file, signatures):
    refused(signatures["image_bytes"], image_bytes=tf.constant([PNG, file]))
    assert signatures["image_bytes"](image_bytes=tf.constant([PNG, JPEG]))["classes"].shape == (2,)


def test_large_images_up_to_the_limit_are_decoded(signatures):
    files = tf.stack([tf.io.encode_png(tf.zeros((side, 100, 1), tf.uint8)) for side in (100, 101)])
    limits = Limits(pixels=10_000, decoded_bytes=20_000)
    assert decoded(tf.stack([files[0]] * 2), (28, 28, 1), (0.0, 1.0), limits).shape == (2, 28, 28, 1)
    with pytest.raises(tf.errors.InvalidArgumentError, match="files of at most 10000 pixels"):
        decoded(files[1:], (28, 28, 1), (0.0, 1.0), limits)
    for count, shape in ((3, (28, 28, 1)), (1, (28, 28, 3))):  # bytes count channels
        with pytest.raises(tf.errors.InvalidArgumentError, match="files of at most 20000 bytes when they are decoded"):
            decoded(tf.stack([files[0]] * count), shape, (0.0, 1.0), limits)
    assert signatures["image_bytes"](image_bytes=files)["classes"].shape == (2,)


def test_a_request_for_too_many_images_is_an_error_of_the_request(signatures):
    for name, function in signatures.items():
        many = (
            {"image_bytes": tf.fill([4097], b"")} if name == "image_bytes" else {"images": tf.zeros((4097, 28, 28, 1))}
        )
        with pytest.raises(tf.errors.InvalidArgumentError, match="should hold at most 4096 images in a request"):
            function(**many)


@pytest.mark.parametrize("options", [{"images": 15}, {"pixels": 0}, {"decoded_bytes": 1 << 31}, {"images": "many"}])
def test_limits_are_checked(options):
    with pytest.raises(ValueError, match=f"`{next(iter(options))}` should be"):
        Limits(**options)


def test_no_image_is_no_output(signatures):
    for name, function in signatures.items():
        empty = {"image_bytes": tf.constant([], tf.string)} if name == "image_bytes" else {}
        for value in function(**empty or {"images": tf.zeros((0, 28, 28, 1))}).values():
            assert value.shape[0] == 0


def test_signatures_do_not_retrace(exported):
    options = {"kl": 0.1, "direction": True, "fisher_steps": 2, "detector": None, "image_shape": (28, 28, 1)}
    serving = saved.Serving(logits_fn=logits_function(exported.model), pixels=PixelRange(0.0, 1.0), **options)
    functions = classifier_signatures(serving)
    for count in (1, 2, 5):
        functions["fisher"](exported.images[:count])
    assert functions["fisher"].experimental_get_tracing_count() == 1
