"""Small trained weights: stored as float16, loaded by name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_fim import data, models
from keras_fim.records import read_json, write_json

__all__ = ["load_into", "load_model", "record_of", "store", "stored_names", "weights_dir"]


def weights_dir() -> Path:
    """Folder of the stored weights: ``$KERAS_FIM_WEIGHTS``, else ``results/models`` here or in this checkout."""
    if os.environ.get("KERAS_FIM_WEIGHTS"):
        return Path(os.environ["KERAS_FIM_WEIGHTS"]).expanduser()
    here, root = Path("results/models"), Path(__file__).resolve().parents[2]
    return root / here if not here.is_dir() and (root / "setup.py").is_file() else here


def stored_names() -> tuple[str, ...]:
    """Names of the stored weights, for `load_model`."""
    return tuple(sorted(path.parent.name for path in weights_dir().glob("*/weights.npz")))


def load_model(name: str | Path) -> keras.Model:
    """A trained model.

    Args:
        name: a name of `stored_names`, a run folder, or a ``.keras`` file.

    Returns:
        The model, not compiled if it comes from stored weights.

    Raises:
        ValueError: if there is nothing of that name.
    """
    path = Path(name)
    if path.suffix == ".keras" and path.is_file():
        return keras.models.load_model(path)
    if (path / "model.keras").is_file():
        return keras.models.load_model(path / "model.keras")
    stored = _stored(path)
    config = read_json(stored / "run.json")["config"]
    facts = data.info(config["data"])
    model = models.MODELS[config["model"]](facts.image_shape, facts.num_classes, **config["model_options"])
    _set_weights(model, stored)
    return model


def load_into(model: keras.Model, source: str | Path) -> None:
    """Set a model's weights from a run folder, stored weights, or a ``.weights.h5`` or ``.keras`` file.

    Args:
        model: a built model of the same layers.
        source: as in `load_model`, or a file of weights.

    Raises:
        ValueError: if there is nothing of that name, or it does not fit the model.
    """
    path = Path(source)
    if path.name.endswith(".weights.h5") and path.is_file():
        model.load_weights(path)
    else:
        model.set_weights(load_model(path).get_weights())


def record_of(source: str | Path) -> dict[str, Any] | None:
    """The record of the run that the weights of a `load_into` source come from.

    Args:
        source: as in `load_into`.

    Returns:
        The content of ``run.json``; None for a bare file of weights, which has no record.

    Raises:
        ValueError: if there is nothing of that name.
    """
    path = Path(source)
    if path.name.endswith((".weights.h5", ".keras")) and path.is_file():
        return None
    record = (path if (path / "model.keras").is_file() else _stored(path)) / "run.json"
    return dict(read_json(record)) if record.is_file() else None


def store(model: keras.Model, name: str, record: dict[str, Any], folder: Path | None = None) -> Path:
    """Write a model's weights as float16 with the record of its run.

    Args:
        model: the trained model.
        name: what `load_model` will find it by.
        record: the content of ``run.json``; ``record["config"]`` says how to build the model.
        folder: where; ``None`` for `weights_dir`.

    Returns:
        The folder written.

    Raises:
        ValueError: if a weight does not fit into float16.
    """
    target = (folder or weights_dir()) / name
    target.mkdir(parents=True, exist_ok=True)
    arrays = {f"{index:03d}": np.asarray(value) for index, value in enumerate(model.get_weights())}
    with np.errstate(over="ignore"):  # the next lines look for it
        halves: dict[str, Any] = {key: value.astype(np.float16) for key, value in arrays.items()}
    if not all(np.isfinite(value).all() for value in halves.values()):
        raise ValueError("`model` has weights that are not finite in float16")
    aside = target / ".weights.tmp"
    with open(aside, "wb") as file:
        np.savez_compressed(file, **halves)
    aside.replace(target / "weights.npz")
    write_json(target / "run.json", record)
    return target


def _stored(name: Path) -> Path:
    for folder in (name, weights_dir() / name):
        if (folder / "weights.npz").is_file():
            return folder
    raise ValueError(
        "`name` should be a run folder, a .keras file or one of the stored weights: "
        f"{', '.join(stored_names()) or 'none found'}. Received: {str(name)!r}"
    )


def _set_weights(model: keras.Model, folder: Path) -> None:
    with np.load(folder / "weights.npz") as arrays:
        model.set_weights([arrays[key].astype(np.float32) for key in sorted(arrays)])
