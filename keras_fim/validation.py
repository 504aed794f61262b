"""Checks of what users pass in: images, labels, pixel bounds."""

import math
from typing import Any

import numpy as np
import tensorflow as tf

from keras_fim.arguments import expect, require
from keras_fim.typing import Bounds, Images, Labels

_SLACK = 0.5 / 255  # of the range: float16, resizing and JSON round, and so do images of 8 bits


def check_images(images: Images, bounds: Bounds | None = None) -> tf.Tensor:
    """Images as a float32 tensor (float64 stays).

    Args:
        images: array-like ``(batch, ...)`` of numbers.
        bounds: smallest and largest pixel allowed; ``None`` for any. Images outside by less than 0.5/255 of the range
            are clipped.

    Returns:
        The images, a tensor.

    Raises:
        ValueError: if there are none, they have no batch axis, are not finite or exceed the bounds.
    """
    try:
        images = tf.convert_to_tensor(images)
    except (ValueError, TypeError) as error:
        raise ValueError(f"`images` should be an array of numbers. Received: {images!r:.80} ({error})") from error
    expect(images.dtype.is_floating or images.dtype.is_integer, "images", "numbers", received=images.dtype.name)
    require(images.shape.rank >= 2, f"`images` should have shape (batch, ...). Received: shape={tuple(images.shape)}")
    require(images.shape[0] != 0, "`images` should not be empty. Received: 0 images")
    if bounds is not None and images.dtype.is_integer and bounds == (0.0, 1.0):
        raise ValueError(f"`images` should be in [0, 1]. Received: {images.dtype.name} images; divide them by 255")
    if images.dtype != tf.float64:
        images = tf.cast(images, tf.float32)
    expect(bool(tf.reduce_all(tf.math.is_finite(images))), "images", "finite", received="NaN or infinite values")
    return images if bounds is None else clipped(images, bounds)[0]


def clipped(images: tf.Tensor, bounds: Bounds) -> tuple[tf.Tensor, int]:
    """Images within bounds, and how many of them were outside by less than 0.5/255 of the range.

    Args:
        images: ``(batch, ...)``, floating and finite.
        bounds: Smallest and largest pixel value.

    Returns:
        The images, clipped, and the number of those that were changed.

    Raises:
        ValueError: If one is further outside, or the bounds are of another number of channels.
    """
    inner, close = inside_or_not(images, bounds)
    if not bool(tf.reduce_all(close)):
        extremes = f"values from {float(tf.reduce_min(images)):g} to {float(tf.reduce_max(images)):g}"
        raise ValueError(f"`images` should be within the bounds {bounds}; scale, or pass others. Received: {extremes}")
    return inner, int(tf.math.count_nonzero(tf.reduce_any(inner != images, axis=tuple(range(1, images.shape.rank)))))


def inside_or_not(images: tf.Tensor, bounds: Bounds) -> tuple[tf.Tensor, tf.Tensor]:
    """Images clipped where they are outside of the bounds by a rounding error, and which images are not further out.

    Args:
        images: ``(batch, ...)``, floating.
        bounds: Smallest and largest pixel value.

    Returns:
        The images, and bool ``(batch,)``: False for one with NaN or with a pixel outside by more than 0.5/255 of the
        range, which is left as it is.

    Raises:
        ValueError: If the bounds are of another number of channels.
    """
    low, high = (tf.constant(end, images.dtype) for end in bounds)
    if low.shape.rank and low.shape[0] != images.shape[-1]:
        raise ValueError(f"`bounds` should have {images.shape[-1]} values for the last axis. Received: bounds={bounds}")
    slack = _SLACK * (high - low)
    near = tf.reduce_all((images >= low - slack) & (images <= high + slack), axis=tuple(range(1, images.shape.rank)))
    keep = tf.reshape(near, [-1, *[1] * (images.shape.rank - 1)])
    return tf.where(keep, tf.clip_by_value(images, low, high), images), near


def check_labels(labels: Labels, num_images: int, num_classes: int) -> np.ndarray:
    """Labels as class indices.

    Args:
        labels: class indices ``(batch,)``, or one-hot rows ``(batch, K)``.
        num_images: how many there should be.
        num_classes: number of classes K.

    Returns:
        int64 ``(batch,)``.

    Raises:
        ValueError: if their number or shape does not fit, or one is not a class.
    """
    array = np.asarray(labels)
    expect(array.dtype.kind in "biuf", "labels", "numbers", received=f"{array.dtype} values")
    if array.shape == (num_images, num_classes) and num_classes > 1:
        if not (np.isin(array, (0, 1)).all() and (array.sum(axis=-1) == 1).all()):
            raise ValueError("`labels` should be one-hot rows or class indices. Received: rows that are not one-hot")
        return np.asarray(array.argmax(axis=-1), np.int64)
    if array.shape == (num_images, 1):
        array = array[:, 0]
    expected = f"({num_images},) or ({num_images}, {num_classes})"
    require(array.shape == (num_images,), f"`labels` should have shape {expected}. Received: shape={array.shape}")
    indices = array.astype(np.int64)
    expect((indices == array).all(), "labels", "whole numbers", received=str(array[indices != array][:3])[1:-1])
    outside = indices[(indices < 0) | (indices >= num_classes)][:3]
    expect(not len(outside), "labels", f"from 0 to {num_classes - 1}", received=str(outside)[1:-1])
    return indices


def check_bounds(bounds: Any) -> Any:
    """Pixel bounds as two floats, or as two tuples with one for each channel.

    Raises:
        ValueError: if they are not two finite numbers, or lists of them, the first below the second.
    """
    try:
        low, high = (np.asarray(end, np.float64) for end in bounds)
        finite = low.shape == high.shape and low.ndim <= 1 and np.isfinite([low, high]).all()
        valid = bool(finite) and bool((low < high).all())
    except (TypeError, ValueError):
        valid = False
    expect(valid, "bounds", "(lowest, highest) pixel value", bounds)
    return tuple(tuple(end.tolist()) if end.ndim else float(end) for end in (low, high))


def inside(images: tf.Tensor, bounds: Bounds) -> tf.Tensor:
    """`clipped`, for a compiled step.

    Raises:
        ValueError: as `refuse` does.
    """
    inner, near = inside_or_not(images, bounds)
    message = f"Images should be within the bounds {bounds}. Received values outside: rescale them, or pass `bounds`."
    return refuse(~tf.reduce_all(near), message, inner)


def refuse(invalid: tf.Tensor, message: str, tensor: tf.Tensor) -> tf.Tensor:
    """``tensor``, unless ``invalid``: then a ValueError where values are known, an error of the graph where not yet.

    XLA knows no errors: there the tensor, and with it what is computed from it, becomes NaN.
    """
    if tf.executing_eagerly():
        if invalid:
            raise ValueError(message)
        return tensor
    with tf.control_dependencies([tf.debugging.Assert(~invalid, [message])]):
        return tf.where(invalid, tf.cast(math.nan, tensor.dtype), tensor)
