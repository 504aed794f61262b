"""Where images come from: a named dataset, a folder by class, an ``.npz`` file, or TensorFlow Datasets."""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_fim.arguments import checked, did_you_mean, require
from keras_fim.data import catalog
from keras_fim.data.catalog import Augmentation, DatasetInfo
from keras_fim.data.splits import Arrays, Files, Records, Split, held_out
from keras_fim.records import read_arrays

KINDS = "mnist, cifar10, gtsrb, mnist5k (no download), a folder of images by class, an .npz file, or tfds:NAME"
_TFDS = "tfds:"
_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
_PARTS = {"train": ("train", "training"), "validation": ("val", "valid", "validation"), "test": ("test", "testing")}
_ARRAYS = {"train": ("x_train", "y_train"), "test": ("x_test", "y_test"), "": ("images", "labels")}
_TEST_SHARE = 0.2  # of a dataset that comes in one part


class Source(NamedTuple):
    """A dataset that is open.

    Attributes:
        info: The shape of its images and its classes.
        train: The samples to train on; None where there are only images to evaluate.
        validation: Samples to choose the best weights on, if the dataset has such a part.
        test: The samples to evaluate.
        whole: All samples, if nobody but us divided them into ``train`` and ``test``.
    """

    info: DatasetInfo
    train: Split | None
    validation: Split | None
    test: Split
    whole: Split | None = None


@checked
def open_source(
    name: str,
    data_dir: str | Path | None = None,
    *,
    image_shape: Sequence[int] | None = None,
    class_names: Sequence[str] | None = None,
) -> Source:
    """Open a dataset: list its samples and their labels.

    Args:
        name: A name of `names`; a folder that holds a folder of images for each class, or such folders inside of
            ``train``, ``val`` and ``test``; an ``.npz`` file with ``x_train, y_train, x_test, y_test`` or with
            ``images, labels``; or ``tfds:NAME`` or ``tfds:NAME/CONFIG``.
        data_dir: The folder in which TensorFlow Datasets keeps its data.
        image_shape: ``(height, width, channels)`` of the images; ``None`` for that of the dataset.
        class_names: The classes in the order of a model's outputs, for a folder that names some of them.

    Returns:
        `Source`.

    Raises:
        ValueError: If there is no such dataset, or it is not as described.
    """
    if name in catalog.names():
        train, test = catalog.read(name, data_dir)
        source = Source(catalog.info(name), train, None, test)
    elif name.startswith(_TFDS):
        source = _from_tfds(name, data_dir)
    elif Path(name).expanduser().is_dir():
        source = _from_folder(name, image_shape, class_names)
    elif name.endswith(".npz") and Path(name).expanduser().is_file():
        source = _from_archive(name)
    else:
        hint = did_you_mean(name, catalog.names())
        raise ValueError(f"The `name` of the dataset should be {KINDS}. Received: {name!r}{hint}")
    if image_shape is not None:
        source = source._replace(info=source.info._replace(image_shape=tuple(image_shape)))
    return source


@checked
def info(name: str, data_dir: str | Path | None = None, *, image_shape: Sequence[int] | None = None) -> DatasetInfo:
    """The shape of the images and the classes of a dataset.

    Args:
        name: As in `open_source`.
        data_dir: As in `open_source`.
        image_shape: As in `open_source`.

    Raises:
        ValueError: As in `open_source`.

    Example:
        >>> info("gtsrb").num_classes
        43
    """
    facts = catalog.info(name) if name in catalog.names() else open_source(name, data_dir, image_shape=image_shape).info
    return facts if image_shape is None else facts._replace(image_shape=tuple(image_shape))


@checked
def short_name(name: str) -> str:
    """A dataset's name as a part of a file name: ``photos`` for ``data/photos/``, ``tfds-beans`` for ``tfds:beans``."""
    if name.startswith(_TFDS):
        return name.replace(":", "-").replace("/", "-")
    return name if name in catalog.names() else Path(name).expanduser().resolve().name.removesuffix(".npz")


