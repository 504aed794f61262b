"""Trained models by name, run folder or file; the named weights come with the package, stored as float16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_fim import data, defenses, layers, losses, metrics, models  # noqa: F401 - registers what a file may hold
from keras_fim.records import read_json

__all__ = ["load_into", "load_model", "record_of", "stored_names"]

_STORED = Path(__file__).parent / "weights"


def stored_names() -> tuple[str, ...]:
    """The names of the weights that come with the package, for `load_model`.

    Example:
        >>> stored_names()
        ('cifar10-fisher', 'cifar10-plain', 'gtsrb-fisher', 'gtsrb-plain', 'mnist-fisher', 'mnist-plain')
    """
    return tuple(sorted(path.parent.name for path in _STORED.glob("*/weights.npz")))


def load_model(name: str | Path) -> keras.Model:
    """Load a trained model.

    Args:
        name: A name of `stored_names`, a folder of stored weights, a run folder, or a ``.keras`` file.

    Returns:
        The model. It is not compiled if it comes from stored weights.

    Raises:
        ValueError: If there is nothing of that name.
    """
    path = Path(name)
    if path.suffix == ".keras" and path.is_file():
        return keras.models.load_model(path)
    if (path / "model.keras").is_file():
        return keras.models.load_model(path / "model.keras")
    folder = _stored(path)
    config = read_json(folder / "run.json")["config"]
    facts = data.info(config["data"])
    model = models.MODELS[config["model"]](facts.image_shape, facts.num_classes, **config["model_options"])
    with np.load(folder / "weights.npz") as arrays:
        model.set_weights([arrays[key].astype(np.float32) for key in sorted(arrays)])
    return model


def load_into(model: keras.Model, source: str | Path) -> None:
    """Set a model's weights from a run folder, stored weights, or a ``.weights.h5`` or ``.keras`` file.

    Args:
        model: A built model with the same layers.
        source: As in `load_model`, or a file of weights.

    Raises:
        ValueError: If there is nothing of that name, or it does not fit the model.
    """
    path = Path(source)
    if path.name.endswith(".weights.h5") and path.is_file():
        model.load_weights(path)
    else:
        model.set_weights(load_model(path).get_weights())


def record_of(source: str | Path) -> dict[str, Any] | None:
    """The record of the run that the weights of a `load_into` source come from.

    Args:
        source: As in `load_into`.

    Returns:
        The content of ``run.json``; None for a bare file of weights, which has no record.

    Raises:
        ValueError: If there is nothing of that name.
    """
    path = Path(source)
    if path.name.endswith((".weights.h5", ".keras")) and path.is_file():
        return None
    record = (path if (path / "model.keras").is_file() else _stored(path)) / "run.json"
    return dict(read_json(record)) if record.is_file() else None


def _stored(name: Path) -> Path:
    for folder in (name, _STORED / name):
        if (folder / "weights.npz").is_file():
            return folder
    raise ValueError(
        "`name` should be a run folder, a .keras file, a folder of stored weights or one of the stored weights: "
        f"{', '.join(stored_names())}. Received: {str(name)!r}"
    )
