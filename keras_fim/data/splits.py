"""The splits of a dataset: labels in memory, images in memory, in files or in TFDS records, read as they are needed."""

import abc
import dataclasses
import io
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import keras
import numpy as np
import tensorflow as tf

from keras_fim.arguments import require

_BUFFER = 1 << 27  # bytes of encoded records that are shuffled together
_SHOWN = 5  # unreadable files that a warning names


class PassSeed:
    """A random seed of a dataset that is set before each pass, so that a pass does not depend on those before it.

    Args:
        seed: The random seed of all passes.
    """

    def __init__(self, seed: int) -> None:
        self.seed, self.generators = seed, list[keras.random.SeedGenerator]()
        self.current = tf.Variable(seed, dtype=tf.int64, trainable=False)

    def start(self, index: int) -> None:
        """Set what is drawn in the next pass, the one of this index."""
        seed = self.seed + 1_000_003 * index
        self.current.assign(seed)
        for offset, generator in enumerate(self.generators):
            generator.state.assign([(seed + offset) % (1 << 32), 0])


_Own = TypeVar("_Own", bound="Split")


@dataclasses.dataclass(frozen=True, eq=False)
class Split(abc.ABC):
    """A part of a dataset, whose images are elsewhere: see the classes below.

    Attributes:
        labels: int64 ``(n,)``, from 0 to K-1.
        groups: int64 ``(n,)``; samples of one group are near-duplicates and belong on the same side of a division.
    """

    labels: np.ndarray
    groups: np.ndarray

    def take(self: _Own, indices: np.ndarray) -> _Own:
        """The samples at ``indices``, in that order."""
        arrays = {name: value[indices] for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        return dataclasses.replace(self, **arrays)

    def readable(self: _Own) -> _Own:
        """The samples that can be read."""
        return self

    @abc.abstractmethod
    def elements(self, image_shape: Sequence[int], seed: int | PassSeed | None = None) -> tf.data.Dataset:
        """Single samples ``(uint8 image of image_shape, label)``, shuffled anew each time unless ``seed`` is None."""


@dataclasses.dataclass(frozen=True, eq=False)
class Arrays(Split):
    """A split in memory.

    Attributes:
        labels: As of `Split`.
        groups: As of `Split`.
        images: uint8 ``(n, height, width, channels)``.
    """

    images: np.ndarray

    def elements(self, image_shape: Sequence[int], seed: int | PassSeed | None = None) -> tf.data.Dataset:
        """See `Split`."""
        dataset = _shuffled(tf.data.Dataset.from_tensor_slices((self.images, self.labels)), len(self.labels), seed)
        if self.images.shape[1:] == tuple(image_shape):
            return dataset
        return dataset.map(lambda image, label: (to_shape(image, image_shape), label), tf.data.AUTOTUNE)


@dataclasses.dataclass(frozen=True, eq=False)
class Files(Split):
    """A split in image files.

    Attributes:
        labels: As of `Split`.
        groups: As of `Split`.
        paths: The names of the files, ``(n,)`` strings.
    """

    paths: np.ndarray

    def readable(self) -> "Files":
        """The files that can be decoded; a warning counts the others and names some.

        Raises:
            ValueError: If none can.
        """
        with ThreadPoolExecutor() as pool:
            reasons = list(pool.map(_reason_unreadable, self.paths))
        wrong = [f"{path} ({reason})" for path, reason in zip(self.paths, reasons, strict=True) if reason]
        if not wrong:
            return self
        names = "; ".join(wrong[:_SHOWN]) + ("; ..." if len(wrong) > _SHOWN else "")
        require(len(wrong) < len(reasons), f"None of the {len(wrong)} image files can be read: {names}")
        message = f"{len(wrong)} of {len(reasons)} image files cannot be read and are skipped: {names}"
        warnings.warn(message, stacklevel=2)
        return self.take(np.flatnonzero([not reason for reason in reasons]))

    def elements(self, image_shape: Sequence[int], seed: int | PassSeed | None = None) -> tf.data.Dataset:
        """See `Split`."""
        dataset = _shuffled(tf.data.Dataset.from_tensor_slices((self.paths, self.labels)), len(self.labels), seed)
        return dataset.map(lambda path, label: (_decoded(tf.io.read_file(path), image_shape), label), tf.data.AUTOTUNE)


@dataclasses.dataclass(frozen=True, eq=False)
class Records(Split):
    """A split of a dataset that TensorFlow Datasets has prepared.

    Attributes:
        labels: As of `Split`.
        groups: As of `Split`.
        indices: int64 ``(n,)``, the places of the samples in that split, ascending.
        builder: The TFDS builder.
        name: The name of the split.
    """

    indices: np.ndarray
    builder: Any
    name: str

    @classmethod
    def of(cls, builder: Any, name: str) -> "Records":
        """All samples of a split, whose labels are read."""
        labels = np.fromiter((label for _, label in _encoded(builder, name).as_numpy_iterator()), np.int64)
        indices = np.arange(len(labels))
        return cls(labels, indices, indices, builder, name)

    def take(self, indices: np.ndarray) -> "Records":
        """The samples at ``indices``, in the order of the records."""
        return super().take(np.sort(indices))

    def elements(self, image_shape: Sequence[int], seed: int | PassSeed | None = None) -> tf.data.Dataset:
        """See `Split`; shuffled within a buffer of 128 MiB of encoded images."""
        size = self.builder.info.splits[self.name]
        wanted = np.zeros(size.num_examples, bool)
        wanted[self.indices] = True
        dataset = _encoded(self.builder, self.name).enumerate().filter(lambda i, _: tf.gather(wanted, i))
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(len(self.labels)))
        buffer = max(1000, _BUFFER * size.num_examples // max(1, size.num_bytes))
        dataset = _shuffled(dataset.map(lambda _, element: element), min(buffer, len(self.labels)), seed)
        return dataset.map(lambda file, label: (_decoded(file, image_shape), label), tf.data.AUTOTUNE)


def _encoded(builder: Any, name: str) -> tf.data.Dataset:
    """Encoded images and labels of a whole split, always in the same order."""
    import tensorflow_datasets as tfds

    dataset = builder.as_dataset(split=name, decoders={"image": tfds.decode.SkipDecoding()})
    return dataset.map(lambda element: (element["image"], element["label"]))


def rank_in_class(labels: np.ndarray) -> np.ndarray:
    """How many samples of the same class stand before each sample; int ``(n,)``."""
    rank = np.empty(len(labels), int)
    for label in np.unique(labels):
        rank[labels == label] = np.arange(np.count_nonzero(labels == label))
    return rank


def held_out(split: Split, share: float) -> np.ndarray:
    """Mask of the part that is held out: of each class, whole groups until ``share`` of its samples are reached."""
    generator = np.random.default_rng(0)
    mask = np.zeros(len(split.labels), bool)
    for label in np.unique(split.labels):
        members = np.flatnonzero(split.labels == label)
        groups, sizes = np.unique(split.groups[members], return_counts=True)
        order = generator.permutation(len(groups))
        before = np.cumsum(sizes[order]) - sizes[order]
        selected = groups[order][before < share * len(members)][: len(groups) - 1]  # one at least to train on
        mask[members] = np.isin(split.groups[members], selected)
    return mask


def decode_image(file: bytes, channels: int) -> np.ndarray:
    """The pixels of an image file in any format that Pillow reads.

    The EXIF orientation is applied, transparent pixels are blended with white, and of 16 bits the upper 8 are taken.

    Args:
        file: Its content.
        channels: 1 for gray, 3 for RGB.

    Returns:
        uint8 ``(height, width, channels)``.

    Raises:
        OSError: If Pillow cannot read it.
    """
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(file)) as opened:
        image: Any = ImageOps.exif_transpose(opened)
        if image.mode.startswith("I"):
            image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)  # as in an export
        pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return pixels[..., None] if channels == 1 else pixels


