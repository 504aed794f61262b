"""Any dataset as chunks of arrays, and the one selection of samples: nothing holds more than a chunk."""

import hashlib
import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from keras_fim.arguments import CountOrNone, checked, expect, require
from keras_fim.inspection import only
from keras_fim.validation import check_labels

Dataset: TypeAlias = Any
"""Arrays ``(images, labels)``, a ``tf.data.Dataset``, a ``keras.utils.PyDataset``, or an iterable of
``(images, labels)``, ``(images, labels, weights)`` or TFDS's ``{"image": images, "label": labels}``, batched or not.
Images may be the one entry of a dictionary. Labels are class indices or one-hot rows."""

MaxSamples: TypeAlias = CountOrNone
"""The largest number of samples, of each class as many as possible; ``None`` for all."""

_LARGEST, _BYTES = 256, 2**25  # samples in a chunk, and what its images may take as float32


class Chunk(NamedTuple):
    """Consecutive samples of a dataset.

    Attributes:
        indices: int64 ``(n,)``, their positions in the dataset.
        images: ``(n, ...)``, as the dataset has them.
        labels: int64 ``(n,)``, class indices.
    """

    indices: np.ndarray
    images: np.ndarray
    labels: np.ndarray

    def take(self, where: Any) -> "Chunk":
        """The samples that an index, a mask or a slice selects."""
        return Chunk(*(column[where] for column in self))


@checked
def chunks(dataset: Dataset, max_samples: MaxSamples = None, *, seed: int = 0) -> Iterator[Chunk]:
    """A dataset in chunks of at most 256 samples and 32 MiB, whatever its own batches are.

    Args:
        dataset: See `Dataset`.
        max_samples: The largest number of samples, of each class as many as possible; ``None`` for all. The dataset is
            read twice then: once to select, keeping indices only, and once for the images. One that can be read only
            once, such as a generator, has the images of the selection in memory.
        seed: The seed of the selection.

    Yields:
        `Chunk`, in the order of the dataset.

    Raises:
        ValueError: If the dataset is empty, endless or not of these kinds, or has another order when it is read again.

    Example:
        >>> images, labels = np.zeros((600, 2, 2, 1)), np.arange(600) % 3
        >>> [len(chunk.labels) for chunk in chunks((images, labels))]
        [256, 256, 88]
        >>> [np.bincount(chunk.labels).tolist() for chunk in chunks((images, labels), 9)]
        [[3, 3, 3]]
    """
    if max_samples is None:
        return _read(dataset)
    return _grouped(_selected(dataset, max_samples, seed, hold=isinstance(dataset, Iterator))[1])


