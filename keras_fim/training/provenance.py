"""Which images a model was trained on, as hashes of their pixels."""

import hashlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_fim.evaluation import chunks
from keras_fim.records import written
from keras_fim.training.trained import record_of

HASHES = "training_images.npy"
"""The file in a run's folder with the hashes of the images that it was trained on."""

STORED_HASHES = Path(__file__).parent / "weights" / "training_images"


def image_hashes(dataset: tf.data.Dataset) -> np.ndarray:
    """Sorted hashes, uint64 ``(n,)``, of images in [0, 1] as pixels of 8 bits."""
    hashes = [_hashed(image) for images, _ in dataset.as_numpy_iterator() for image in _pixels(images)]
    return np.sort(np.array(hashes, np.uint64))


def was_seen(images: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """Which images in [0, 1] have one of the sorted hashes; bool ``(n,)``."""
    own = np.array([_hashed(image) for image in _pixels(images)], np.uint64)
    places = np.searchsorted(hashes, own)
    return np.asarray(hashes[np.minimum(places, len(hashes) - 1)] == own)


def warn_of_seen(source: str | Path, dataset: tf.data.Dataset, max_samples: int) -> None:
    """Warn if some of the images in [0, 1] that are selected are among those that a model was trained on."""
    if (hashes := seen_images(source)) is None:
        return
    masks = [was_seen(chunk.images, hashes) for chunk in chunks(dataset, max_samples)]
    seen, total = sum(int(mask.sum()) for mask in masks), sum(len(mask) for mask in masks)
    if seen:
        warnings.warn(
            f"The model was trained on {seen} of these {total} images: its figures here say little about new images.",
            stacklevel=2,
        )


def seen_images(source: str | Path) -> np.ndarray | None:
    """The hashes of the images that a model was trained on; None if they are not on record.

    Args:
        source: As in `keras_fim.training.load_model`.
    """
    path, record = Path(source), None
    for folder in (path, path.parent):
        if (folder / HASHES).is_file():
            return _read(folder / HASHES)
    try:
        record = record_of(source)
    except ValueError:
        return None
    stored = STORED_HASHES / f"{record['config']['data']}.npy" if record else None
    return _read(stored) if stored and stored.is_file() else None


def write_hashes(path: Path, hashes: np.ndarray) -> Path:
    """Write hashes as `keras_fim.records.written` does."""
    with written(path) as unfinished, open(unfinished, "wb") as file:
        np.save(file, hashes, allow_pickle=False)
    return path


def _read(path: Path) -> np.ndarray:
    try:
        hashes = np.load(path, allow_pickle=False)
        if hashes.ndim != 1 or hashes.dtype != np.uint64 or not hashes.size:
            raise ValueError(f"an array {hashes.shape} of {hashes.dtype}")
    except (ValueError, EOFError, AttributeError) as error:
        advice = "Delete the file to evaluate without that check"
        raise ValueError(f"{path} should hold hashes of the training images: {error}. {advice}") from error
    return np.asarray(hashes)


def _pixels(images: Any) -> np.ndarray:
    return np.round(255 * np.asarray(images)).astype(np.uint8)


def _hashed(image: np.ndarray) -> int:
    return int.from_bytes(hashlib.blake2b(image.tobytes(), digest_size=8).digest(), "big")
