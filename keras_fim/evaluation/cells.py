"""The store of finished cells: parts of a long measurement, a small file each, found again by what they depend on."""

import dataclasses
import functools
import hashlib
import json
import operator
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import keras
import numpy as np

from keras_fim.attacks.base import Attack, predict_logits
from keras_fim.logits import LogitsFunction, logits_function
from keras_fim.records import read_json, versions, write_text

_Result = TypeVar("_Result")
_DAMAGED = (ValueError, TypeError, LookupError, AttributeError)


class Cells:
    """A folder of finished cells; without a folder nothing is kept.

    A cell is found again if its settings are the same: those are what its result depends on, never the version of this
    package. A file that is damaged, or valid JSON of another shape, is measured again.

    Args:
        folder: The folder, made when the first cell is written.
        same: Tells whether the settings of a file and those asked for are the same.
    """

    def __init__(
        self, folder: str | Path | None, same: Callable[[dict[str, Any], dict[str, Any]], bool] = operator.eq
    ) -> None:
        self.folder, self.same = None if folder is None else Path(folder), same

    def measured(
        self,
        name: str,
        settings: dict[str, Any],
        measure: Callable[[], _Result],
        *,
        write: Callable[[_Result], Any] = lambda result: result,
        read: Callable[[Any], _Result] = lambda content: content,
    ) -> tuple[_Result, bool]:
        """A result from its file, or measured and kept.

        Args:
            name: The path of the file in the folder, without its suffix.
            settings: Whatever the result depends on, ready for JSON.
            measure: Returns the result.
            write: Makes JSON of a result.
            read: The reverse; an error says that the content is not of its shape.

        Returns:
            The result, and whether it was kept.
        """
        kept = self.kept(name, settings, read)
        return (self.keep(name, settings, measure(), write), False) if kept is None else (kept, True)

    def kept(self, name: str, settings: dict[str, Any], read: Callable[[Any], _Result]) -> _Result | None:
        """A result from its file; None without one. The arguments are those of `measured`."""
        path = None if self.folder is None else self.folder / f"{name}.json"
        if path is not None and path.is_file():
            try:
                cell = read_json(path)
                if self.same(cell["settings"], json.loads(json.dumps(settings))):
                    return read(cell["result"])
            except _DAMAGED:
                pass
        return None

    def keep(self, name: str, settings: dict[str, Any], result: _Result, write: Callable[[_Result], Any]) -> _Result:
        """Write a result to its file, and return it. The arguments are those of `measured`."""
        if self.folder is not None:
            content = {"settings": settings, "versions": self._versions, "result": write(result)}
            write_text(self.folder / f"{name}.json", json.dumps(content) + "\n")
        return result

    @functools.cached_property
    def _versions(self) -> dict[str, str | None]:
        return versions()


def packed(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays and numbers by name, ready for JSON as Python reads it."""
    return {key: np.asarray(column).tolist() for key, column in columns.items()}


def unpacked(content: Any, names: Collection[str], num_samples: int) -> dict[str, np.ndarray]:
    """What `packed` made of arrays ``(..., n)`` and numbers.

    Raises:
        ValueError: If it is of other names or another number of samples.
    """
    columns = {key: np.array(column) for key, column in content.items()}
    if set(columns) != set(names) or any(column.shape[-1:] not in ((), (num_samples,)) for column in columns.values()):
        raise ValueError(f"A cell should hold {sorted(names)} of {num_samples} samples. Received: {sorted(columns)}")
    return columns


def attack_settings(attack: Attack, images: np.ndarray) -> dict[str, Any]:
    """What tells an attack apart in the settings of a cell: all but what does not change its results.

    Args:
        attack: The attack. Another model that it uses is told apart by `model_digest`.
        images: Some images that it is called on.

    Returns:
        Ready for JSON, with the attack's integer ``revision``, which changes with what the attack computes.
    """
    fields = {field.name: getattr(attack, field.name) for field in dataclasses.fields(attack) if field.repr}
    settings: dict[str, Any] = {"attack": type(attack).__name__, "revision": getattr(attack, "revision", 1)}
    for name, value in fields.items():
        if isinstance(value, Attack):
            settings[name] = attack_settings(value, images)
        elif name == "twin" and value is not None:
            settings[name] = model_digest(logits_function(value, images), images)
        elif name != "batch_size":
            settings[name] = repr(value)
    return settings


def model_digest(logits_fn: LogitsFunction, images: np.ndarray) -> str:
    """Tells models apart.

    For a Keras model by its weights, and by its logits of a few images of noise, which differ where the layers do;
    coarsely, because the last bits are the processor's. For anything else, whose weights are unknown, by its exact
    logits of the images.

    Args:
        logits_fn: The model.
        images: ``(batch, ...)``; of a Keras model only their shape matters.

    Returns:
        64 hexadecimal digits.
    """
    known = isinstance(logits_fn.model, keras.Model)
    probe = np.random.default_rng(0).uniform(size=(8, *images.shape[1:])) if known else images
    logits = np.asarray(logits_fn.in_batches(predict_logits, probe), np.float64)
    arrays = [*logits_fn.model.get_weights(), *_coarse(logits)] if known else [logits]
    return digest(*arrays, logits_fn.form)


def digest(*parts: Any) -> str:
    """Tells arrays and text apart: 64 hexadecimal digits."""
    state = hashlib.sha256()
    for part in parts:
        array = np.ascontiguousarray(part)
        state.update(f"{array.dtype.str}{array.shape}".encode())
        state.update(array.data if array.dtype.kind in "biufc" else array.tobytes())
    return state.hexdigest()


def _coarse(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sixteen levels of either sign, and the largest to a quarter of a power of two: rounding hardly moves them."""
    largest = np.maximum(np.abs(logits).max(), np.finfo(np.float32).tiny)
    return np.round(16 * logits / largest).astype(np.int64), np.round(4 * np.log2(largest)).astype(np.int64)
