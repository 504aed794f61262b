"""Random changes of training images, each image by its own draw, one pass for a batch."""

from __future__ import annotations

import math
from typing import NamedTuple

import tensorflow as tf

__all__ = ["Augmentation", "augment"]


class Augmentation(NamedTuple):
    """How far training images may be changed without changing their class.

    Attributes:
        shift: pixels that an image is moved by at most, in whole pixels; its edge repeats.
        mirrored: whether half of the images are mirrored.
        rotation: degrees that an image is turned by at most.
        zoom: share that it grows or shrinks by at most.
        contrast: share that its contrast (about its mean) grows or shrinks by at most.
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


def augment(images: tf.Tensor, seed: tf.Tensor, how: Augmentation) -> tf.Tensor:
    """Change each image at random.

    Args:
        images: uint8 ``(batch, height, width, channels)``.
        seed: int64 ``(2,)``; the same seed makes the same changes.
        how: the largest changes.

    Returns:
        float32 images in [0, 1], in the same shape.
    """
    shape = images.shape
    images = _shifted(images, seed, how)
    images = tf.cast(images, tf.float32) / 255.0
    if how.rotation or how.zoom:
        images = _turned(images, seed + 2, how)
    if how.contrast or how.brightness:
        images = _relit(images, seed + 3, how)
    if how.cutout:
        images = _cut(images, seed + 4, how)
    return tf.ensure_shape(images, shape)


def _shifted(images: tf.Tensor, seed: tf.Tensor, how: Augmentation) -> tf.Tensor:
    shape = tf.shape(images)
    batch, height, width = shape[0], shape[1], shape[2]
    draws = tf.random.stateless_uniform((2, batch, 1), seed, -how.shift, how.shift + 1, dtype=tf.int32)
    rows = tf.clip_by_value(tf.range(height)[None] + draws[0], 0, height - 1)
    columns = tf.clip_by_value(tf.range(width)[None] + draws[1], 0, width - 1)
    if how.mirrored:
        flip = tf.random.stateless_uniform((batch, 1), seed + 1, 0, 2, dtype=tf.int32) > 0
        columns = tf.where(flip, width - 1 - columns, columns)
    return tf.gather(tf.gather(images, rows, axis=1, batch_dims=1), columns, axis=2, batch_dims=1)


def _turned(images: tf.Tensor, seed: tf.Tensor, how: Augmentation) -> tf.Tensor:
    """Rotation and zoom about the centre; what comes from outside repeats the edge."""
    shape = tf.shape(images)
    draws = tf.random.stateless_uniform((2, shape[0]), seed, -1.0, 1.0)
    angle, scale = draws[0] * how.rotation * math.pi / 180.0, 1.0 + draws[1] * how.zoom
    cosine, sine = tf.cos(angle) / scale, tf.sin(angle) / scale
    x, y = tf.cast(shape[2] - 1, tf.float32) / 2, tf.cast(shape[1] - 1, tf.float32) / 2
    zero = tf.zeros_like(angle)
    offsets = x - cosine * x + sine * y, y - sine * x - cosine * y
    transforms = tf.stack([cosine, -sine, offsets[0], sine, cosine, offsets[1], zero, zero], axis=-1)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=transforms,
        output_shape=shape[1:3],
        interpolation="BILINEAR",
        fill_mode="NEAREST",
        fill_value=0.0,
    )


def _relit(images: tf.Tensor, seed: tf.Tensor, how: Augmentation) -> tf.Tensor:
    draws = tf.random.stateless_uniform((2, tf.shape(images)[0], 1, 1, 1), seed, -1.0, 1.0)
    mean = tf.reduce_mean(images, axis=(1, 2, 3), keepdims=True)
    contrast, brightness = 1.0 + draws[0] * how.contrast, draws[1] * how.brightness
    return tf.clip_by_value(mean + (images - mean) * contrast + brightness, 0.0, 1.0)


def _cut(images: tf.Tensor, seed: tf.Tensor, how: Augmentation) -> tf.Tensor:
    shape = tf.shape(images)
    draws = tf.random.stateless_uniform((2, shape[0], 1), seed)

    def covered(size: tf.Tensor, draw: tf.Tensor) -> tf.Tensor:
        first = tf.cast(draw * tf.cast(size, tf.float32), tf.int32) - how.cutout // 2
        return (tf.range(size) >= first) & (tf.range(size) < first + how.cutout)

    rows, columns = covered(shape[1], draws[0]), covered(shape[2], draws[1])
    return tf.where((rows[:, :, None] & columns[:, None, :])[..., None], 0.5, images)
