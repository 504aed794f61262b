"""Random changes of training images, each image by its own draw."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from keras_fim.data.splits import PassSeed


class Augmentation(NamedTuple):
    """How far training images may be changed without changing their class.

    Attributes:
        shift: pixels that an image is moved by at most, in whole pixels; its edge repeats.
        mirrored: whether half of the images are mirrored.
        rotation: degrees that an image is turned by at most.
        zoom: share z: its scale is divided by a number from 1 - z to 1 + z.
        contrast: share that its contrast (about the mean of each channel) grows or shrinks by at most.
        brightness: what is added to or taken from its pixels in [0, 1] at most.
        cutout: side in pixels of a gray square put at a random place, partly outside at times (DeVries & Taylor 2017).
    """

    shift: int = 0
    mirrored: bool = False
    rotation: float = 0.0
    zoom: float = 0.0
    contrast: float = 0.0
    brightness: float = 0.0
    cutout: int = 0


def augmenter(
    how: Augmentation, image_shape: Sequence[int], *, seed: int | PassSeed | None = None
) -> Callable[[tf.Tensor], tf.Tensor]:
    """A function that changes each image of a batch by its own random draw, for `tf.data.Dataset.map`.

    Args:
        how: The largest changes.
        image_shape: ``(height, width, channels)``.
        seed: Random seed; two functions with one seed make the same changes from batch to batch. ``None`` draws one. A
            `PassSeed` is told of the random generators.

    Returns:
        A function of float32 images ``(batch, height, width, channels)`` in [0, 1] that returns images of that shape.
        It keeps the state of its random numbers, so it must not be mapped over several batches in parallel.
    """
    size = tuple(int(side) for side in image_shape[:2])
    first = seed.seed if isinstance(seed, PassSeed) else seed
    changes = _layers(how, size, first)
    generator = keras.random.SeedGenerator(first)
    if isinstance(seed, PassSeed):
        own = [value for layer in changes for value in vars(layer).values()]
        seed.generators += [generator, *(value for value in own if isinstance(value, keras.random.SeedGenerator))]

    def augment(images: tf.Tensor) -> tf.Tensor:
        shape = images.shape
        for change in changes:
            images = change(images, training=True)
        if how.cutout:
            images = _cut(images, size, how.cutout, generator)
        return tf.ensure_shape(images, shape)

    return augment


def _layers(how: Augmentation, size: tuple[int, ...], seed: int | None) -> list[keras.layers.Layer]:
    shifts = [(how.shift + 0.5) / side for side in size]  # rounded to whole pixels, all shifts are equally probable
    contrast = (how.contrast, how.contrast)  # a single number only raises the contrast
    lit, filled = {"value_range": (0.0, 1.0)}, {"fill_mode": "nearest"}
    layers: list[tuple[float, type[keras.layers.Layer], Sequence[Any], dict[str, Any]]] = [
        (how.mirrored, keras.layers.RandomFlip, ["horizontal"], {}),
        (how.shift, keras.layers.RandomTranslation, shifts, {"interpolation": "nearest", **filled}),
        (how.rotation, keras.layers.RandomRotation, [how.rotation / 360], filled),
        (how.zoom, keras.layers.RandomZoom, [how.zoom], filled),
        (how.contrast, keras.layers.RandomContrast, [contrast], lit),
        (how.brightness, keras.layers.RandomBrightness, [how.brightness], lit),
    ]
    return [
        # with one seed for all, an image's draws would be the same in each layer
        layer(*arguments, **options, seed=None if seed is None else seed + index, dtype="float32")
        for index, (amount, layer, arguments, options) in enumerate(layers, start=1)
        if amount
    ]


def _cut(images: tf.Tensor, size: tuple[int, ...], side: int, generator: keras.random.SeedGenerator) -> tf.Tensor:
    """Gray squares; `keras.layers.RandomErasing` keeps them inside of the image, and Keras 3.8 does not have it."""
    draws = keras.random.uniform((2, tf.shape(images)[0], 1), seed=generator)

    def covered(length: int, draw: tf.Tensor) -> tf.Tensor:
        first = tf.cast(draw * length, tf.int32) - side // 2
        return (tf.range(length) >= first) & (tf.range(length) < first + side)

    rows, columns = covered(size[0], draws[0]), covered(size[1], draws[1])
    return tf.where((rows[:, :, None] & columns[:, None, :])[..., None], 0.5, images)
