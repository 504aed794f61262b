"""Images from folders, archives and TFDS: what is read is what is there, and what is wrong is said."""

from __future__ import annotations

import io

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from keras_fim import data
from keras_fim.data import splits
from keras_fim.evaluation import samples

RNG = np.random.default_rng(0)


def save(path, size=(8, 8), color=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = RNG.integers(0, 256, (*size, 3), np.uint8) if color is None else np.full((*size, 3), color, np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return pixels


def photos(root, counts, **options):
    names = [f"{name}/{i}.png" for name, count in counts.items() for i in range(count)]
    return {name: save(root / name, **options) for name in names}


def test_a_folder_by_class_is_read_pixel_by_pixel(tmp_path):
    written = photos(tmp_path, {"cat": 5, "ant": 7})
    source = data.open_source(str(tmp_path))
    assert source.info.class_names == ("ant", "cat") and source.info.image_shape == (8, 8, 3)
    images, split = data.evaluated(source, None, unseen=False)
    pixels, labels = samples(images)
    expected = [written["/".join(path.split("/")[-2:])] for path in split.paths]
    np.testing.assert_array_equal((255 * pixels).round().astype(np.uint8), expected)
    assert labels.tolist() == [0] * 7 + [1] * 5


def test_the_division_stays_with_the_names_and_covers_each_class(tmp_path):
    for place in ("here", "there"):
        photos(tmp_path / place, {"a": 40, "b": 2, "c": 60}, size=(2, 2))
    here, there = (data.open_source(str(tmp_path / place)) for place in ("here", "there"))
    names = [["/".join(path.split("/")[-2:]) for path in source.test.paths] for source in (here, there)]
    assert names[0] == names[1]
    for split in (here.train, here.test):
        assert set(split.labels) == {0, 1, 2}
    assert not set(here.train.paths) & set(here.test.paths)
    assert 0.1 < len(here.test.labels) / 102 < 0.3
    removed = tmp_path / "here" / "c" / "7.png"
    removed.unlink()
    rest = data.open_source(str(tmp_path / "here")).test.paths
    assert set(rest) == set(here.test.paths) - {str(removed)}


@pytest.mark.parametrize(
    "inside, parts",
    [
        (("train", "val", "test"), {"train", "validation", "test"}),
        (("train", "valid"), {"train", "test"}),
        (("train",), {"train", "test"}),
        (("testing",), {"test"}),
    ],
)
def test_parts_of_a_folder(tmp_path, inside, parts):
    for name in inside:
        photos(tmp_path / name, {"x": 6, "y": 6}, size=(2, 2))
    source = data.open_source(str(tmp_path))
    assert {part for part in ("train", "validation", "test") if getattr(source, part) is not None} == parts
    if inside == ("testing",):
        with pytest.raises(ValueError, match="should have images to train on"):
            data.load(str(tmp_path))
    else:
        train, test = data.load(str(tmp_path), batch_size=2)
        assert len(samples(train)[1]) + len(samples(test)[1]) == 12 * min(2, len(inside))


def test_a_class_may_have_the_name_of_a_part(tmp_path):
    photos(tmp_path, {"train": 3, "bus": 3})
    assert data.info(str(tmp_path)).class_names == ("bus", "train")


def test_what_is_wrong_with_a_folder_is_said(tmp_path):
    def refused(match, **options):
        with pytest.raises(ValueError, match=match):
            data.open_source(str(tmp_path), **options)

    refused("a folder of images for each class, at least two. Received: no folder")
    photos(tmp_path, {"a": 2})
    refused("Received: the folder a")
    (tmp_path / "b").mkdir()
    refused("images of each class. Received: none in b")
    photos(tmp_path, {"b": 2}, size=(4, 8))
    refused(r"should have one size.*--image-size.*Received: 8x4, 8x8")
    assert data.open_source(str(tmp_path), image_shape=(6, 6, 1)).info.image_shape == (6, 6, 1)
    refused("named as the model's classes: b, c. Received: a", image_shape=(6, 6, 1), class_names=("b", "c"))
    labels = data.open_source(str(tmp_path), image_shape=(6, 6, 1), class_names=("b", "c", "a")).whole.labels
    assert labels.tolist() == [0, 0, 2, 2]


def test_unreadable_files_are_named_skipped_and_counted(tmp_path):
    photos(tmp_path, {"a": 4, "b": 4})
    whole = (tmp_path / "a" / "0.png").read_bytes()
    (tmp_path / "a" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "b" / "text.jpg").write_text("no image")
    short = whole[:8] + (5).to_bytes(4, "big") + whole[12:]  # Pillow's own error for a header like that is a ValueError
    (tmp_path / "b" / "header.png").write_bytes(short)
    (tmp_path / "b" / "notes.txt").write_text("not even by its name")
    source = data.open_source(str(tmp_path))
    with pytest.warns(UserWarning, match=r"3 of 11 image files cannot be read.*cut.png \(.*text.jpg \("):
        images, split = data.evaluated(source, None, unseen=False)
    assert len(split.labels) == len(samples(images)[1]) == 8
    for path in tmp_path.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="None of the 11 image files can be read"):
        data.evaluated(source, None, unseen=False)


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_decoding_applies_orientation_transparency_and_depth():
    left = np.zeros((4, 8, 3), np.uint8)
    left[:, :4] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter: what was left is at the top
    for kind in ("JPEG", "PNG"):
        turned = splits.decode_image(encoded(Image.fromarray(left), kind, exif=exif), 3)
        assert turned.shape == (8, 4, 3) and turned[:3].min() > 240 and turned[5:].max() < 15
    clear = Image.fromarray(np.dstack([left, np.zeros((4, 8), np.uint8)]), "RGBA")
    np.testing.assert_array_equal(splits.decode_image(encoded(clear), 1), 255)
    deep = (np.arange(32).reshape(4, 8) * 2048).astype(np.uint16)
    np.testing.assert_array_equal(splits.decode_image(encoded(Image.fromarray(deep)), 1)[..., 0], deep >> 8)
    ink = Image.new("CMYK", (4, 4), (0, 0, 0, 255))
    assert splits.decode_image(encoded(ink, "JPEG"), 1).max() < 20


def test_images_are_resized_and_turned_gray(tmp_path):
    photos(tmp_path, {"a": 2}, size=(16, 8), color=(200, 200, 200))
    photos(tmp_path, {"b": 2}, size=(5, 5), color=(0, 100, 0))
    images, labels = samples(data.load(str(tmp_path), image_shape=(4, 4, 1))[0])
    for image, label in zip(images, labels, strict=True):
        np.testing.assert_allclose(255 * image, 200 if label == 0 else 59, atol=1)  # 0.587 of green


def test_shuffling_goes_over_all_files_and_repeats_with_the_seed(tmp_path):
    photos(tmp_path, {"a": 20, "b": 20}, size=(2, 2))
    first, second = (data.load(str(tmp_path), 8, seed=3)[0] for _ in "ab")
    orders = [samples(dataset)[0].tobytes() for dataset in (first, second, first)]
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("labels", [np.array([0, 1, 2, 1] * 5), np.array(["x", "y", "z", "y"] * 5)])
@pytest.mark.parametrize("scale", [1, 255.0])
def test_archives(tmp_path, labels, scale):
    pixels = RNG.integers(0, 256, (20, 4, 4), np.uint8)
    images = pixels if scale == 1 else (pixels / scale).astype(np.float32)
    np.savez(tmp_path / "some.npz", images=images, labels=labels)
    source = data.open_source(str(tmp_path / "some.npz"))
    assert source.info.num_classes == 3 and source.info.image_shape == (4, 4, 1)
    np.testing.assert_array_equal(source.whole.images[..., 0], pixels)
    assert source.whole.labels.tolist() == [0, 1, 2, 1] * 5
    assert len(source.train.labels) + len(source.test.labels) == 20 and set(source.test.labels) == {0, 1, 2}
    np.savez(tmp_path / "split.npz", x_train=images, y_train=labels, x_test=images[:4], y_test=labels[:4])
    train, test = data.load(str(tmp_path / "split.npz"))
    assert len(samples(train)[1]) == 20 and samples(test)[1].tolist() == [0, 1, 2, 1]


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"images": np.zeros((2, 3, 3, 1), np.uint8), "labels": np.array([{}, {}])}, "plain arrays"),
        ({"images": np.zeros((2, 3, 3, 1), np.uint8)}, "Received: images"),
        ({"images": np.zeros((2, 3, 3, 2), np.uint8), "labels": np.arange(2)}, r"Received: \(2, 3, 3, 2\)"),
        ({"images": np.zeros((2, 3, 3, 1), np.uint8), "labels": np.arange(3)}, "3 labels"),
        ({"images": np.zeros((0, 3, 3, 1), np.uint8), "labels": np.zeros(0, np.uint8)}, "at least one. Received"),
        ({"images": np.full((2, 3, 3, 1), -1.0), "labels": np.arange(2)}, "0..255 or 0..1. Received: -1..-1"),
        ({"images": np.zeros((2, 3, 3, 1), np.uint8), "labels": np.array([-1, 1])}, "at least 0. Received: -1"),
        ({"images": np.zeros((2, 3, 3, 1), np.uint8), "labels": np.array([0.5, 1])}, "integers or strings"),
    ],
)
def test_what_is_wrong_with_an_archive_is_said(tmp_path, arrays, message):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        data.open_source(str(tmp_path / "bad.npz"))


