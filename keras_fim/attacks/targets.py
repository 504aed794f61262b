"""The class that a targeted attack aims at."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from keras_fim.attacks.base import Problem
from keras_fim.attacks.losses import others
from keras_fim.typing import Labels
from keras_fim.validation import check_labels

__all__ = ["TARGETS", "check_targets", "choose_targets"]

TARGETS = ("least_likely", "second", "random", "given")
"""Ways to choose it: the least probable wrong class, the most probable one, any, or one given with each call."""


def choose_targets(target: str, logits: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Wrong classes to aim at.

    Args:
        target: one of `TARGETS`, but ``"given"``.
        logits: ``(batch, K)`` of the images.
        labels: int64 ``(batch,)``, the true classes.
        seed: int32 scalar.

    Returns:
        int64 ``(batch,)``.

    Example:
        >>> logits, labels = tf.constant([[3.0, 1.0, 2.0]]), tf.constant([0], tf.int64)
        >>> [int(choose_targets(target, logits, labels, tf.constant(0))[0]) for target in ("least_likely", "second")]
        [1, 2]
    """
    num_classes = logits.shape[-1]
    if target == "random":
        shift = tf.random.stateless_uniform(tf.shape(labels), tf.stack([seed, 0]), 1, num_classes, dtype=labels.dtype)
        return (labels + shift) % num_classes
    if target == "least_likely":
        return tf.argmax(others(-logits, labels), axis=-1)
    return tf.argmax(others(logits, labels), axis=-1)


def check_targets(targets: Labels | None, target: str, problem: Problem) -> tuple[tf.Tensor, ...]:
    """The targets of a call.

    Args:
        targets: wrong classes, as labels, or ``None``.
        target: how the attack chooses them; ``"given"`` if they come with the call.
        problem: what the attack is called on.

    Returns:
        ``(targets,)``, int64 ``(batch,)``; nothing if they do not come with the call.

    Raises:
        ValueError: if they are missing, superfluous, no classes, or the true labels.
    """
    if (targets is not None) != (target == "given"):
        raise ValueError(f"`targets` should be passed with target='given' and only then. Received: {targets!r}")
    if targets is None:
        return ()
    classes = check_labels(targets, len(problem.images), problem.num_classes)
    if np.any(classes == problem.labels.numpy()):
        raise ValueError("`targets` should differ from the true labels. Received: a target that is the label")
    return (tf.constant(classes),)
