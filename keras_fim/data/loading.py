"""Datasets as ``tf.data`` pipelines: shuffled, augmented, scaled to [0, 1]."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_fim.arguments import checked
from keras_fim.data.augmentation import Augmentation, augmenter
from keras_fim.data.sources import Source, open_source
from keras_fim.data.splits import Arrays, Files, PassSeed, Split, held_out, rank_in_class


class Splits(NamedTuple):
    """Three parts of a dataset, each yielding ``(images, labels)`` batches.

    Attributes:
        train: Shuffled anew each epoch; augmented if asked for.
        validation: The dataset's own validation part, or a part of the training split that ``train`` does not have.
        test: The test split, in its own order.
    """

    train: tf.data.Dataset
    validation: tf.data.Dataset
    test: tf.data.Dataset


@checked
def load(
    name: str,
    batch_size: int = 128,
    *,
    data_dir: str | Path | None = None,
    seed: int = 0,
    augment: bool = False,
    limit: int | None = None,
    test_limit: int | None = None,
    image_shape: Sequence[int] | None = None,
) -> tuple[tf.data.Dataset, tf.data.Dataset]:
    """Training and test data.

    Args:
        name: ``"mnist"``, ``"cifar10"``, ``"gtsrb"``, or ``"mnist5k"``, a sample that needs no download; a folder of
            images by class, an ``.npz`` file, or ``"tfds:NAME"``: see `open_source`.
        batch_size: The number of images in a batch; the last one may be smaller.
        data_dir: The folder in which TensorFlow Datasets keeps its data; ``None`` for ``$TFDS_DATA_DIR`` or its
            default.
        seed: The random seed of shuffling and augmentation.
        augment: Whether to change training images at random as ``info(name).augmentation`` says.
        limit: The number of training images, the same number per class as far as possible, always the same ones;
            ``None`` for all.
        test_limit: As ``limit``, for the test images.
        image_shape: ``(height, width, channels)``, to which images are resized and turned gray or RGB; ``None`` for
            that of the dataset.

    Returns:
        ``(train, test)``: batches of float32 images ``(batch, height, width, channels)`` in [0, 1] and int64 labels
        ``(batch,)``. Training data are shuffled anew each epoch, test data keep their own order. Folders and TFDS
        datasets are read as they are needed and never as a whole in memory.

    Raises:
        ValueError: If there is no such dataset, a number is not positive, or there are no training images.
        ImportError: If the package of the embedded sample is not installed.

    Example:
        >>> train, test = load("mnist5k", batch_size=100)
        >>> len(train), len(test)
        (40, 10)
    """
    _check_positive(batch_size=batch_size, limit=limit, test_limit=test_limit)
    source = open_source(name, data_dir, image_shape=image_shape)
    return (
        _training(source, _train_part(source), batch_size, seed, augment, limit),
        pipeline(_readable(_limited(source.test, test_limit)), batch_size, image_shape=source.info.image_shape),
    )


@checked
def load_splits(
    name: str,
    batch_size: int = 128,
    *,
    validation: float = 0.1,
    data_dir: str | Path | None = None,
    seed: int | PassSeed = 0,
    augment: bool = False,
    limit: int | None = None,
    test_limit: int | None = None,
    image_shape: Sequence[int] | None = None,
) -> Splits:
    """Training, validation and test data.

    Where a dataset has no validation part, it is drawn from the training split, class by class; for GTSRB by whole
    tracks, because the frames of a track are near-duplicates of each other.

    Args:
        name: As in `load`.
        batch_size: As in `load`.
        validation: The share of the training split, in (0, 1), that becomes the validation part of a dataset that has
            none.
        data_dir: As in `load`.
        seed: As in `load`; it does not change which samples are in which part. A `PassSeed` gives all passes their own.
        augment: As in `load`.
        limit: As in `load`, of what is left to train on.
        test_limit: As in `load`, for the validation part too.
        image_shape: As in `load`.

    Returns:
        `Splits`.

    Raises:
        ValueError: As `load`, and if ``validation`` is not in (0, 1).

    Example:
        >>> [len(part) for part in load_splits("mnist5k", batch_size=100)]
        [36, 4, 10]
    """
    _check_positive(batch_size=batch_size, limit=limit, test_limit=test_limit)
    if not 0 < validation < 1:
        raise ValueError(f"`validation` should be in (0, 1). Received: validation={validation}")
    source = open_source(name, data_dir, image_shape=image_shape)
    train, rest = _train_part(source), source.validation
    if rest is None:
        mask = held_out(train, validation)
        train, rest = train.take(np.flatnonzero(~mask)), train.take(np.flatnonzero(mask))
    shape = source.info.image_shape
    return Splits(
        _training(source, train, batch_size, seed, augment, limit),
        pipeline(_readable(_limited(rest, test_limit)), batch_size, image_shape=shape),
        pipeline(_readable(_limited(source.test, test_limit)), batch_size, image_shape=shape),
    )


@checked
def evaluated(
    source: Source, max_samples: int | None, *, unseen: bool, only: int | None = None
) -> tuple[tf.data.Dataset, Split]:
    """The images of a dataset on which a model is evaluated.

    Args:
        source: The dataset.
        max_samples: The largest number of images of a dataset that is not in memory, the same number per class as far
            as possible; one in memory is left whole.
        unseen: Whether the model was trained on the training part: then only the test part is taken of a dataset that
            comes in one part.
        only: The class whose images are taken; ``None`` for all.

    Returns:
        Batches as of `load`, and the split that they are of.
    """
    split = source.test if unseen or source.whole is None else source.whole
    if only is not None:
        split = split.take(np.flatnonzero(split.labels == only))
    if not isinstance(split, Arrays):
        split = _readable(_limited(split, max_samples))
    return pipeline(split, 64, image_shape=source.info.image_shape), split


def pipeline(
    split: Split,
    batch_size: int,
    *,
    image_shape: Sequence[int] | None = None,
    shuffle_seed: int | PassSeed | None = None,
    augmentation: Augmentation | None = None,
) -> tf.data.Dataset:
    """Batches of ``(images in [0, 1], labels)``.

    Args:
        split: The samples.
        batch_size: The number of images in a batch.
        image_shape: ``(height, width, channels)`` of the images; ``None`` for that of `Arrays`.
        shuffle_seed: The random seed of a shuffling anew each epoch; ``None`` keeps the order.
        augmentation: How to change images at random, anew each epoch; ``None`` leaves them as they are.

    Returns:
        A ``tf.data.Dataset`` of known length.
    """
    shape = split.images.shape[1:] if image_shape is None and isinstance(split, Arrays) else tuple(image_shape or ())
    dataset = split.elements(shape, shuffle_seed).batch(batch_size)
    dataset = dataset.map(lambda images, labels: (tf.cast(images, tf.float32) / 255.0, labels))
    if augmentation is not None:
        augment = augmenter(augmentation, shape, seed=shuffle_seed)
        dataset = dataset.map(lambda images, labels: (augment(images), labels))
    return dataset.prefetch(tf.data.AUTOTUNE)


def _train_part(source: Source) -> Split:
    if source.train is None:
        raise ValueError(f"{source.info.name} should have images to train on. Received: a test part only")
    return source.train


def _training(
    source: Source, split: Split, batch_size: int, seed: int | PassSeed, augment: bool, limit: int | None
) -> tf.data.Dataset:
    how, shape = source.info.augmentation if augment else None, source.info.image_shape
    readable = _readable(_limited(split, limit))
    return pipeline(readable, batch_size, image_shape=shape, shuffle_seed=seed, augmentation=how)


def _readable(split: Split) -> Split:
    return split.readable() if isinstance(split, Files) else split


def _limited(split: Split, limit: int | None) -> Split:
    """At most ``limit`` samples, the same number of each class as far as possible."""
    if limit is None or limit >= len(split.labels):
        return split
    order = np.random.default_rng(0).permutation(len(split.labels))
    rank = rank_in_class(split.labels[order])
    return split.take(order[np.argsort(rank, kind="stable")[:limit]])


def _check_positive(**numbers: int | None) -> None:
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise ValueError(f"`{name}` should be a positive integer. Received: {name}={number}")
