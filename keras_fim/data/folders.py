"""Image files in a folder for each class, with or without folders ``train``, ``val`` and ``test`` around them."""

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_fim.data.splits import Files, Split

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
_PARTS = {"train": ("train", "training"), "validation": ("val", "valid", "validation"), "test": ("test", "testing")}
TEST_SHARE = 0.2  # of a dataset that comes in one part


def read_folder(path: Path, class_names: Sequence[str] | None = None) -> tuple[tuple[str, ...], dict[str, Split]]:
    """List the image files of a folder; none is opened.

    Args:
        path: The folder.
        class_names: The classes in the order of a model's outputs, if that is on record; the folder may have fewer.

    Returns:
        The names of the class folders, sorted, and the files by the name of their part, ``train``, ``validation`` or
        ``test``; or all of them by ``""``.

    Raises:
        ValueError: If it holds no images, one class only, an empty class, or a class that is not in ``class_names``.
    """
    roots = _roots(path)
    present = sorted({entry.name for root in roots.values() for entry in _folders(root)})
    if len(present) < 2:
        held = f"the folder {present[0]}" if present else "no folder"
        raise ValueError(f"{path} should hold a folder of images for each class, at least two. Received: {held}")
    names = tuple(present if class_names is None else class_names)
    if unknown := sorted(set(present) - set(names)):
        expected = f"named as the model's classes: {', '.join(names[:10])}{', ...' if len(names) > 10 else ''}"
        raise ValueError(f"The folders in {path} should be {expected}. Received: {', '.join(unknown[:10])}")
    parts = {part: _files(path, root, names) for part, root in roots.items()}
    for part, files in parts.items():
        counts = np.bincount(files.labels, minlength=len(names))
        if empty := [name for name in present if (roots[part] / name).is_dir() and not counts[names.index(name)]]:
            raise ValueError(f"{roots[part]} should hold images of each class. Received: none in {', '.join(empty)}")
    return names, dict(parts)


def _roots(path: Path) -> dict[str, Path]:
    """The folders that hold class folders, by their part."""
    inside = {entry.name.lower(): entry for entry in _folders(path)}
    roots = {part: inside[name] for part, names in _PARTS.items() for name in names if name in inside}
    nested = {part: root for part, root in roots.items() if _folders(root)}  # a class may be named train
    return nested if "train" in nested or "test" in nested else {"": path}


def _folders(path: Path) -> list[Path]:
    return [entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")]


def _files(top: Path, root: Path, names: Sequence[str]) -> Files:
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        own = _listed(root / name, (root / name).stat().st_mtime_ns) if (root / name).is_dir() else ()
        paths += own
        labels += [label] * len(own)
    return Files(np.array(labels, np.int64), np.arange(len(paths)), np.array(paths, dtype=str))


@functools.lru_cache(maxsize=4096)
def _listed(folder: Path, changed: int) -> tuple[str, ...]:
    """The image files of a class, also in folders inside; ``changed`` is the folder's time of modification."""
    files = (file for file in folder.rglob("*") if file.suffix.lower() in _SUFFIXES)
    return tuple(sorted(str(file) for file in files if not file.name.startswith(".")))


def held_out_files(files: Files) -> np.ndarray:
    """Mask of the test part: of each class, the files whose hash is low, but neither none nor all of two or more."""
    shares = np.array([_hashed(path) for path in files.paths])
    mask = shares < TEST_SHARE
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