def test_names_that_are_nothing_say_what_there_is():
    with pytest.raises(ValueError, match=r"a folder of images by class.*'minst' \(did you mean mnist\?\)"):
        data.load("minst")
    with pytest.raises(ValueError, match="tfds:nothing.* should be a dataset of TensorFlow Datasets"):
        data.load("tfds:nothing_of_this_name")


class Dots(tfds.core.GeneratorBasedBuilder):
    """A dataset of its own, prepared from nothing."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {"image": tfds.features.Image(shape=(6, 6, 3)), "label": tfds.features.ClassLabel(names=["p", "q"])}
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(30)}

    def _generate_examples(self, count):
        for i in range(count):
            yield i, {"image": np.full((6, 6, 3), 8 * i, np.uint8), "label": i % 2}


def test_tfds_is_streamed(tmp_path):
    name = "tfds:dots"
    source = data.open_source(name, tmp_path)
    assert source.info.class_names == ("p", "q") and source.info.image_shape == (6, 6, 3)
    images, split = data.evaluated(source, 10, unseen=False)
    pixels, labels = samples(images)
    assert np.bincount(labels).tolist() == [5, 5] and len(split.labels) == 10
    values = (255 * pixels[:, 0, 0, 0]).round().astype(int) // 8
    np.testing.assert_array_equal(values % 2, labels)
    train, test = data.load(name, 4, data_dir=tmp_path)
    seen = [sorted((255 * samples(part)[0][:, 0, 0, 0]).round().astype(int) // 8) for part in (train, test)]
    assert sorted(seen[0] + seen[1]) == list(range(30)) and len(seen[1]) == 6
    assert isinstance(train, tf.data.Dataset) and len(train) == 6


def test_a_run_trains_on_tfds_in_passes_of_their_own_order(tmp_path):
    seed = data.PassSeed(0)
    train, validation, _ = data.load_splits("tfds:dots", 4, data_dir=tmp_path, validation=0.25, seed=seed)
    orders = []
    for index in (0, 1, 0):
        seed.start(index)
        orders.append((255 * samples(train)[0][:, 0, 0, 0]).round().astype(int).tolist())
    assert orders[0] == orders[2] != orders[1] and sorted(orders[0]) == sorted(orders[1])
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(2)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    assert len(model.fit(train, validation_data=validation, epochs=2, verbose=0).history["val_loss"]) == 2
