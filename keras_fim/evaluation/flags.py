"""What makes figures of robustness worthless or weak: each flag says so in words beside them."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from keras_fim.attacks.losses import loss_gradient
from keras_fim.logits import LogitsFunction
from keras_fim.validation import check_labels

__all__ = ["BLACK_BOX", "one_class", "outputs_flags"]

_DIFFER = 1e-4  # l2-normalized logits of two passes
_FEW = 64  # images whose gradients are looked at

BLACK_BOX = "black box: only a search without gradients ran, so the true robust accuracy is at most the figure here"


def outputs_flags(logits_fn: LogitsFunction, images: tf.Tensor, labels: np.ndarray, *, gradients: bool) -> list[str]:
    """Flags of a model's outputs on a few images.

    Args:
        logits_fn: The classifier.
        images: ``(n, ...)``, checked; the first 64 are looked at.
        labels: int64 ``(n,)``, class indices.
        gradients: Whether to look at the gradients, too.

    Returns:
        A sentence for each of: logits that are not finite, outputs that differ between two passes, gradients that are
        zero.

    Raises:
        NoGradientError: If there is no gradient path from the images to the logits, and ``gradients`` asks for one.
    """
    images = logits_fn.cast(images[:_FEW])
    first, second = (np.asarray(logits_fn(images), np.float64) for _ in range(2))
    flags = []
    if not np.isfinite(first).all():
        share = 1 - np.isfinite(first).all(axis=-1).mean()
        flags.append(f"not finite: the logits of {100 * share:.0f} % of the images are NaN or infinite")
    elif _distance(first, second) > _DIFFER:
        flags.append("random outputs: two passes over the same images differ, so a success may not repeat itself")
    if gradients:
        with logits_fn.explained():
            classes = tf.constant(check_labels(labels[:_FEW], *first.shape))
            slope = np.asarray(loss_gradient(logits_fn, images, classes, loss="margin")[0])
        zero = float((np.abs(slope).reshape(len(slope), -1).max(axis=-1) == 0).mean())
        if zero > 0.01:
            text = f"of {100 * zero:.0f} % of the images the gradient of the margin is zero, so attacks cannot start"
            flags.append(f"zero gradients: {text}")
    return flags


def one_class(predictions: np.ndarray, labels: np.ndarray) -> list[str]:
    """The flag of a model that predicts one class only although the labels hold several."""
    if len(np.unique(predictions)) > 1 or len(np.unique(labels)) < 2:
        return []
    return [f"one class: the model predicts class {predictions[0]} for every image, so its robustness means nothing"]


def _distance(first: np.ndarray, second: np.ndarray) -> float:
    """The largest l2 distance between normalized rows."""
    norms = [np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-300) for rows in (first, second)]
    return float(np.linalg.norm(first / norms[0] - second / norms[1], axis=-1).max())