def to_shape(image: tf.Tensor, image_shape: Sequence[int]) -> tf.Tensor:
    """An image in another size (bilinear, with antialiasing), gray or RGB.

    Args:
        image: uint8 ``(height, width, channels)``.
        image_shape: ``(height, width, channels)``.

    Returns:
        uint8 ``image_shape``.
    """
    height, width, channels = image_shape
    if image.shape[-1] != channels:
        image = tf.image.rgb_to_grayscale(image) if channels == 1 else tf.image.grayscale_to_rgb(image)
    if tuple(image.shape[:2]) != (height, width):
        resized = tf.image.resize(image, (height, width), antialias=True)
        image = tf.cast(tf.round(tf.clip_by_value(resized, 0.0, 255.0)), tf.uint8)
    return tf.ensure_shape(image, (height, width, channels))


def _decoded(file: tf.Tensor, image_shape: Sequence[int]) -> tf.Tensor:
    channels = int(image_shape[-1])
    image = tf.numpy_function(lambda content: decode_image(content, channels), [file], tf.uint8)
    image.set_shape((None, None, channels))
    return to_shape(image, image_shape)


def _shuffled(dataset: tf.data.Dataset, buffer: int, seed: int | PassSeed | None) -> tf.data.Dataset:
    if not isinstance(seed, PassSeed):
        return dataset if seed is None else dataset.shuffle(buffer, seed=seed)
    current, specs = seed.current, tf.nest.flatten(dataset.element_spec)
    types = {"output_types": [spec.dtype for spec in specs], "output_shapes": [spec.shape for spec in specs]}

    def one_pass(_: tf.Tensor) -> tf.data.Dataset:
        shuffled = tf.raw_ops.ShuffleDatasetV3(  # `Dataset.shuffle` takes no tensor as its seed after `set_seed(0)`
            input_dataset=tf.data.experimental.to_variant(dataset),
            seed_generator=tf.raw_ops.DummySeedGenerator(),
            **{"buffer_size": buffer, "seed": current.read_value(), "seed2": 1, "reshuffle_each_iteration": False},
            **types,
        )
        return tf.data.experimental.from_variant(shuffled, dataset.element_spec)

    passes = tf.data.Dataset.from_tensors(0).flat_map(one_pass)
    return passes.apply(tf.data.experimental.assert_cardinality(dataset.cardinality()))


def _reason_unreadable(path: str) -> str:
    """Why a file cannot be decoded, or ""; a JPEG is decoded at an eighth of its size, which reads all of it."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.draft(None, (1, 1))
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return str(error).replace(str(path), "").strip(" '\"") or type(error).__name__
    return ""
