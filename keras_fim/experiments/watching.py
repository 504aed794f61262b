"""What a training run is watched with: the callbacks, and its row in TensorBoard's HParams table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf

from keras_fim import data
from keras_fim.callbacks import FisherSpectrum, RobustnessCurve
from keras_fim.callbacks.board import write_hparams
from keras_fim.experiments.config import TrainingConfig, recipe

__all__ = ["epochs_between", "fisher_spectrum", "robustness_curve", "write_row"]

_NUM_GRADIENTS = 1000  # in a measurement of the Fisher spectrum; an image takes one for each class
_IMAGES_BETWEEN = 20_000  # to train on from one measurement to the next: small data sets are not measured each epoch
_PGD = "cleverhans_projected_gradient_descent_linf"
_EPSILONS: dict[str, dict[str, tuple[float, ...]]] = {
    "grey": {"l2": (0.5, 1, 1.5, 2, 2.5, 3), "linf": (0.05, 0.1, 0.15, 0.2, 0.25, 0.3), _PGD: (0.1,)},
    "colour": {"l2": (0.1, 0.2, 0.4, 0.6, 0.8, 1), "linf": (0.002, 0.004, 0.008, 0.016, 0.024, 0.032), _PGD: (0.008,)},
}


def robustness_curve(config: TrainingConfig, dataset: tf.data.Dataset, **options: Any) -> RobustnessCurve:
    """The default attacks, at ε that suit the data set."""
    facts = data.info(config.data)
    kind = "colour" if facts.image_shape[-1] == 3 else "grey"
    return RobustnessCurve(dataset, epsilons=_EPSILONS[kind], class_names=facts.class_names, **options)


def fisher_spectrum(config: TrainingConfig, dataset: tf.data.Dataset, **options: Any) -> FisherSpectrum:
    """The spectrum of as many images as a few hundred gradients allow."""
    return FisherSpectrum(dataset, max_samples=_NUM_GRADIENTS // data.info(config.data).num_classes, **options)


def epochs_between(num_batches: int, batch_size: int) -> int:
    """Epochs from one measurement to the next."""
    return max(1, round(_IMAGES_BETWEEN / (num_batches * batch_size)))


def write_row(config: TrainingConfig, folder: Path, results: dict[str, Any]) -> None:
    """The run's row in TensorBoard's HParams table, in ``tensorboard/hparams``.

    Its columns are the data set, the defence, μ, the seed, what the recipe would have set otherwise; and accuracies,
    fooling ratios and median distances on test images.
    """
    figures = {key: value for key, value in results.items() if key.endswith("_accuracy")}
    robustness = results.get("robustness") or {}
    shown = {key: value for key, value in robustness.items() if key.startswith("fooling/") or key.endswith("/q50")}
    figures.update({f"test_{key}": value for key, value in shown.items() if value is not None})
    write_hparams(folder / "tensorboard" / "hparams", _options(config), figures, name=_row_name(folder))


def _options(config: TrainingConfig) -> dict[str, bool | int | float | str]:
    usual, options = recipe(config.data).as_dict(), config.as_dict()
    always = ("data", "model", "mu", "seed")
    chosen = {key: value for key, value in options.items() if key in always or value != usual.get(key)}
    plain = "label_smoothing" if config.label_smoothing else "none"
    chosen.setdefault("defense", "fisher_trace" if config.mu else plain)
    return {key: value if isinstance(value, (bool, int, float, str)) else str(value) for key, value in chosen.items()}


def _row_name(folder: Path) -> str:
    resolved = folder.resolve()
    return f"{resolved.parent.name}/{resolved.name}"
