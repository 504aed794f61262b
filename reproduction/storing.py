"""Small stored weights: float16, with the record of their run and the accuracy that they have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_fim import data
from keras_fim.evaluation import clean_performance, samples
from keras_fim.records import read_json, write_json
from keras_fim.training import load_model, stored_names

__all__ = ["MODELS", "source", "store", "store_run"]

MODELS = Path("results/models")
"""The folder of stored weights, besides those that come with the package."""


def source(name: str, models: Path = MODELS) -> str | Path | None:
    """What `keras_fim.training.load_model` loads stored weights by; None if there are none of that name."""
    if (models / name / "weights.npz").is_file():
        return models / name
    return name if name in stored_names() else None


def store(model: keras.Model, name: str, record: dict[str, Any], models: Path = MODELS) -> Path:
    """Write a model's weights as float16 with the record of its run.

    Args:
        model: The trained model.
        name: The name of the weights.
        record: The content of ``run.json``; ``record["config"]`` says how to build the model.
        models: The folder of stored weights.

    Returns:
        The folder written, which `keras_fim.training.load_model` takes.

    Raises:
        ValueError: If a weight does not fit into float16.
    """
    folder = models / name
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {f"{index:03d}": np.asarray(value) for index, value in enumerate(model.get_weights())}
    with np.errstate(over="ignore"):  # the next lines look for it
        halves: dict[str, Any] = {key: value.astype(np.float16) for key, value in arrays.items()}
    if not all(np.isfinite(value).all() for value in halves.values()):
        raise ValueError("`model` has weights that are not finite in float16")
    aside = folder / ".weights.tmp"
    with open(aside, "wb") as file:
        np.savez_compressed(file, **halves)
    aside.replace(folder / "weights.npz")
    write_json(folder / "run.json", record)
    return folder


def store_run(run: str | Path, name: str, *, models: Path = MODELS, data_dir: str | None = None) -> dict[str, Any]:
    """Store a finished run's weights as float16, load them back and measure them on the whole test split.

    Args:
        run: The run's folder.
        name: The name of the weights.
        models: The folder of stored weights.
        data_dir: The folder in which TensorFlow Datasets keeps its data.

    Returns:
        The content of ``run.json`` beside the weights: the run's record with ``results["stored"]``: accuracy, mean
        confidence and the size of the file.

    Raises:
        ValueError: If the run has not finished.
    """
    run = Path(run)
    record = read_json(run / "run.json") if (run / "run.json").is_file() else {}
    if "results" not in record:
        raise ValueError(f"`run` should be the folder of a finished run. Received: {str(run)!r}; resume it first")
    folder = store(load_model(run), name, record, models)
    images, labels = samples(data.load(record["config"]["data"], 500, data_dir=data_dir)[1])
    clean = clean_performance(load_model(folder), images, labels)
    record["results"]["stored"] = {
        "test_accuracy": clean.accuracy,
        "mean_confidence": clean.mean_confidence,
        "num_test_images": clean.num_samples,
        "bytes": (folder / "weights.npz").stat().st_size,
    }
    write_json(folder / "run.json", record)
    return dict(record)
