"""Data sets as ``tf.data`` pipelines: shuffled, augmented, scaled to [0, 1]."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_fim.data.augmentation import Augmentation, augmenter
from keras_fim.data.catalog import Arrays, info, rank_in_class, read

__all__ = ["Splits", "load", "load_splits", "pipeline"]


class Splits(NamedTuple):
    """Three parts of a data set, each yielding ``(images, labels)`` batches.

    Attributes:
        train: shuffled anew each epoch; augmented if asked for.
        validation: a part of the official training split that ``train`` does not have.
        test: the official test split, in its own order.
    """

    train: tf.data.Dataset
    validation: tf.data.Dataset
    test: tf.data.Dataset


def load(
    name: str,
    batch_size: int = 128,
    *,
    data_dir: str | Path | None = None,
    seed: int = 0,
    augment: bool = False,
    limit: int | None = None,
    test_limit: int | None = None,
) -> tuple[tf.data.Dataset, tf.data.Dataset]:
    """Training and test data.

    Args:
        name: ``"mnist"``, ``"cifar10"``, ``"gtsrb"``, or ``"mnist5k"``, a sample that needs no download.
        batch_size: images in a batch; the last one may be smaller.
        data_dir: where TensorFlow Datasets keeps its data; ``None`` for ``$TFDS_DATA_DIR`` or its default.
        seed: of the shuffling and the augmentation.
        augment: change training images at random as ``info(name).augmentation`` says: shifts, mirroring, distortion.
        limit: take only so many training images, always the same, of each class as many as far as possible.
        test_limit: the same for the test images.

    Returns:
        ``(train, test)``: batches of float32 images ``(batch, height, width, channels)`` in [0, 1] and int64 labels
        ``(batch,)``. Training data come shuffled anew each epoch, test data in their own order.

    Raises:
        ValueError: if the name is not known, a number is not positive, or the data are not to be had.
        ImportError: if the embedded sample's package is not installed.

    Example:
        >>> train, test = load("mnist5k", batch_size=100)
        >>> len(train), len(test)
        (40, 10)
    """
    _check_positive(batch_size=batch_size, limit=limit, test_limit=test_limit)
    train, test = read(name, data_dir)
    augmentation = info(name).augmentation if augment else None
    shuffled = pipeline(_limited(train, limit), batch_size, shuffle_seed=seed, augmentation=augmentation)
    return shuffled, pipeline(_limited(test, test_limit), batch_size)


def load_splits(
    name: str,
    batch_size: int = 128,
    *,
    validation: float = 0.1,
    data_dir: str | Path | None = None,
    seed: int = 0,
    augment: bool = False,
    limit: int | None = None,
    test_limit: int | None = None,
) -> Splits:
    """Training, validation and test data.

    The validation part is drawn from the official training split, class by class; for GTSRB by whole tracks, because
    the frames of a track are near-duplicates of each other.

    Args:
        name: as in `load`.
        batch_size: as in `load`.
        validation: share of the training split that becomes the validation part, in (0, 1).
        data_dir: as in `load`.
        seed: as in `load`; it does not change which samples are for which part.
        augment: as in `load`.
        limit: as in `load`, of what is left to train on.
        test_limit: as in `load`, for the validation part too.

    Returns:
        `Splits`.

    Raises:
        ValueError: as `load`, and if ``validation`` is not in (0, 1).

    Example:
        >>> [len(part) for part in load_splits("mnist5k", batch_size=100)]
        [36, 4, 10]
    """
    _check_positive(batch_size=batch_size, limit=limit, test_limit=test_limit)
    if not 0 < validation < 1:
        raise ValueError(f"`validation` should be in (0, 1). Received: validation={validation}")
    everything, test = read(name, data_dir)
    held_out = _held_out(everything, validation)
    train, rest = everything.take(np.flatnonzero(~held_out)), everything.take(np.flatnonzero(held_out))
    augmentation = info(name).augmentation if augment else None
    return Splits(
        pipeline(_limited(train, limit), batch_size, shuffle_seed=seed, augmentation=augmentation),
        pipeline(_limited(rest, test_limit), batch_size),
        pipeline(_limited(test, test_limit), batch_size),
    )


def pipeline(
    arrays: Arrays, batch_size: int, *, shuffle_seed: int | None = None, augmentation: Augmentation | None = None
) -> tf.data.Dataset:
    """Batches of ``(images in [0, 1], labels)`` from arrays in memory.

    Args:
        arrays: the samples, uint8 images.
        batch_size: images in a batch.
        shuffle_seed: shuffle anew each epoch, from this seed; ``None`` keeps the order.
        augmentation: how to change images at random, anew each epoch; ``None`` leaves them as they are.

    Returns:
        A ``tf.data.Dataset`` of known length.
    """
    dataset = tf.data.Dataset.from_tensor_slices((arrays.images, arrays.labels))
    if shuffle_seed is not None:
        dataset = dataset.shuffle(len(arrays.labels), seed=shuffle_seed)
    dataset = dataset.batch(batch_size).map(lambda images, labels: (tf.cast(images, tf.float32) / 255.0, labels))
    if augmentation is not None:
        augment = augmenter(augmentation, arrays.images.shape[1:], seed=shuffle_seed)
        dataset = dataset.map(lambda images, labels: (augment(images), labels))
    return dataset.prefetch(tf.data.AUTOTUNE)


def _held_out(arrays: Arrays, share: float) -> np.ndarray:
    """Mask of the validation part: of each class, whole groups until ``share`` of its samples are reached."""
    generator = np.random.default_rng(0)
    mask = np.zeros(len(arrays.labels), bool)
    for label in np.unique(arrays.labels):
        members = np.flatnonzero(arrays.labels == label)
        groups, sizes = np.unique(arrays.groups[members], return_counts=True)
        order = generator.permutation(len(groups))
        before = np.cumsum(sizes[order]) - sizes[order]
        chosen = groups[order][before < share * len(members)][: len(groups) - 1]  # one at least to train on
        mask[members] = np.isin(arrays.groups[members], chosen)
    return mask


def _limited(arrays: Arrays, limit: int | None) -> Arrays:
    """At most ``limit`` samples, the same number of each class as far as possible."""
    if limit is None or limit >= len(arrays.labels):
        return arrays
    order = np.random.default_rng(0).permutation(len(arrays.labels))
    rank = rank_in_class(arrays.labels[order])
    return arrays.take(order[np.argsort(rank, kind="stable")[:limit]])


def _check_positive(**numbers: int | None) -> None:
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise ValueError(f"`{name}` should be a positive integer. Received: {name}={number}")
