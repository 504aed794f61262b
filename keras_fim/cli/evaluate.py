"""Measure how robust a model is: any Keras classifier."""

from __future__ import annotations

import argparse
import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_fim import data, plots
from keras_fim.attacks import Attack, Strong, attack_by_name, attack_names
from keras_fim.attacks.lp import norm_name
from keras_fim.evaluation import default_attacks, evaluate, masking_report
from keras_fim.experiments import load_model
from keras_fim.logits import LogitsFunction, logits_function

__all__ = ["add_arguments", "run"]

DESCRIPTION = f"""Attack a model and print, with 95 % intervals, how often it is fooled at each budget, how far the
nearest adversarials are, and how large its Fisher information is. Without --attacks it runs the strong attack, whose
robust accuracy may be quoted, and beside it one of a single step. Tables, a figure and every finished cell are written
to one folder: the same command goes on where an interrupted one stopped.

attacks: {", ".join(attack_names())};
minimal_NAME looks for the smallest budget of an attack that has one

examples:
  keras-fim evaluate --model path.keras --data mnist
  keras-fim evaluate --model mnist-fisher --data mnist --epsilons l2=0.5,1,2 linf=0.05,0.1 --quick
  keras-fim evaluate --model path.keras --data mnist --attacks ossa,fgsm,pgd,deepfool
  keras-fim evaluate --model results/runs/mine --data cifar10 --masking --twin cifar10-plain
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "--model", required=True, help="a .keras file, SavedModel, run folder, or name of stored weights"
    )
    parser.add_argument("--data", required=True, choices=data.names(), help="data set, whose test split is taken")
    parser.add_argument("--attacks", help="names of attacks, separated by commas (default: strong, and one step)")
    parser.add_argument(
        "--epsilons",
        nargs="+",
        metavar="NORM=LIST",
        help="budgets by norm or attack, such as l2=0.5,1,2 fgsm=0.1; or one list if all attacks have one norm",
    )
    parser.add_argument("--max-samples", type=int, default=1000, help="number of test images (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a preview, not to be quoted: a quarter of strong's steps")
    parser.add_argument("--masking", action="store_true", help="look for signs of masked gradients, on 200 images")
    parser.add_argument("--twin", metavar="MODEL", help="an undefended model for strong and --masking, as --model")
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
    shape = data.info(arguments.data).image_shape
    fitted = _fitted(shape, model)
    dataset = data.load(arguments.data, 256, data_dir=arguments.data_dir)[1].map(
        lambda images, labels: (tf.reshape(low + (high - low) * images, (-1, *fitted)), labels)
    )
    twin = logits_function(_model(arguments.twin)[0]) if arguments.twin else None
    attacks = _attacks(arguments, twin)
    folder = arguments.out or Path("results/evaluations") / f"{name}-{arguments.data}"
    evaluation = evaluate(
        model,
        dataset,
        attacks=attacks,
        epsilons=_epsilons(arguments.epsilons),
        max_samples=arguments.max_samples,
        bounds=(low, high),
        spectrum=not arguments.no_spectrum,
        name=name,
        folder=folder / "cells",
        progress=lambda line: print(line, flush=True),
    )
    print(f"\n{evaluation}\n")
    for suffix in (".json", ".csv", ".md"):
        evaluation.save(folder / f"evaluation{suffix}")
    plots.evaluation_figure(evaluation).savefig(folder / "fooling.png", dpi=120)
    if arguments.masking:
        _masking(model, dataset, attacks, twin, (low, high), folder)
    print(f"written to {folder}: evaluation.json, .csv, .md, fooling.png{', masking.*' if arguments.masking else ''}")


def _masking(
    model: LogitsFunction,
    dataset: tf.data.Dataset,
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


def _fitted(shape: tuple[int, ...], model: LogitsFunction) -> tuple[int, ...]:
    """The shape that the model takes images in, where that has as many values."""
    wanted = getattr(model.model, "input_shape", None)
    if not isinstance(wanted, tuple) or None in wanted[1:]:
        return shape
    if math.prod(wanted[1:]) != math.prod(shape):
        raise ValueError(f"`--model` should take images {shape}. Received: a model for {wanted[1:]}")
    return wanted[1:]


def _attacks(arguments: argparse.Namespace, twin: LogitsFunction | None) -> list[Attack]:
    """Those named, or the default ones; the strong ones as the options say."""
    if arguments.attacks is None:
        return default_attacks(_epsilons(arguments.epsilons), twin=twin, quick=arguments.quick)
    named = [attack_by_name(name.strip()) for name in arguments.attacks.split(",") if name.strip()]
    options = {"twin": twin, "quick": arguments.quick}
    return [dataclasses.replace(attack, **options) if isinstance(attack, Strong) else attack for attack in named]


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
