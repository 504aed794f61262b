"""The paper's three classifiers: ConvNet (MNIST), VGG-11 (CIFAR-10) and ResNet-14 (GTSRB).

All take images in [0, 1] (the scaling to [-1, 1] is part of the model, so attacks and servers see plain images), have
a dense layer named ``logits`` and end in a float32 softmax named ``probabilities``, whatever the dtype policy.
``BatchNormalization`` averages with momentum 0.9: the default of 0.99 lags behind in short runs.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import layers

from keras_fim.arguments import AtLeastTwo, Positive, ShareBelowOne, checked, expect, require

_MOMENTUM = 0.9


@checked
def convnet(
    input_shape: Sequence[int] = (28, 28, 1),
    num_classes: AtLeastTwo = 10,
    *,
    filters: Sequence[int] = (24, 48),
    name: str = "convnet",
) -> keras.Model:
    """The paper's ConvNet: two 5x5 convolutions with batch normalization and pooling, one dense layer.

    Args:
        input_shape: ``(height, width, channels)`` of the images.
        num_classes: number of classes K, at least 2.
        filters: output channels of the two convolutions.
        name: name of the Keras model.

    Returns:
        A functional ``keras.Model``: images ``(batch, *input_shape)`` in [0, 1] -> probabilities ``(batch, K)``.

    Raises:
        ValueError: if ``input_shape`` is not of three positive integers, ``num_classes < 2`` or
            ``filters`` is not a pair.

    Example:
        >>> convnet().count_params()
        53218
    """
    inputs, x = _scaled_images(input_shape)
    require(len(filters) == 2, f"`filters` should hold 2 positive integers. Received: filters={filters}")
    for index, width in enumerate(filters, start=1):
        x = _convolution(x, width, kernel_size=5, name=f"conv{index}")
        x = layers.MaxPooling2D(name=f"pool{index}")(x)
    return _classifier(inputs, layers.Flatten(name="flatten")(x), num_classes, name)


@checked
def vgg11(
    input_shape: Sequence[int] = (32, 32, 3),
    num_classes: AtLeastTwo = 10,
    *,
    width: Positive = 1.0,
    dropout: ShareBelowOne = 0.0,
    name: str = "vgg11",
) -> keras.Model:
    """VGG-11 (Simonyan & Zisserman, configuration A) with batch normalization: 8 convolutions, 3 dense layers.

    The dense layers have 512 units instead of 4096, as suits 32x32 images (the paper's "simplified VGG").

    Args:
        input_shape: ``(height, width, channels)`` of the images, at least 32x32.
        num_classes: number of classes K, at least 2.
        width: factor on the number of channels and units of all layers but the last.
        dropout: share of units dropped before each of the hidden dense layers.
        name: name of the Keras model.

    Returns:
        A functional ``keras.Model``: images ``(batch, *input_shape)`` in [0, 1] -> probabilities ``(batch, K)``.

    Raises:
        ValueError: if ``input_shape`` is not of three positive integers or under 32x32, ``num_classes < 2``,
            ``width <= 0`` or ``dropout`` is outside [0, 1).
    """
    inputs, x = _scaled_images(input_shape)
    expect(min(input_shape[:2]) >= 32, "input_shape", "at least (32, 32, channels)", input_shape)
    for stage, channels in enumerate(((64,), (128,), (256, 256), (512, 512), (512, 512)), start=1):
        for index, base in enumerate(channels, start=1):
            x = _convolution(x, max(1, round(base * width)), name=f"conv{stage}_{index}")
        x = layers.MaxPooling2D(name=f"pool{stage}")(x)
    x = layers.Flatten(name="flatten")(x)
    units = max(1, round(512 * width))
    for index in (1, 2):
        if dropout:
            x = layers.Dropout(dropout, name=f"dropout{index}")(x)
        x = layers.Dense(units, kernel_initializer="he_normal", name=f"fc{index}")(x)
        x = layers.ReLU(name=f"fc{index}_relu")(x)
    return _classifier(inputs, x, num_classes, name)


@checked
def resnet14(
    input_shape: Sequence[int] = (32, 32, 3),
    num_classes: AtLeastTwo = 43,
    *,
    filters: Sequence[int] = (16, 32, 64),
    name: str = "resnet14",
) -> keras.Model:
    """ResNet-14 in the CIFAR layout of He et al.: one convolution, three stages of two basic blocks, one dense layer.

    Args:
        input_shape: ``(height, width, channels)`` of the images.
        num_classes: number of classes K, at least 2.
        filters: output channels of the three stages; the second and the third halve the resolution.
        name: name of the Keras model.

    Returns:
        A functional ``keras.Model``: images ``(batch, *input_shape)`` in [0, 1] -> probabilities ``(batch, K)``.

    Raises:
        ValueError: if ``input_shape`` is not of three positive integers, ``num_classes < 2`` or ``filters`` does not
            hold three numbers.
    """
    inputs, x = _scaled_images(input_shape)
    require(len(filters) == 3, f"`filters` should hold 3 positive integers. Received: filters={filters}")
    x = _convolution(x, filters[0], name="conv1")
    for stage, width in enumerate(filters, start=2):
        for block in (1, 2):
            x = _basic_block(x, width, 2 if stage > 2 and block == 1 else 1, name=f"stage{stage}_block{block}")
    return _classifier(inputs, layers.GlobalAveragePooling2D(name="pool")(x), num_classes, name)


MODELS: dict[str, Callable[..., keras.Model]] = {"convnet": convnet, "vgg11": vgg11, "resnet14": resnet14}


def _scaled_images(input_shape: Sequence[int]) -> tuple[Any, Any]:
    """The input of images in [0, 1], and the images in [-1, 1]."""
    expect(len(input_shape) == 3 and min(input_shape) >= 1, "input_shape", "(height, width, channels)", input_shape)
    inputs = keras.Input(tuple(input_shape), name="images")
    return inputs, layers.Rescaling(2.0, offset=-1.0, name="scale")(inputs)


def _convolution(
    x: Any, width: int, *, name: str, kernel_size: int = 3, strides: int = 1, activation: bool = True
) -> Any:
    options = {"padding": "same", "use_bias": False, "kernel_initializer": "he_normal", "name": name}
    x = layers.Conv2D(width, kernel_size, strides=strides, **options)(x)
    x = layers.BatchNormalization(momentum=_MOMENTUM, name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x) if activation else x


def _basic_block(x: Any, width: int, strides: int, *, name: str) -> Any:
    shortcut = x
    if strides > 1 or x.shape[-1] != width:
        shortcut = _convolution(x, width, kernel_size=1, strides=strides, activation=False, name=f"{name}_shortcut")
    x = _convolution(x, width, strides=strides, name=f"{name}_conv1")
    x = _convolution(x, width, activation=False, name=f"{name}_conv2")
    return layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([x, shortcut]))


def _classifier(inputs: Any, features: Any, num_classes: int, name: str) -> keras.Model:
    dense = layers.Dense(num_classes, dtype="float32", name="logits")
    return keras.Model(inputs, layers.Softmax(dtype="float32", name="probabilities")(dense(features)), name=name)
