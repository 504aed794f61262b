"""A trained model as a SavedModel, with what its run and its data say of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_fim import attacks, data
from keras_fim.detection import FisherDetector
from keras_fim.evaluation import clean_performance, robustness_curve, samples
from keras_fim.experiments.weights import load_model, record_of
from keras_fim.export import saved_model

__all__ = ["export_model"]

_DIGITS = (0.1, 0.2, 0.3)
_COLOURS = (2 / 255, 4 / 255, 8 / 255)


def export_model(
    source: str | Path,
    folder: str | Path,
    *,
    version: int | None = None,
    detector: FisherDetector | None = None,
    direction: bool = False,
    num_images: int = 200,
    data_dir: str | None = None,
) -> Path:
    """Export a run, stored weights or a ``.keras`` file, with `keras_fim.export.saved_model`.

    Where the record of its run is at hand, the labels and the model card come from it, and the first test images become
    the reference inputs; on ``num_images`` of them a small robustness table is measured for the card: FGSM and PGD in
    l∞, OSSA in l2.

    Args:
        source: as of `keras_fim.experiments.load_model`.
        folder: the model's folder.
        version: of the model; ``None`` for the next.
        detector: what ``detect`` serves.
        direction: whether ``fisher`` returns the direction, too.
        num_images: test images for the table; 0 for none, and random reference inputs.
        data_dir: where TensorFlow Datasets keeps its data.

    Returns:
        The folder written.

    Raises:
        ValueError: if there is nothing of that name, or the data are not to be had.
    """
    model, record = load_model(source), record_of(source)
    options: dict[str, Any] = {"version": version, "detector": detector, "direction": direction}
    if record is None:
        return saved_model(model, folder, **options)
    config, results = record["config"], record.get("results", {})
    report = {key: config[key] for key in ("data", "mu", "label_smoothing")}
    report["accuracy"] = results.get("stored", results).get("test_accuracy")
    if num_images:
        images, labels = samples(data.load(config["data"], test_limit=num_images, data_dir=data_dir)[1])
        report["robustness"] = _robustness(model, images, labels)
        options["images"] = images
    return saved_model(model, folder, labels=data.info(config["data"]).class_names, report=report, **options)


def _robustness(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    epsilons = _DIGITS if images.shape[-1] == 1 else _COLOURS
    plans = {attacks.FGSM(): epsilons, attacks.PGD(steps=20): epsilons, attacks.OSSA(): (0.5, 1.0, 2.0)}
    curves = [robustness_curve(model, images, labels, *plan) for plan in plans.items()]
    clean = clean_performance(model, images, labels)
    return {
        "num_images": clean.num_samples,
        "accuracy": clean.accuracy,
        "mean_confidence": clean.mean_confidence,
        "curves": [curve.as_dict() for curve in curves],
    }
