"""The samples that a callback measures on: drawn once, class by class."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

__all__ = ["Selection", "select"]


class Selection(NamedTuple):
    """Samples in an order of which every beginning holds the classes as evenly as possible.

    Attributes:
        images: ``(n, ...)``.
        labels: int64 ``(n,)``.
    """

    images: np.ndarray
    labels: np.ndarray


def select(dataset: Any, max_samples: int, *, seed: int = 0) -> Selection:
    """At most ``max_samples`` samples of a data set, of each class as many as far as possible.

    The data set is read once, to its end; no more than a batch and the samples that are kept are in memory.

    Args:
        dataset: yields batches ``(images, labels)`` or ``(images, labels, weights)``; or a tuple ``(images, labels)``
            of arrays. Labels are class indices or one-hot rows.
        max_samples: how many, at least 1.
        seed: of the choice.

    Returns:
        `Selection`.

    Raises:
        ValueError: if the data set is empty or without end, or its labels are not classes.

    Example:
        >>> images, labels = np.arange(8.0)[:, None], [0, 0, 0, 0, 0, 1, 1, 2]
        >>> np.bincount(select((images, labels), 5).labels).tolist()
        [2, 2, 1]
    """
    generator = np.random.default_rng(seed)
    kept: tuple[np.ndarray, ...] = ()
    for images, labels, *_ in _batches(dataset):
        classes = _classes(np.asarray(labels))
        batch = np.asarray(images), classes, generator.random(len(classes))
        pool = tuple(map(np.concatenate, zip(kept, batch, strict=True))) if kept else batch
        # whoever is not among the first now will not be later: others only come before it
        order = np.lexsort((pool[2], _ranks(pool[1], pool[2])))[:max_samples]
        kept = tuple(column[order] for column in pool)
    if not kept or not len(kept[1]):
        raise ValueError("`dataset` should not be empty. Received: no sample")
    return Selection(kept[0], kept[1])


def _batches(dataset: Any) -> Iterable[Any]:
    if isinstance(dataset, tuple):
        if len(dataset) != 2:
            raise ValueError(f"`dataset` should be a tuple (images, labels). Received: {len(dataset)} entries")
        return [dataset]
    if isinstance(dataset, tf.data.Dataset) and dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError("`dataset` should have an end. Received: a data set that repeats itself; see Dataset.take")
    return dataset  # type: ignore[no-any-return]


def _classes(labels: np.ndarray) -> np.ndarray:
    if labels.ndim == 2:
        labels = labels.argmax(axis=-1) if labels.shape[1] > 1 else labels[:, 0]
    if labels.ndim != 1:
        raise ValueError(f"`dataset` should have labels (batch,) or (batch, K). Received: shape={labels.shape}")
    return labels.astype(np.int64)


def _ranks(labels: np.ndarray, priorities: np.ndarray) -> np.ndarray:
    """The place of each sample among those of its class, by priority."""
    order = np.lexsort((priorities, labels))
    _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    ranks = np.empty(len(labels), np.int64)
    ranks[order] = np.arange(len(labels)) - np.repeat(starts, counts)
    return ranks
