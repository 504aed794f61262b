"""Measure how robust a model is: any Keras classifier."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np

from keras_fim import data, plots
from keras_fim.attacks import Attack, attack_by_name, attack_names
from keras_fim.attacks.lp import norm_name
from keras_fim.evaluation import DEFAULT_ATTACKS, evaluate, masking_report, samples
from keras_fim.experiments import load_model
from keras_fim.logits import LogitsFunction, logits_function

__all__ = ["add_arguments", "run"]

DESCRIPTION = f"""Attack a model and print, with 95 % intervals, how often it is fooled at each budget, how far the
nearest adversarials are, and how large its Fisher information is. Tables, a figure and every finished cell are written
to one folder: the same command goes on where an interrupted one stopped.

attacks: {", ".join(attack_names())};
minimal_NAME looks for the smallest budget of an attack that has one

examples:
  keras-fim evaluate --model path.keras --data mnist --attacks ossa,fgsm,pgd,deepfool
  keras-fim evaluate --model mnist-fisher --data mnist --epsilons l2=0.5,1,2 linf=0.05,0.1
  keras-fim evaluate --model results/runs/mine --data cifar10 --strong --masking --twin cifar10-plain
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "--model", required=True, help="a .keras file, SavedModel, run folder, or name of stored weights"
    )
    parser.add_argument("--data", required=True, choices=data.names(), help="data set, whose test split is taken")
    parser.add_argument("--attacks", default=",".join(DEFAULT_ATTACKS), help="names, with commas (%(default)s)")
    parser.add_argument(
        "--epsilons",
        nargs="+",
        metavar="NORM=LIST",
        help="budgets by norm or attack, such as l2=0.5,1,2 fgsm=0.1; or one list if all attacks have one norm",
    )
    parser.add_argument("--images", type=int, default=1000, help="test images, stratified (%(default)s)")
    parser.add_argument(
        "--strong",
        nargs="?",
        const="full",
        choices=("full", "quick"),
        help="add the attack whose robust accuracy may be quoted, in l2 and l∞ as far as other attacks have them",
    )
    parser.add_argument("--masking", action="store_true", help="look for signs of masked gradients, on 200 images")
    parser.add_argument("--twin", metavar="MODEL", help="an undefended model for --strong and --masking, as --model")
    parser.add_argument("--returns", choices=("logits", "probabilities"), help="what the model returns, if unclear")
    parser.add_argument(
        "--bounds", nargs=2, type=float, default=(0.0, 1.0), metavar=("LOW", "HIGH"), help="pixels it takes (0 1)"
    )
    parser.add_argument("--no-spectrum", action="store_true", help="leave out the Fisher information")
    parser.add_argument("--data-dir", help="where TensorFlow Datasets keeps its data ($TFDS_DATA_DIR or its default)")
    parser.add_argument("--out", type=Path, help="folder for tables, figure and cells (results/evaluations/MODEL-DATA)")


def run(arguments: argparse.Namespace) -> None:
    """Measure, print and write."""
    low, high = arguments.bounds
    model, name = _model(arguments.model, arguments.returns)
    images, labels = samples(
        data.load(arguments.data, 500, data_dir=arguments.data_dir, test_limit=arguments.images)[1]
    )
    images = _fitted(low + (high - low) * images, model)
    twin = logits_function(_model(arguments.twin)[0], images) if arguments.twin else None
    attacks = [
        attack_by_name(each.strip(), bounds=(low, high)) for each in arguments.attacks.split(",") if each.strip()
    ]
    attacks += _strong(attacks, arguments.strong, twin, (low, high))
    folder = arguments.out or Path("results/evaluations") / f"{name}-{arguments.data}"
    evaluation = evaluate(
        model,
        (images, labels),
        attacks=attacks,
        epsilons=_epsilons(arguments.epsilons),
        spectrum=not arguments.no_spectrum,
        name=name,
        folder=folder / "cells",
        on_cell=lambda line: print(line, flush=True),
    )
    print(f"\n{evaluation}\n")
    for suffix in (".json", ".csv", ".md"):
        evaluation.save(folder / f"evaluation{suffix}")
    plots.evaluation_figure(evaluation).savefig(folder / "fooling.png", dpi=120)
    if arguments.masking:
        _masking(model, (images, labels), attacks, twin, (low, high), folder)
    print(f"written to {folder}: evaluation.json, .csv, .md, fooling.png{', masking.*' if arguments.masking else ''}")


def _masking(
    model: LogitsFunction,
    dataset: tuple[np.ndarray, np.ndarray],
    attacks: list[Attack],
    twin: LogitsFunction | None,
    bounds: tuple[float, float],
    folder: Path,
) -> None:
    norms = [norm for norm in (2.0, np.inf) if norm in {attack.norm for attack in attacks}] or [2.0, np.inf]
    for norm in norms:
        report = masking_report(model, dataset, norm=norm, twin=twin, bounds=bounds)
        print(f"{report}\n")
        for suffix in (".json", ".csv", ".md"):
            report.save(folder / f"masking_{norm_name(norm)}{suffix}")


def _model(source: str, returns: str | None = None) -> tuple[LogitsFunction, str]:
    """A model from a file, a folder or a name, and what to call it."""
    path = Path(source)
    model: Any = path if (path / "saved_model.pb").is_file() else load_model(source)
    path = path.resolve()
    name = path.parent.name if path.name == "model.keras" else path.name.removesuffix(".keras")
    return logits_function(model, from_logits=None if returns is None else returns == "logits"), name


def _fitted(images: np.ndarray, model: LogitsFunction) -> np.ndarray:
    """Images in the shape that the model takes, where that has as many values."""
    shape = getattr(model.model, "input_shape", None)
    if not isinstance(shape, tuple) or None in shape[1:] or shape[1:] == images.shape[1:]:
        return images
    if math.prod(shape[1:]) != math.prod(images.shape[1:]):
        raise ValueError(f"`--model` should take images {images.shape[1:]}. Received: a model for {shape[1:]}")
    return images.reshape(len(images), *shape[1:])


def _strong(
    attacks: list[Attack], extent: str | None, twin: LogitsFunction | None, bounds: tuple[float, float]
) -> list[Attack]:
    if extent is None:
        return []
    norms = [norm for norm in ("l2", "linf") if norm in {norm_name(attack.norm) for attack in attacks}]
    options = {"bounds": bounds, "twin": twin, "quick": extent == "quick"}
    return [attack_by_name(f"strong_{norm}", **options) for norm in norms or ["linf"]]


def _epsilons(texts: list[str] | None) -> dict[str, list[float]] | list[float] | None:
    """``["l2=0.5,1", "fgsm=0.1"]`` as a mapping, ``["0.1,0.2"]`` as a list."""
    if texts is None:
        return None
    found: dict[str, list[float]] = {}
    for text in texts:
        key, _, values = text.rpartition("=")
        try:
            found.setdefault(key, []).extend(float(value) for value in values.split(","))
        except ValueError:
            expected = "NORM=NUMBERS, such as l2=0.5,1,2"
            raise ValueError(f"`--epsilons` should be {expected}. Received: {text!r}") from None
    if "" not in found:
        return found
    if len(found) > 1:
        raise ValueError(f"`--epsilons` should have a norm for each list, or be one list. Received: {' '.join(texts)}")
    return found[""]
