"""The budgets at which models are attacked, and how robust one is before and after it was trained."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_fim import data
from keras_fim.attacks import DEFAULT_EPSILONS, Strong
from keras_fim.evaluation import Evaluation, SideBySide, evaluate
from keras_fim.evaluation.report import Row
from keras_fim.pixels import PixelRange
from keras_fim.training import defending, inputs, trained
from keras_fim.training.config import TrainingConfig
from keras_fim.typing import Bounds

_SAMPLES, _QUICK_SAMPLES = 200, 50
_COLOR = {2.0: (0.25, 0.5, 1.0, 2.0), np.inf: (1 / 255, 2 / 255, 4 / 255, 8 / 255)}


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
    epsilons = _COLOR if color else {norm: DEFAULT_EPSILONS[norm] for norm in _COLOR}
    size = float(np.sqrt(np.prod(image_shape) / 3072)) if color else 1.0
    extent = float(np.max(bounds[1])) - float(np.min(bounds[0]))
    scales = {norm: extent * (size if norm == 2 else 1.0) for norm in epsilons}
    return {norm: tuple(scales[norm] * epsilon for epsilon in values) for norm, values in epsilons.items()}


def before_and_after(
    config: TrainingConfig, folder: Path, *, data_dir: str | None, quick: bool, progress: Callable[[str], None]
) -> dict[str, Evaluation]:
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
    options: dict[str, Any] = {"attacks": [Strong(norm=norm, quick=quick)], "epsilons": [epsilon], "bounds": pixels}
    options |= {"max_samples": None, "class_names": config.facts.class_names, "progress": progress}
    models: dict[str, str | Path] = {} if trained.builds(config.model) else {"before": config.model}
    kept = folder / "robustness"
    results = {}
    for name, source in {**models, "after": folder}.items():
        results[name] = evaluate(trained.load_model(source), images, name=name, folder=kept / name, **options)
        for suffix in ("json", "html"):
            results[name].save(kept / f"{name}.{suffix}")
    if len(results) > 1:
        SideBySide(tuple(results.values())).save(kept / "report.html")
    return results


def comparison_rows(results: dict[str, Evaluation]) -> list[Row]:
    """A row for each model: accuracy, and robust accuracy under the strongest attack, with intervals."""
    rows: list[Row] = []
    for name, result in results.items():
        strongest = [row for row in result.rows if row.strongest]
        robust = {f"robust accuracy at {row.norm} {row.epsilon:.3g}": row.robust for row in strongest}
        rows.append({"model": name, "accuracy": result.accuracy, **robust, "flags": "; ".join(result.flags)})
    return rows
