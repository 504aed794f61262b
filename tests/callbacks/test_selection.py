from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from keras_fim.callbacks.selection import select

LABELS = np.random.default_rng(0).choice(5, size=400, p=[0.5, 0.2, 0.15, 0.1, 0.05])
IMAGES = np.arange(400.0)[:, None]


def test_every_beginning_is_stratified():
    labels = select((IMAGES, LABELS), 100).labels
    for length in range(1, 101):
        taken = np.bincount(labels[:length], minlength=5)
        available = np.bincount(LABELS, minlength=5)
        not_exhausted = taken[taken < available]
        assert not_exhausted.max() - not_exhausted.min() <= 1


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_choice_depends_on_the_seed_and_not_on_the_batches(batch_size):
    """So that dropping samples while reading, which bounds the memory, drops none that belongs to the choice."""
    whole = select((IMAGES, LABELS), 50)
    dataset = tf.data.Dataset.from_tensor_slices((IMAGES, tf.one_hot(LABELS, 5))).batch(batch_size)
    batched = select(dataset, 50)
    np.testing.assert_array_equal(batched.images, whole.images)
    np.testing.assert_array_equal(batched.labels, whole.labels)
    assert set(select(dataset, 50, seed=1).images[:, 0]) != set(whole.images[:, 0])


def test_labels_stay_with_their_images_and_none_comes_twice():
    images, labels = select((IMAGES, LABELS), 1000)
    assert sorted(images[:, 0]) == list(range(400))
    np.testing.assert_array_equal(LABELS[images[:, 0].astype(int)], labels)


def test_no_sample_or_no_end():
    with pytest.raises(ValueError, match="`dataset` should not be empty. Received: no sample"):
        select(tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).take(0).batch(2), 3)
    with pytest.raises(ValueError, match="`dataset` should have an end"):
        select(tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(2).repeat(), 3)
