from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

GENERATOR = np.random.default_rng(0)
PATTERNS = GENERATOR.uniform(0.2, 0.8, size=(4, 6, 6, 1))


@pytest.fixture(scope="session")
def patterns():
    """Noisy copies of four random patterns: ``(images, labels)``, float32 in [0, 1]."""
    labels = np.arange(80) % 4
    images = np.clip(PATTERNS[labels] + GENERATOR.normal(0, 0.1, (80, 6, 6, 1)), 0, 1)
    return images.astype("float32"), labels


@pytest.fixture
def small_model():
    """A small classifier of the patterns with dropout and batch normalization, compiled."""
    return compiled_model()


def compiled_model():
    keras.utils.set_random_seed(0)
    layers = [
        *(keras.Input((6, 6, 1)), keras.layers.Flatten(), keras.layers.Dense(12, activation="tanh")),
        *(keras.layers.BatchNormalization(momentum=0.9), keras.layers.Dropout(0.3)),
        keras.layers.Dense(4, activation="softmax"),
    ]
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.Adam(0.01), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


@pytest.fixture
def read_events():
    """A function that reads back a run's event files."""

    def read(folder):
        assert Path(folder).is_dir(), f"no run {folder}"
        accumulator = EventAccumulator(str(folder), size_guidance={"tensors": 0})
        accumulator.Reload()
        return accumulator

    return read
