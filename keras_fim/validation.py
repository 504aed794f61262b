"""Checks of what users pass in: images, labels, pixel bounds."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from keras_fim.typing import Bounds, Images, Labels

__all__ = ["check_bounds", "check_images", "check_labels", "inside", "refuse"]


def check_images(images: Images, bounds: Bounds | None = None) -> tf.Tensor:
    """Images as a float32 tensor (float64 stays).

    Args:
        images: array-like ``(batch, ...)`` of numbers.
        bounds: smallest and largest pixel allowed, or one pair of tuples by channel; ``None`` for any.

    Returns:
        The images, a tensor.

    Raises:
        ValueError: if there are none, they have no batch axis, are not finite or exceed the bounds.
    """
    images = tf.convert_to_tensor(images)
    if images.shape.rank is None or images.shape.rank < 2:
        raise ValueError(f"`images` should have shape (batch, ...). Received: shape={tuple(images.shape)}")
    if images.shape[0] == 0:
        raise ValueError("`images` should not be empty. Received: 0 images")
    if bounds is not None and images.dtype.is_integer and bounds == (0.0, 1.0):
        raise ValueError(f"`images` should be in [0, 1]. Received: {images.dtype.name} images; divide them by 255")
    if bounds is not None and isinstance(bounds[0], tuple) and len(bounds[0]) != images.shape[-1]:
        raise ValueError(
            f"`bounds` should have {images.shape[-1]} values for the last axis of the images. Received: bounds={bounds}"
        )
    if images.dtype != tf.float64:
        images = tf.cast(images, tf.float32)
    low, high = float(tf.reduce_min(images)), float(tf.reduce_max(images))
    if not np.isfinite([low, high]).all() or bool(tf.reduce_any(tf.math.is_nan(images))):
        raise ValueError("`images` should be finite. Received: NaN or infinite values")
    if bounds is None:
        return images
    if not _all_inside(images, bounds):
        raise ValueError(f"`images` should be within the bounds {bounds}. Received: values from {low:g} to {high:g}")
    return tf.clip_by_value(images, *(tf.constant(np.asarray(end), images.dtype) for end in bounds))


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
    if array.shape == (num_images, num_classes) and num_classes > 1:
        if not (np.isin(array, (0, 1)).all() and (array.sum(axis=-1) == 1).all()):
            raise ValueError("`labels` should be one-hot rows or class indices. Received: rows that are not one-hot")
        return np.asarray(array.argmax(axis=-1), np.int64)
    if array.shape == (num_images, 1):
        array = array[:, 0]
    if array.shape != (num_images,):
        expected = f"({num_images},) or ({num_images}, {num_classes})"
        raise ValueError(f"`labels` should have shape {expected}. Received: shape={array.shape}")
    indices = array.astype(np.int64)
    if (indices != array).any():
        raise ValueError(f"`labels` should be whole numbers. Received: {array[indices != array][0]}")
    if indices.min() < 0 or indices.max() >= num_classes:
        outside = indices[(indices < 0) | (indices >= num_classes)][0]
        raise ValueError(f"`labels` should be from 0 to {num_classes - 1}. Received: {outside}")
    return indices


def check_bounds(bounds: Bounds) -> Bounds:
    """Pixel bounds as two floats, or as two tuples of floats by channel.

    Raises:
        ValueError: if they are not finite numbers, or not all of the first below those of the second.
    """
    low, high = (np.asarray(bound, np.float64) for bound in bounds)
    if low.shape != high.shape or low.ndim > 1 or not (np.isfinite(low) & np.isfinite(high) & (low < high)).all():
        raise ValueError(f"`bounds` should be (lowest, highest) pixel value. Received: bounds={bounds}")
    return (float(low), float(high)) if low.ndim == 0 else (tuple(low.tolist()), tuple(high.tolist()))


def inside(images: tf.Tensor, bounds: Bounds) -> tf.Tensor:
    """The images, as they are; `refuse` of those that are not within the bounds, for a compiled step.

    Raises:
        ValueError: as `refuse` does.
    """
    message = f"Images should be within the bounds {bounds}. Received values outside: rescale them, or pass `bounds`."
    return refuse(~_all_inside(images, bounds), message, images)  # NaN is not inside


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


def _all_inside(images: tf.Tensor, bounds: Bounds) -> tf.Tensor:
    """Whether all pixels keep the bounds; a float32 pixel rounded beyond a float64 bound does."""
    low, high = (np.asarray(bound, np.float64) for bound in bounds)
    slack = 1e-6 * (high - low)
    lowest, highest = (tf.constant(end, images.dtype) for end in (low - slack, high + slack))
    return tf.reduce_all((images >= lowest) & (images <= highest))
