from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_fim import models

SHAPES = {"convnet": ((28, 28, 1), 10), "vgg11": ((32, 32, 3), 10), "resnet14": ((32, 32, 3), 43)}
WEIGHT_LAYERS = {"convnet": 3, "vgg11": 11, "resnet14": 14}


@pytest.fixture(params=models.MODELS)
def name(request):
    return request.param


def test_models_have_the_papers_number_of_weight_layers(name):
    """A 1x1 convolution on a shortcut is not counted, as in ResNet's own naming."""
    kinds = (keras.layers.Conv2D, keras.layers.Dense)
    layers = [layer for layer in models.MODELS[name]().layers if isinstance(layer, kinds)]
    assert len([layer for layer in layers if "shortcut" not in layer.name]) == WEIGHT_LAYERS[name]


def test_shapes_and_probabilities(name):
    shape, num_classes = SHAPES[name]
    model = models.MODELS[name]()
    assert model.input_shape == (None, *shape) and model.output_shape == (None, num_classes)
    probabilities = model(np.random.default_rng(0).uniform(size=(2, *shape)).astype("float32")).numpy()
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1, rtol=1e-5)
    assert model.get_layer("logits").output.shape == (None, num_classes)


def test_softmax_is_float32_under_a_mixed_policy(name):
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    model = models.MODELS[name]()
    assert model.output.dtype == "float32" and model.get_layer("logits").compute_dtype == "float32"
    assert model.layers[2].compute_dtype == "bfloat16"


def test_batch_normalization_averages_with_momentum_0_9(name):
    norms = [layer for layer in models.MODELS[name]().layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert norms and all(layer.momentum == 0.9 for layer in norms)


def test_width_of_vgg11_scales_its_channels():
    assert models.vgg11(width=0.5).get_layer("conv5_2").filters == 256
    assert models.vgg11(width=0.5).count_params() * 2 < 5_000_000  # bytes as float16


def test_dropout_of_vgg11():
    names = [layer.name for layer in models.vgg11(width=0.1, dropout=0.5).layers]
    assert {"dropout1", "dropout2"} <= set(names)