@checked
def samples(dataset: Dataset, max_samples: MaxSamples = None, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The samples of a dataset, which is read once, as arrays.

    Args:
        dataset: See `Dataset`.
        max_samples: As for `chunks`. The order is then one of which every beginning holds the classes as evenly as
            possible.
        seed: As for `chunks`.

    Returns:
        ``(images, labels)``; labels are class indices, int64.

    Raises:
        ValueError: As for `chunks`.
    """
    if max_samples is None:
        return joined(list(_read(dataset)))[1:]
    order, parts = _selected(dataset, max_samples, seed, hold=True)
    whole = joined(list(parts))
    return whole.take(np.searchsorted(whole.indices, order))[1:]


def digest(*parts: Any) -> str:
    """Tells arrays and text apart: 64 hexadecimal digits."""
    state = hashlib.sha256()
    for part in parts:
        array = np.ascontiguousarray(part)
        state.update(f"{array.dtype.str}{array.shape}".encode())
        state.update(array.data if array.dtype.kind in "biufc" else array.tobytes())
    return state.hexdigest()


def _selected(dataset: Dataset, max_samples: int, seed: int, *, hold: bool) -> tuple[np.ndarray, Iterator[Chunk]]:
    """The indices of the selection, class by class in turn, and its samples in the order of the dataset.

    With ``hold`` their images are kept, otherwise they are read again.
    """
    generator = np.random.default_rng(seed)
    kept = [np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)]
    images: dict[int, np.ndarray] = {}
    digests = []
    for chunk in _read(dataset):
        columns = chunk.indices, chunk.labels, generator.random(len(chunk.labels))
        pool = [np.concatenate(pair) for pair in zip(kept, columns, strict=True)]
        # a sample that is not among the first now will not be later: others only come before it
        order = np.lexsort((pool[2], _ranks(pool[1], pool[2])))[:max_samples]
        kept = [column[order] for column in pool]
        if hold:
            first = int(chunk.indices[0])
            images = {i: images[i] if i < first else chunk.images[i - first].copy() for i in kept[0].tolist()}
        else:
            digests.append(_digest(dataset, chunk))
    ascending = np.argsort(kept[0])
    if not hold:
        return kept[0], _again(dataset, kept[0][ascending], digests)
    return kept[0], (Chunk(kept[0][[i]], images[int(kept[0][i])][None], kept[1][[i]]) for i in ascending)


def _again(dataset: Dataset, indices: np.ndarray, digests: list[str]) -> Iterator[Chunk]:
    """The samples at some indices, if the dataset is what it was."""
    for position, chunk in enumerate(_read(dataset)):
        if position >= len(digests) or _digest(dataset, chunk) != digests[position]:
            expected = "yield the same samples in the same order each time it is read"
            advice = "leave out shuffling (shuffle=True) and random augmentation, or pass arrays"
            raise ValueError(f"`dataset` should {expected}. Received: other ones the second time; {advice}")
        yield chunk.take(np.isin(chunk.indices, indices))
        if chunk.indices[-1] >= indices[-1]:
            return


def _digest(dataset: Dataset, chunk: Chunk) -> str:
    return "" if isinstance(dataset, tuple) else digest(*chunk)  # arrays stay as they are


def _read(dataset: Dataset) -> Iterator[Chunk]:
    count = 0
    for chunk in _grouped(_numbered(_elements(dataset))):
        count += len(chunk.labels)
        yield chunk
    require(count, "`dataset` should not be empty. Received: no sample")


def _numbered(elements: Iterable[Any]) -> Iterator[Chunk]:
    """Batches, or single samples, with their positions."""
    start = 0
    for element in elements:
        if isinstance(element, dict) and {"image", "label"} <= element.keys():  # of TFDS without as_supervised
            element = element["image"], element["label"]
        if not isinstance(element, (tuple, list)) or len(element) not in (2, 3):
            expected = '(images, labels), (images, labels, weights) or {"image": images, "label": labels}'
            raise ValueError(f"`dataset` should yield {expected}. Received: a {type(element).__name__}")
        images, labels = np.asarray(_alone(element[0])), np.asarray(element[1])
        if labels.ndim == 0 or (labels.ndim == 1 and len(labels) != len(images) and np.sum(labels) == 1):
            images, labels = images[None], labels[None]  # a single sample, its label perhaps one-hot
        _check_lengths(images, labels)
        if len(labels):
            largest = int(np.max(labels)) if labels.dtype.kind in "biuf" else 0
            classes = labels.shape[1] if labels.ndim == 2 and labels.shape[1] > 1 else max(1, largest + 1)
            yield Chunk(np.arange(start, start + len(labels)), images, check_labels(labels, len(labels), classes))
            start += len(labels)


def _elements(dataset: Dataset) -> Iterable[Any]:
    """What a dataset yields, by its kind."""
    if isinstance(dataset, tuple):
        expect(len(dataset) in (2, 3), "dataset", "a tuple (images, labels)", received=f"{len(dataset)} entries")
        parts = _alone(dataset[0]), dataset[1]
        images, labels = (part if hasattr(part, "shape") else np.asarray(part) for part in parts)
        _check_lengths(images, labels)
        return ((images[i : i + _LARGEST], labels[i : i + _LARGEST]) for i in range(0, len(labels), _LARGEST))
    endless = isinstance(dataset, tf.data.Dataset) and dataset.cardinality() == tf.data.INFINITE_CARDINALITY
    if endless or (isinstance(dataset, keras.utils.PyDataset) and dataset.num_batches is None):
        raise ValueError("`dataset` should have an end. Received: a dataset that repeats itself; see Dataset.take")
    if isinstance(dataset, keras.utils.PyDataset):
        return (dataset[index] for index in range(dataset.num_batches))
    if not isinstance(dataset, Iterable):
        raise ValueError(f"`dataset` should be arrays or yield batches. Received: a {type(dataset).__name__}")
    return dataset


def _alone(images: Any) -> Any:
    """Images without the dictionary that holds nothing else."""
    if isinstance(images, dict):
        expect(len(images) == 1, "images", "one array", received=f"{len(images)}: {', '.join(images)}")
    return only(images) if isinstance(images, dict) else images


def _check_lengths(images: Any, labels: Any) -> None:
    expect(np.ndim(labels) > 0, "labels", "classes, one for each image", received=type(labels).__name__)
    expect(np.ndim(images) > 0, "images", "one array", received=type(images).__name__)
    received = f"{len(images)} images and {len(labels)} labels"
    require(len(images) == len(labels), f"`dataset` should hold as many labels as images. Received: {received}")


def _grouped(parts: Iterable[Chunk]) -> Iterator[Chunk]:
    """The same samples in chunks of one size, but for the last."""
    held: list[Chunk] = []
    count, size = 0, _LARGEST
    for part in parts:
        if not count:
            size = max(1, min(_LARGEST, _BYTES // max(1, 4 * math.prod(part.images.shape[1:]))))
        held.append(part)
        count += len(part.labels)
        if count >= size:
            whole = joined(held)
            for start in range(0, count - size + 1, size):
                yield whole.take(slice(start, start + size))
            held = [whole.take(slice(count - count % size, None))]
            count %= size
    if count:
        yield joined(held)


def joined(parts: list[Chunk]) -> Chunk:
    """The samples of several chunks as one."""
    return parts[0] if len(parts) == 1 else Chunk(*map(np.concatenate, zip(*parts, strict=True)))


def _ranks(labels: np.ndarray, priorities: np.ndarray) -> np.ndarray:
    """The place of each sample among those of its class, by priority."""
    order = np.lexsort((priorities, labels))
    _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    ranks = np.empty(len(labels), np.int64)
    ranks[order] = np.arange(len(labels)) - np.repeat(starts, counts)
    return ranks
