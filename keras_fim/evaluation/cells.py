"""Finished parts of a long measurement, one small file each, found again by what they were measured on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_fim.attacks.base import predict_logits
from keras_fim.logits import LogitsFunction
from keras_fim.records import read_json, write_json

__all__ = ["Cells", "data_digest", "model_digest"]

_FORMAT = 1  # of the cells' content; a cell of another format is measured again


class Cells:
    """A folder of finished cells; without a folder nothing is kept.

    Args:
        folder: where; made when the first cell is written.
        **common: what all cells depend on, ready for JSON.
    """

    def __init__(self, folder: str | Path | None, **common: Any) -> None:
        self.folder = None if folder is None else Path(folder)
        self.common = {"format": _FORMAT, **common}

    def find(self, name: str, **key: Any) -> Any:
        """The content of a cell, or None if it has not been measured under the same conditions."""
        path = self._path(name, key)
        if path is None or not path.is_file():
            return None
        try:
            found = read_json(path)
        except ValueError:  # somebody else's file, or damaged: measured again
            return None
        same = isinstance(found, dict) and found.get("key") == json.loads(json.dumps({**self.common, **key}))
        return found.get("content") if same else None

    def keep(self, name: str, content: Any, **key: Any) -> None:
        """Write a cell, aside and renamed."""
        path = self._path(name, key)
        if path is not None:
            write_json(path, {"key": {**self.common, **key}, "content": content})

    def _path(self, name: str, key: dict[str, Any]) -> Path | None:
        if self.folder is None:
            return None
        text = json.dumps({**self.common, **key}, sort_keys=True)
        return self.folder / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


def model_digest(logits_fn: LogitsFunction, images: np.ndarray) -> str:
    """Tells models apart.

    For a Keras model of its weights, and of its logits on a few of the images, which differ where the layers do;
    coarsely, for the last bits are the processor's. For anything else, whose weights are not known, of its exact logits
    on up to 1,024 images.

    Args:
        logits_fn: the model.
        images: ``(batch, ...)``.

    Returns:
        64 hexadecimal digits.
    """
    known = isinstance(logits_fn.model, keras.Model)
    tensor = logits_fn.cast(np.asarray(images[: 8 if known else 1024]))
    logits = np.asarray(logits_fn.compiled(predict_logits)(tensor), np.float64)
    arrays = [*logits_fn.model.get_weights(), *_coarse(logits)] if known else [logits]
    return _digest(*arrays, logits_fn.form)


def _coarse(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sixteen levels of either sign, and the largest to a quarter of a power of two: rounding hardly moves them."""
    largest = np.maximum(np.abs(logits).max(), np.finfo(np.float32).tiny)
    return np.round(16 * logits / largest).astype(np.int64), np.round(4 * np.log2(largest)).astype(np.int64)


def data_digest(images: np.ndarray, labels: np.ndarray) -> str:
    """Tells sets of samples apart: 64 hexadecimal digits."""
    return _digest(images, labels)


def _digest(*parts: Any) -> str:
    state = hashlib.sha256()
    for part in parts:
        array = np.ascontiguousarray(part)
        state.update(f"{array.dtype.str}{array.shape}".encode())
        state.update(array.tobytes())
    return state.hexdigest()
