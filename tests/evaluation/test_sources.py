"""Any dataset in chunks, and the one selection of samples."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_fim.evaluation import chunks, samples
from keras_fim.evaluation.sources import joined

LABELS = np.random.default_rng(0).choice(5, size=400, p=[0.5, 0.2, 0.15, 0.1, 0.05])
IMAGES = np.arange(400.0)[:, None] + np.zeros((1, 3))


class Sequence(keras.utils.PyDataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        part = slice(50 * index, 50 * index + 50)
        return IMAGES[part], LABELS[part], np.ones(50)


def tensors(labels=LABELS):
    return tf.data.Dataset.from_tensor_slices((IMAGES, labels))


KINDS = {
    "arrays": lambda: (IMAGES, LABELS),
    "lists": lambda: (IMAGES.tolist(), LABELS.tolist()),
    "one-hot arrays": lambda: (IMAGES, np.eye(5)[LABELS]),
    "a column of labels": lambda: (IMAGES, LABELS[:, None]),
    "batched Dataset": lambda: tensors().batch(33),
    "Dataset of samples": tensors,
    "one-hot Dataset of samples": lambda: tensors(tf.one_hot(LABELS, 5)),
    "PyDataset with weights": lambda: Sequence(),
    "list of batches": lambda: [(IMAGES[:399], LABELS[:399]), (IMAGES[399:], LABELS[399:])],
    "generator": lambda: ((IMAGES[i : i + 7], LABELS[i : i + 7], LABELS[i : i + 7]) for i in range(0, 400, 7)),
    "generator of samples": lambda: zip(IMAGES, LABELS, strict=True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_chunks_and_the_same_selection(kind):
    parts = list(chunks(KINDS[kind]()))
    assert [len(part.labels) for part in parts] == [256, 144]
    for column, expected in zip(joined(parts), (np.arange(400), IMAGES, LABELS), strict=True):
        np.testing.assert_array_equal(column, expected)
    (part,) = chunks(KINDS[kind](), 50)
    (expected,) = chunks((IMAGES, LABELS), 50)
    assert np.bincount(part.labels).tolist() == [10] * 5 and part.labels.dtype == np.int64
    np.testing.assert_array_equal(part.indices, expected.indices)
    np.testing.assert_array_equal(part.images, IMAGES[expected.indices])
    images, labels = samples(KINDS[kind](), 50)
    np.testing.assert_array_equal(np.sort(images[:, 0]), part.indices)
    np.testing.assert_array_equal(LABELS[images[:, 0].astype(int)], labels)


def test_every_beginning_is_stratified():
    labels = samples((IMAGES, LABELS), 100)[1]
    for length in range(1, 101):
        taken = np.bincount(labels[:length], minlength=5)
        available = np.bincount(LABELS, minlength=5)
        not_exhausted = taken[taken < available]
        assert not_exhausted.max() - not_exhausted.min() <= 1


def test_selection_depends_on_the_seed_and_is_whole_at_most():
    assert set(samples((IMAGES, LABELS), 50, seed=1)[0][:, 0]) != set(samples((IMAGES, LABELS), 50)[0][:, 0])
    images, labels = samples((IMAGES, LABELS), 1000)
    assert sorted(images[:, 0]) == list(range(400))
    np.testing.assert_array_equal(LABELS[images[:, 0].astype(int)], labels)


def test_chunks_are_small_where_images_are_large():
    images = np.broadcast_to(np.float16(0), (100, 512, 512, 3))
    assert [len(part.labels) for part in chunks((images, np.zeros(100)))] == [10] * 10


def test_dictionaries():
    """Of TFDS without ``as_supervised``, and around the one input of a Keras model."""
    named, around = {"image": IMAGES, "label": LABELS}, ({"pixels": IMAGES}, LABELS)
    parts = [(IMAGES[:1], LABELS[:1])], ([IMAGES[0]], [LABELS[0]])  # lists of one image are no dictionaries
    for dataset in parts:
        np.testing.assert_array_equal(samples(dataset)[0], IMAGES[:1])
    rows = tf.data.Dataset.from_tensor_slices(named)
    for dataset in (rows, rows.batch(7), [named], around, [around], tf.data.Dataset.from_tensor_slices(around)):
        images, labels = samples(dataset)
        np.testing.assert_array_equal(images, IMAGES)
        np.testing.assert_array_equal(labels, LABELS)


def test_images_are_read_again_rather_than_kept():
    """Of a dataset that can be read twice only indices are kept; a generator is read once."""
    reads = []

    class Batches:
        def __iter__(self):
            reads.append("again")
            yield from ((IMAGES[i : i + 40], LABELS[i : i + 40]) for i in range(0, 400, 40))

    assert sum(len(part.labels) for part in chunks(Batches(), 20)) == 20 and len(reads) == 2
    samples(Batches(), 20)
    assert len(reads) == 3


def test_another_order_at_the_second_reading_is_an_error():
    shuffled = tensors().shuffle(400).batch(32)
    with pytest.raises(ValueError, match="same order each time it is read. .*shuffle=True"):
        list(chunks(shuffled, 20))
    assert sum(len(part.labels) for part in chunks(shuffled)) == len(samples(shuffled, 20)[1]) * 20


BAD = {
    "no sample": (tensors().take(0).batch(2), "`dataset` should not be empty. Received: no sample"),
    "no end": (tensors().batch(2).repeat(), "`dataset` should have an end"),
    "fewer labels": ((IMAGES, LABELS[:2]), "as many labels as images. Received: 400 images and 2 labels"),
    "images alone": (IMAGES, r"should yield \(images, labels\), .* Received: a ndarray"),
    "a dictionary": ([{"picture": IMAGES, "label": LABELS}], r'or \{"image": .* Received: a dict'),
    "two inputs": ((dict.fromkeys("ab", IMAGES), LABELS), "`images` should be one array. Received: 2: a, b"),
    "four arrays": ((1, 2, 3, 4), r"tuple \(images, labels\). Received: 4 entries"),
    "a number": (3, "should be arrays or yield batches. Received: a int"),
    "soft labels": ((IMAGES, np.full((400, 5), 0.2)), "one-hot rows or class indices"),
    "negative labels": ((IMAGES, LABELS - 1), "`labels` should be from 0 to 3. Received: -1"),
    "names": ((IMAGES, LABELS.astype(str)), "`labels` should be numbers"),
    "halves": ((IMAGES, LABELS + 0.5), "`labels` should be whole numbers"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    dataset, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        list(chunks(dataset))
    with pytest.raises(ValueError, match="`max_samples` should be a positive integer"):
        samples((IMAGES, LABELS), 0)
