"""From a run to small stored weights, with the accuracy that those have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from keras_fim import data
from keras_fim.evaluation import clean_performance, samples
from keras_fim.experiments.weights import load_model, store
from keras_fim.records import read_json, write_json

__all__ = ["store_run"]


def store_run(run: str | Path, name: str, *, data_dir: str | None = None) -> dict[str, Any]:
    """Store a finished run's weights as float16, load them back and measure them on the whole test split.

    Args:
        run: the run's folder.
        name: what `keras_fim.experiments.load_model` will find the weights by.
        data_dir: where TensorFlow Datasets keeps its data.

    Returns:
        What ``run.json`` beside the weights then holds: the run's record with ``results["stored"]``: accuracy, mean
        confidence and the size of the file.

    Raises:
        ValueError: if the run has not finished.
    """
    run = Path(run)
    record = read_json(run / "run.json") if (run / "run.json").is_file() else {}
    if "results" not in record:
        raise ValueError(f"`run` should be the folder of a finished run. Received: {str(run)!r}; resume it first")
    folder = store(load_model(run), name, record)
    images, labels = samples(data.load(record["config"]["data"], 500, data_dir=data_dir)[1])
    clean = clean_performance(load_model(folder), images, labels)
    record["results"]["stored"] = {
        "test_accuracy": clean.accuracy,
        "mean_confidence": clean.mean_confidence,
        "num_test_images": clean.num_samples,
        "bytes": (folder / "weights.npz").stat().st_size,
    }
    write_json(folder / "run.json", record)
    return record
