"""The class that a targeted attack aims at."""

from numbers import Integral

import numpy as np
import tensorflow as tf

from keras_fim.attacks import draws
from keras_fim.attacks.losses import others
from keras_fim.attacks.samples import Task
from keras_fim.typing import Labels
from keras_fim.validation import check_labels

TARGETS = ("least_likely", "second", "random", "given")
"""Ways to choose it: the least probable wrong class, the most probable one, any, or one given with each call."""


def choose_targets(target: str, task: Task, logits: tf.Tensor) -> tf.Tensor:
    """Wrong classes to aim at.

    Args:
        target: One of `TARGETS`.
        task: What the attack is called on.
        logits: ``(batch, K)`` of its images.

    Returns:
        int64 ``(batch,)``.
    """
    if target == "given":
        return task.target
    if target == "random":
        num_classes = logits.shape[-1]
        return (task.labels + 1 + draws.integers(task.keys, (), num_classes - 1)) % num_classes
    return tf.argmax(others(-logits if target == "least_likely" else logits, task.labels), axis=-1)


def check_targets(
    targets: Labels | None, target: int | str | None, labels: np.ndarray, num_classes: int, *, aimed: bool = False
) -> np.ndarray:
    """The targets of a call.

    Args:
        targets: Classes, as labels, or ``None``.
        target: How the attack chooses them: ``"given"`` if they come with the call, or the one class.
        labels: The true classes, int64 ``(batch,)``.
        num_classes: K.
        aimed: Whether samples whose label is their target are left out, so that there may be some.

    Returns:
        int64 ``(batch,)``; the labels if no targets come with the call.

    Raises:
        ValueError: if they are missing, superfluous, no classes, or the true labels.
    """
    if (targets is not None) != (target == "given"):
        raise ValueError(f"`targets` should be passed with target='given' and only then. Received: {targets!r}")
    if isinstance(target, Integral):
        if int(target) >= num_classes:
            raise ValueError(f"`target` should be a class from 0 to {num_classes - 1}. Received: target={target}")
        return np.full_like(labels, int(target))
    if targets is None:
        return labels
    classes = check_labels(targets, len(labels), num_classes)
    if not aimed and np.any(classes == labels):
        raise ValueError("`targets` should differ from the true labels. Received: a target that is the label")
    return classes
