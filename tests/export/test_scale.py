"""Whatever the range of the pixels, a served model answers the same."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_fim.detection import FisherDetector
from keras_fim.export.signatures import Serving, classifier_signatures
from keras_fim.logits import logits_function
from keras_fim.pixels import find_range

LAYERS = keras.layers
SHAPE = (4, 4, 3)
BYTES = np.random.default_rng(0).integers(0, 256, (6, *SHAPE), np.uint8)
UNITS = BYTES / 255


def classifier(low, high):
    """With a rescaling of the range to 0..1 in front."""
    keras.utils.set_random_seed(0)
    front = LAYERS.Rescaling(1 / (high - low), -low / (high - low))
    layers = [LAYERS.Flatten(), LAYERS.Dense(8, activation="tanh"), LAYERS.Dense(3, activation="softmax")]
    return keras.Sequential([keras.Input(SHAPE), front, *layers])


def answers(low, high):
    """Every signature's outputs, for images of which the last is outside of the range."""
    logits_fn = logits_function(classifier(low, high))
    serving = Serving(
        logits_fn=logits_fn,
        image_shape=SHAPE,
        pixels=find_range(logits_fn, bounds=(low, high)),
        kl=math.log(2),
        direction=True,
        fisher_steps=1,
        detector=FisherDetector(threshold=-2 * math.log(high - low) - 0.5, false_positive_rate=0.1),
    )
    signatures = classifier_signatures(serving)
    images = np.concatenate([UNITS, UNITS[:1]])
    images[-1, 0, 0] = 1.01
    images = tf.constant(low + (high - low) * images, tf.float32)
    files = tf.stack([tf.io.encode_png(image) for image in BYTES])
    return {
        f"{name}/{key}": value.numpy()
        for name, signature in signatures.items()
        for key, value in signature(files if name == "image_bytes" else images).items()
    }


@pytest.fixture(scope="module")
def expected():
    return answers(0.0, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("bounds", [(0.0, 255.0), (-1.0, 1.0), (0.0, 1e-3), (-1000.0, 1000.0)], ids=str)
def test_every_signature_is_scale_covariant(bounds, expected):
    span = bounds[1] - bounds[0]
    scaled = {"fisher/lambda_max": span**-2, "fisher/kl_radius": span}
    scaled |= {"trust/lambda_max": span**-2, "trust/boundary_radius": span}
    result = answers(*bounds)
    assert result.keys() == expected.keys() and len(result) == 19
    for name, value in result.items():
        if value.dtype.kind == "f":
            value = value + 2 * math.log(span) if name == "detect/score" else value / scaled.get(name, 1.0)
            np.testing.assert_allclose(value, expected[name], rtol=1e-3, atol=1e-4, err_msg=name)
        else:
            np.testing.assert_array_equal(value, expected[name], err_msg=name)
    assert result["fisher/in_bounds"].tolist() == [True] * 6 + [False]
    assert np.isfinite(result["fisher/kl_radius"][:-1]).all() and np.isnan(result["fisher/kl_radius"][-1])
    assert 0 < expected["detect/is_adversarial"][:-1].sum() < 6