@checked
def described(name: str, image_shape: Sequence[int], class_names: Sequence[str]) -> DatasetInfo:
    """What is assumed of a dataset that is new to us: shifts by a sixteenth of the image do not change the class."""
    height, width, channels = image_shape
    augmentation = Augmentation(shift=max(1, min(height, width) // 16))
    return DatasetInfo(name, (int(height), int(width), int(channels)), tuple(class_names), augmentation)


def _from_folder(name: str, image_shape: Sequence[int] | None, class_names: Sequence[str] | None) -> Source:
    """List the image files of a folder; some are opened where the shape of the images is not given.

    Args:
        name: The folder.
        image_shape: As in `open_source`.
        class_names: The classes in the order of a model's outputs, if that is on record; the folder may have fewer.

    Returns:
        `Source`, whose classes are the names of the class folders, sorted, unless they are given.

    Raises:
        ValueError: If it holds no images, one class only, an empty class, or a class that is not in ``class_names``;
            or if the images have different sizes and no shape is given.
    """
    path = Path(name).expanduser()
    roots = _roots(path)
    present = sorted({entry.name for root in roots.values() for entry in _folders(root)})
    received = f"the folder {present[0]}" if present else "no folder"
    expected = "a folder of images for each class, at least two"
    require(len(present) >= 2, f"{path} should hold {expected}. Received: {received}")
    names = tuple(present if class_names is None else class_names)
    if unknown := sorted(set(present) - set(names)):
        expected = f"named as the model's classes: {', '.join(names[:10])}{', ...' if len(names) > 10 else ''}"
        raise ValueError(f"The folders in {path} should be {expected}. Received: {', '.join(unknown[:10])}")
    named = {part: _files(root, names) for part, root in roots.items()}
    for part, files in named.items():
        counts = np.bincount(files.labels, minlength=len(names))
        if empty := [name for name in present if (roots[part] / name).is_dir() and not counts[names.index(name)]]:
            raise ValueError(f"{roots[part]} should hold images of each class. Received: none in {', '.join(empty)}")
    parts = _divided(named)
    return Source(described(name, image_shape or _shape_of_files(name, parts["test"]), names), **parts)


def _roots(path: Path) -> dict[str, Path]:
    """The folders that hold class folders, by their part."""
    inside = {entry.name.lower(): entry for entry in _folders(path)}
    roots = {part: inside[name] for part, names in _PARTS.items() for name in names if name in inside}
    nested = {part: root for part, root in roots.items() if _folders(root)}  # a class may be named train
    return nested if "train" in nested or "test" in nested else {"": path}


def _folders(path: Path) -> list[Path]:
    return [entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")]


def _files(root: Path, names: Sequence[str]) -> Files:
    folders = [root / name for name in names]
    listed = [_listed(folder, folder.stat().st_mtime_ns) if folder.is_dir() else () for folder in folders]
    paths = np.array([path for own in listed for path in own], dtype=str)
    return Files(np.repeat(np.arange(len(names)), [len(own) for own in listed]), np.arange(len(paths)), paths)


@functools.lru_cache(maxsize=4096)
def _listed(folder: Path, changed: int) -> tuple[str, ...]:
    """The image files of a class, also in folders inside; ``changed`` is the folder's time of modification."""
    files = (file for file in folder.rglob("*") if file.suffix.lower() in _SUFFIXES)
    return tuple(sorted(str(file) for file in files if not file.name.startswith(".")))


def _held_out_files(files: Files) -> np.ndarray:
    """Mask of the test part: of each class, the files whose hash is low, but neither none nor all of two or more."""
    shares = np.array([_hashed(path) for path in files.paths])
    mask = shares < _TEST_SHARE
    for label in np.unique(files.labels):
        members = np.flatnonzero(files.labels == label)
        if len(members) > 1:
            mask[members[shares[members].argmin()]] = True
            mask[members[shares[members].argmax()]] = False
    return mask


def _hashed(path: str) -> float:
    """A number in [0, 1) that stays with a file's name and class when its folder moves."""
    name = "/".join(Path(path).parts[-2:])
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=7).digest(), "big") / 2**56


def _divided(named: Mapping[str, Split]) -> dict[str, Any]:
    """The splits of a `Source`, from parts by name, of which ``""`` is everything that nobody has divided."""
    parts, whole = dict(named), named.get("")
    if "test" not in parts and "validation" in parts:
        parts["test"] = parts.pop("validation")
    if "test" not in parts:
        split = parts["train"] if whole is None else whole
        mask = _held_out_files(split) if isinstance(split, Files) else held_out(split, _TEST_SHARE)
        parts |= {"train": split.take(np.flatnonzero(~mask)), "test": split.take(np.flatnonzero(mask))}
    return {**{part: parts.get(part) for part in ("train", "validation", "test")}, "whole": whole}


def _shape_of_files(name: str, files: Files) -> tuple[int, int, int]:
    """The shape of the images, if the first of them have one."""
    from PIL import Image

    shapes = set()
    for path in files.paths[:: max(1, len(files.paths) // 50)]:
        try:
            with Image.open(path) as image:
                shapes.add((image.height, image.width, 1 if image.mode in ("1", "L", "I", "I;16") else 3))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            continue  # counted where the images are read
    sizes = {shape[:2] for shape in shapes}
    received = ", ".join(f"{width}x{height}" for height, width in sorted(sizes)[:3]) or "no readable image"
    received += ", ..." if len(sizes) > 3 else ""
    expected = "one size, or be resized to the one that is given (--image-size 224, image_shape=(224, 224, 3))"
    require(len(sizes) == 1, f"The images in {name} should have {expected}. Received: {received}")
    return (*sizes.pop(), max(shape[2] for shape in shapes))


@functools.lru_cache(maxsize=2)
def _arrays_of(path: str, changed: int) -> dict[str, np.ndarray]:
    return read_arrays(path, [key for keys in _ARRAYS.values() for key in keys])


def _from_archive(name: str) -> Source:
    path = Path(name).expanduser()
    arrays = _arrays_of(str(path), path.stat().st_mtime_ns)
    pairs = {part: [arrays[key] for key in keys] for part, keys in _ARRAYS.items() if set(keys) <= set(arrays)}
    expected = "the arrays x_test and y_test, with x_train and y_train to train on, or images and labels"
    received = ", ".join(arrays) or "none of them"
    require("test" in pairs or "" in pairs, f"{name} should hold {expected}. Received: {received}")
    labels = np.concatenate([np.asarray(y).reshape(-1) for _, y in pairs.values()])
    classes = np.unique(labels)
    if labels.dtype.kind in "iu":
        lowest, highest = labels.min(initial=0), labels.max(initial=0)
        require(lowest >= 0, f"The labels in {name} should be at least 0. Received: {lowest}")
        classes = np.arange(highest + 1)
    elif labels.dtype.kind not in "US":
        raise ValueError(f"The labels in {name} should be integers or strings. Received: {labels.dtype}")
    splits = {part: _split_of(name, x, y, classes) for part, (x, y) in pairs.items()}
    facts = described(name, next(iter(splits.values())).images.shape[1:], [str(name) for name in classes])
    return Source(facts, **_divided({part: splits[part] for part in splits if part or "test" not in splits}))


def _split_of(name: str, images: np.ndarray, labels: np.ndarray, classes: np.ndarray) -> Arrays:
    images = images[..., None] if images.ndim == 3 else images
    fits = images.ndim == 4 and images.shape[-1] in (1, 3) and len(images) == labels.size > 0
    expected = "(n, height, width) or (n, height, width, 1 or 3), and n labels, at least one"
    require(fits, f"The images in {name} should be {expected}. Received: {images.shape}, {labels.size} labels")
    if images.dtype != np.uint8:
        low, high = (float(end) for end in (images.min(), images.max()))
        require(0 <= low and high <= 255, f"Images in {name} should be in 0..255 or 0..1. Received: {low:g}..{high:g}")
        images = np.round(images * (255.0 if high <= 1 else 1.0)).astype(np.uint8)
    return Arrays(np.searchsorted(classes, labels.reshape(-1)).astype(np.int64), np.arange(len(images)), images)


def _from_tfds(name: str, data_dir: str | Path | None) -> Source:
    import tensorflow_datasets as tfds

    builder = catalog.prepared(name.removeprefix(_TFDS), data_dir)
    features = dict(builder.info.features)
    if not ("image" in features and isinstance(features.get("label"), tfds.features.ClassLabel)):
        raise ValueError(f"{name} should have the features image and label. Received: {', '.join(features)}")
    given = tuple(features["image"].shape)
    # the usual size of photographs, unless another is asked for
    shape = (224, 224, given[-1]) if None in given else given
    splits = {part: Records.of(builder, part) for part in _PARTS if part in builder.info.splits}
    require(splits, f"{name} should have the split train or test. Received: {', '.join(builder.info.splits)}")
    splits = {"": splits["train"]} if splits.keys() == {"train"} else splits
    return Source(described(name, shape, features["label"].names), **_divided(splits))
