"""What makes a measurement of robustness worthless, found on a few images."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_fim.geometry.gradients import NoGradientError, gradient
from keras_fim.logits import LogitsFunction
from keras_fim.typing import Images

__all__ = ["Flag", "flags"]

_SAME = 1e-4  # apart, of l2-normalized logits, up to which two passes agree
_ZERO = 0.01  # share of images without a gradient from which on it is flagged


class Flag(NamedTuple):
    """A reason to distrust what is measured of a model.

    Attributes:
        name: ``"NaN logits"``, ``"random outputs"``, ``"constant"``, ``"no gradient"`` or ``"zero gradients"``.
        text: What was seen, in a sentence.
    """

    name: str
    text: str


def flags(
    logits_fn: LogitsFunction, images: Images, labels: np.ndarray, *, gradients: bool = True, batch_size: int = 64
) -> list[Flag]:
    """Look for logits that are NaN, random or constant, and for gradients that are missing or zero.

    Args:
        logits_fn: The classifier.
        images: ``(n, ...)`` as it takes them, a few hundred at most: there are two passes and one gradient of each.
        labels: Their class indices, ``(n,)``.
        gradients: Whether to look at gradients, too.
        batch_size: The number of images worked on at a time.

    Returns:
        The flags, none if all is well.

    Example:
        >>> constant = LogitsFunction(lambda x: 0 * x, "logits")
        >>> [flag.name for flag in flags(constant, np.ones((4, 2), "float32"), np.array([0, 1, 0, 1]))]
        ['constant', 'zero gradients']
    """
    images, found = logits_fn.cast(tf.convert_to_tensor(images)), []
    first, second = (_in_batches(logits_fn, _logits, images, batch_size) for _ in range(2))
    finite = np.isfinite(first).all(axis=-1) & np.isfinite(second).all(axis=-1)
    if not finite.all():
        found.append(Flag("NaN logits", f"{100 * (~finite).mean():.1f} % of the logits are NaN or infinite."))
    apart = np.linalg.norm(_unit(first[finite]) - _unit(second[finite]), axis=-1)
    if (apart > _SAME).any():
        share = f"{100 * (apart > _SAME).mean():.1f} % of the images by up to {apart.max():.2g}"
        found.append(Flag("random outputs", f"Two passes give other logits (l2-normalized), for {share}."))
    classes = np.unique(first[finite].argmax(axis=-1))
    if len(classes) == 1 and len(np.unique(labels)) > 1:
        found.append(Flag("constant", f"Class {classes[0]} is predicted for every image, and the labels hold several."))
    if gradients:
        try:
            zero = float(np.mean(_in_batches(logits_fn, _no_slope, images, batch_size)))
        except NoGradientError as error:
            return [*found, Flag("no gradient", f"{error}.")]
        if zero > _ZERO:
            text = f"The gradient of the margin is zero or not finite for {100 * zero:.1f} % of the images."
            found.append(Flag("zero gradients", text))
    return found


def _logits(logits_fn: LogitsFunction, images: tf.Tensor) -> tf.Tensor:
    return logits_fn(images)


def _no_slope(logits_fn: LogitsFunction, images: tf.Tensor) -> tf.Tensor:
    """Whether the gradient of the two largest logits' difference is zero or not finite, bool ``(batch,)``."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(images)
        largest = tf.math.top_k(logits_fn(images), 2).values
        margin = largest[:, 0] - largest[:, 1]
    slope = tf.reduce_max(tf.abs(gradient(tape, margin, images)), axis=tuple(range(1, images.shape.rank)))
    return ~((slope > 0) & tf.math.is_finite(slope))


def _in_batches(logits_fn: LogitsFunction, function: object, images: tf.Tensor, batch_size: int) -> np.ndarray:
    compiled = logits_fn.compiled(function)  # type: ignore[arg-type]
    return np.concatenate([compiled(images[start : start + batch_size]) for start in range(0, len(images), batch_size)])


def _unit(logits: np.ndarray) -> np.ndarray:
    return np.asarray(logits / np.maximum(np.linalg.norm(logits, axis=-1, keepdims=True), 1e-30))
