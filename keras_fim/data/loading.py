"""Datasets as ``tf.data`` pipelines: shuffled, augmented, scaled to [0, 1]."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_fim.arguments import Count, CountOrNone, InnerShare, checked
from keras_fim.data.catalog import Augmentation
from keras_fim.data.sources import Source, open_source
from keras_fim.data.splits import Arrays, PassSeed, Split, held_out, rank_in_class


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
    batch_size: Count = 128,
    *,
    data_dir: str | Path | None = None,
    seed: int = 0,
    augment: bool = False,
    limit: CountOrNone = None,
    test_limit: CountOrNone = None,
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
    source = open_source(name, data_dir, image_shape=image_shape)
    how = source.info.augmentation if augment else None
    train = _batches(source, _train_part(source), batch_size, limit, shuffle_seed=seed, augmentation=how)
    return train, _batches(source, source.test, batch_size, test_limit)


@checked
def load_splits(
    name: str,
    batch_size: Count = 128,
    *,
    validation: InnerShare = 0.1,
    data_dir: str | Path | None = None,
    seed: int | PassSeed = 0,
    augment: bool = False,
    limit: CountOrNone = None,
    test_limit: CountOrNone = None,
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
    source = open_source(name, data_dir, image_shape=image_shape)
    train, rest = _train_part(source), source.validation
    if rest is None:
        mask = held_out(train, validation)
        train, rest = train.take(np.flatnonzero(~mask)), train.take(np.flatnonzero(mask))
    how = source.info.augmentation if augment else None
    training = _batches(source, train, batch_size, limit, shuffle_seed=seed, augmentation=how)
    return Splits(training, *(_batches(source, split, batch_size, test_limit) for split in (rest, source.test)))


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
        split = _limited(split, max_samples).readable()
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


def _batches(source: Source, split: Split, batch_size: int, limit: int | None, **options: Any) -> tf.data.Dataset:
    """At most ``limit`` samples of a part, with the options of `pipeline`."""
    return pipeline(_limited(split, limit).readable(), batch_size, image_shape=source.info.image_shape, **options)


def _limited(split: Split, limit: int | None) -> Split:
    """At most ``limit`` samples, the same number of each class as far as possible."""
    if limit is None or limit >= len(split.labels):
        return split
    order = np.random.default_rng(0).permutation(len(split.labels))
    return split.take(order[np.argsort(rank_in_class(split.labels[order]), kind="stable")[:limit]])


def augmenter(
    how: Augmentation, image_shape: Sequence[int], *, seed: int | PassSeed | None = None
) -> Callable[[tf.Tensor], tf.Tensor]:
    """A function that changes each image of a batch by its own random draw, for `tf.data.Dataset.map`.

    Args:
        how: The largest changes.
        image_shape: ``(height, width, channels)``.
        seed: Random seed; two functions with one seed make the same changes from batch to batch. ``None`` draws one. A
            `PassSeed` is told of the random generators.

    Returns:
        A function of float32 images ``(batch, height, width, channels)`` in [0, 1] that returns images of that shape.
        It keeps the state of its random numbers, so it must not be mapped over several batches in parallel.
    """
    size = tuple(int(side) for side in image_shape[:2])
    first = seed.seed if isinstance(seed, PassSeed) else seed
    changes = _layers(how, size, first)
    generator = keras.random.SeedGenerator(first)
    if isinstance(seed, PassSeed):
        own = [value for layer in changes for value in vars(layer).values()]
        seed.generators += [generator, *(value for value in own if isinstance(value, keras.random.SeedGenerator))]

    def augment(images: tf.Tensor) -> tf.Tensor:
        shape = images.shape
        for change in changes:
            images = change(images, training=True)
        if how.cutout:
            images = _cut(images, size, how.cutout, generator)
        return tf.ensure_shape(images, shape)

    return augment


def _layers(how: Augmentation, size: tuple[int, ...], seed: int | None) -> list[keras.layers.Layer]:
    shifts = [(how.shift + 0.5) / side for side in size]  # rounded to whole pixels, all shifts are equally probable
    contrast = (how.contrast, how.contrast)  # a single number only raises the contrast
    lit, filled = {"value_range": (0.0, 1.0)}, {"fill_mode": "nearest"}
    layers: list[tuple[float, type[keras.layers.Layer], Sequence[Any], dict[str, Any]]] = [
        (how.mirrored, keras.layers.RandomFlip, ["horizontal"], {}),
        (how.shift, keras.layers.RandomTranslation, shifts, {"interpolation": "nearest", **filled}),
        (how.rotation, keras.layers.RandomRotation, [how.rotation / 360], filled),
        (how.zoom, keras.layers.RandomZoom, [how.zoom], filled),
        (how.contrast, keras.layers.RandomContrast, [contrast], lit),
        (how.brightness, keras.layers.RandomBrightness, [how.brightness], lit),
    ]
    return [
        # with one seed for all, an image's draws would be the same in each layer
        layer(*arguments, **options, seed=None if seed is None else seed + index, dtype="float32")
        for index, (amount, layer, arguments, options) in enumerate(layers, start=1)
        if amount
    ]


def _cut(images: tf.Tensor, size: tuple[int, ...], side: int, generator: keras.random.SeedGenerator) -> tf.Tensor:
    """Gray squares; `keras.layers.RandomErasing` keeps them inside of the image, and Keras 3.8 does not have it."""
    draws = keras.random.uniform((2, tf.shape(images)[0], 1), seed=generator)

    def covered(length: int, draw: tf.Tensor) -> tf.Tensor:
        first = tf.cast(draw * length, tf.int32) - side // 2
        return (tf.range(length) >= first) & (tf.range(length) < first + side)

    rows, columns = covered(size[0], draws[0]), covered(size[1], draws[1])
    return tf.where((rows[:, :, None] & columns[:, None, :])[..., None], 0.5, images)
