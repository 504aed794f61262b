"""Measure how robust a model is: any Keras classifier.

Attack a model and print, with 95 % intervals, how often it is fooled at each budget, how far the
nearest adversarials are, and how large its Fisher information is. Without --attacks it runs the strong attack, whose
robust accuracy may be quoted, and a one-step attack beside it. A report to read (report.html), tables, a row for each
image (samples.csv) and every finished cell are written to one folder: the same command goes on where an interrupted one
stopped. Exit code 3 means that --fail-under was not reached.

attacks: ossa, tssa, fgsm, fgm, otcm, bim, pgd, mim, apgd_ce, apgd_dlr, apgd_t, square, strong, autoattack,
autoattack_rand, deepfool, fmn, fab, carlini_wagner, jsma, sigma_zero;
NAME_l1, NAME_l2 and NAME_linf choose the norm of those that have several; cleverhans_NAME is one of CleverHans;
minimal_NAME looks for the smallest budget of an attack with a budget; an unknown name lists them all

Examples:
  keras-fim evaluate --model path.keras --data mnist
  keras-fim evaluate --model mnist-fisher --data mnist --epsilons l2=0.5,1,2 linf=0.05,0.1 --quick
  keras-fim evaluate --model path.keras --data mnist --attacks ossa,fgsm,pgd,deepfool
  keras-fim evaluate --model results/runs/mine --data cifar10 --masking --twin cifar10-plain
  keras-fim evaluate --model results/runs/mine --data cifar10 --autoattack --epsilons l2=0.5
  keras-fim evaluate --model path.keras --data mnist --epsilons linf=0.1 --fail-under 0.6 --json
  keras-fim evaluate --model my.keras --data photos/ --epsilons linf=8/255 --only cat --target dog
  keras-fim evaluate --model my.keras --data photos/ --chunk 3/16
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_fim.cli.options import (
    DATASETS,
    MODELS,
    SMOKE_TEST,
    add_bounds,
    add_data_dir,
    add_image_size,
    add_max_samples,
    add_strict,
    chunk,
    number,
)

if TYPE_CHECKING:
    import tensorflow as tf

    from keras_fim.attacks import Attack
    from keras_fim.data import DatasetInfo
    from keras_fim.evaluation import Evaluation
    from keras_fim.logits import LogitsFunction
    from keras_fim.pixels import PixelRange


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("--model", required=True, help=f"A SavedModel, {MODELS}.")
    parser.add_argument("--data", required=True, help=f"Dataset whose test images are taken: {DATASETS}.")
    parser.add_argument("--attacks", help="Names of attacks, separated by commas (default: strong and one step).")
    parser.add_argument(
        "--autoattack",
        action="store_true",
        help="Run the published ensemble in the norms of --epsilons, and print a leaderboard's row and what to quote.",
    )
    parser.add_argument(
        "--epsilons",
        nargs="+",
        metavar="NORM=LIST",
        help="Budgets by norm or attack, such as l2=0.5,1,2 fgsm=0.1; or one list if all attacks have one norm "
        "(default: linf=0.03,0.1,0.2,0.3 of the range for gray images, linf=1/255,2/255,4/255,8/255 for color images).",
    )
    add_max_samples(parser, 1000, "to attack")
    _add_measurements(parser)
    part = "Measure the third of every 16 chunks of at most 256 images (default: gather what is there)."
    parser.add_argument("--chunk", type=chunk, default=(1, 1), metavar="3/16", help=part)
    ray = "Measure on Ray: the cluster of this machine (auto), one that is started (local), or the one at an address."
    parser.add_argument("--ray", metavar="ADDRESS", help=ray)
    parser.add_argument(
        "--out", type=Path, help="Folder for report, tables and cells (default: results/evaluations/MODEL-DATA)."
    )
    threshold = "Exit with code 3 if the robust accuracy is lower, from 0 to 1; for one norm and one budget."
    parser.add_argument("--fail-under", type=float, metavar="SHARE", help=threshold)
    parser.add_argument("--json", action="store_true", help="Print the result as JSON in place of the tables.")
    add_strict(parser)
    add_data_dir(parser)


def _add_measurements(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what is measured, and how the model takes the images."""
    parser.add_argument(
        "--quick", action="store_true", help="A preview, not to be quoted: a quarter of the strong attack's steps."
    )
    parser.add_argument("--target", metavar="CLASS", help="Count only images that are taken for this class afterwards.")
    parser.add_argument("--only", metavar="CLASS", help="Attack images of this class only.")
    parser.add_argument("--masking", action="store_true", help="Look for signs of masked gradients on 200 images.")
    twin = "An undefended model, given like --model, whose adversarial images strong and --masking also try."
    parser.add_argument("--twin", metavar="MODEL", help=twin)
    parser.add_argument("--returns", choices=("logits", "probabilities"), help="What the model returns, if unclear.")
    add_bounds(parser, "what a leading rescaling of the model says, or by its accuracy")
    add_image_size(parser)
    parser.add_argument(
        "--black-box", action="store_true", help="Attack only by a search without gradients, for models that have none."
    )
    parser.add_argument(
        "--certify",
        type=number,
        metavar="SIGMA",
        help="Certify the smoothed classifier in l2: the standard deviation of the noise, such as 0.25.",
    )
    parser.add_argument("--draws", type=int, default=10_000, metavar="N", help="Draws of --certify (default: 10000).")
    parser.add_argument("--no-spectrum", action="store_true", help="Leave out the Fisher information.")


def run(arguments: argparse.Namespace) -> None:
    """Measure, print and write."""
    from keras_fim.data import short_name
    from keras_fim.evaluation import evaluate
    from keras_fim.evaluation.backends import connect
    from keras_fim.training.inputs import evaluated_images

    model, name = _model(arguments.model, arguments, arguments.returns)
    twin = _model(arguments.twin, arguments)[0] if arguments.twin else None
    attacks = _attacks(arguments, twin)
    _check_threshold(arguments, attacks)
    where: dict[str, Any] = {"data_dir": arguments.data_dir, "size": arguments.image_size, "bounds": arguments.bounds}
    named = arguments.model, model, arguments.data, arguments.max_samples
    images = evaluated_images(*named, only=arguments.only, **where)
    dataset, bounds, facts, part = images[:4]
    if part:
        print(part, file=sys.stderr)
    if arguments.target:
        attacks = _aimed(attacks, facts.label(arguments.target))
    folder = arguments.out or Path("results/evaluations") / f"{name}-{short_name(arguments.data)}"
    if arguments.ray:
        connect(arguments.ray)
    options: dict[str, Any] = {"max_samples": arguments.max_samples, "black_box": arguments.black_box}
    options |= {"certify_sigma": arguments.certify, "num_draws": arguments.draws, "chunk": arguments.chunk}
    options |= {"spectrum": not arguments.no_spectrum, "backend": "ray" if arguments.ray else "local"}
    evaluation = evaluate(
        model,
        dataset,
        attacks=attacks,
        epsilons=_epsilons(arguments.epsilons) or _usual_epsilons(attacks, facts, bounds),
        bounds=bounds,
        name=name,
        class_names=facts.class_names,
        file_names=images.file_names,
        folder=folder / "cells",
        **options,
    )
    if arguments.chunk != (1, 1):
        print(f"{evaluation.accuracy.total} images in {folder / 'cells'}; gather them without --chunk")
        return
    masking = _masking(model, dataset, attacks, twin, bounds, folder) if arguments.masking else []
    _finish(evaluation, masking, folder, arguments)


def _finish(evaluation: Evaluation, masking: list[str], folder: Path, arguments: argparse.Namespace) -> None:
    """Write the result, print it, and judge it if there is a threshold."""
    from keras_fim.evaluation.report import encode

    report = folder / "report.html"
    for file in ("evaluation.json", "evaluation.csv", "evaluation.md", "report.html", "samples.csv"):
        evaluation.save(folder / file)
    if arguments.json:
        summary = {key: getattr(evaluation, key) for key in ("sentences", "flags", "pixels")}
        print(json.dumps(encode({**summary, "report": str(report), "records": evaluation.records()}), indent=2))
    else:
        print(evaluation, *masking, "\n".join([*evaluation.sentences, f"report: {report}"]), sep="\n\n")
    if arguments.quick:
        print(SMOKE_TEST, file=sys.stderr)
    if arguments.fail_under is not None and evaluation.headline.robust.value < arguments.fail_under:
        raise SystemExit(3)


def _check_threshold(arguments: argparse.Namespace, attacks: list[Attack]) -> None:
    """Refuse a threshold that is no share, or that several figures could be held against."""
    from keras_fim.attacks.lp import norm_name
    from keras_fim.evaluation.plans import planned

    if arguments.fail_under is None:
        return
    if not 0 <= arguments.fail_under <= 1:
        raise ValueError(f"`--fail-under` should be from 0 to 1. Received: {arguments.fail_under:g}")
    plans = planned(attacks, _epsilons(arguments.epsilons), None, black_box=arguments.black_box)
    budgets = {f"{norm_name(plan.attack.norm)} {epsilon:g}" for plan in plans for epsilon in plan.epsilons}
    if len(budgets) > 1:
        raise ValueError(
            "`--fail-under` should have one norm and one budget, such as --epsilons linf=0.03. "
            f"Received: {', '.join(sorted(budgets))}"
        )


def _masking(
    model: LogitsFunction,
    dataset: tf.data.Dataset,
    attacks: list[Attack],
    twin: LogitsFunction | None,
    bounds: PixelRange,
    folder: Path,
) -> list[str]:
    from keras_fim.attacks.lp import norm_name
    from keras_fim.evaluation import masking_report

    norms = [norm for norm in (2.0, math.inf) if norm in {attack.norm for attack in attacks}] or [2.0, math.inf]
    reports = {norm_name(norm): masking_report(model, dataset, norm=norm, twin=twin, bounds=bounds) for norm in norms}
    for name, report in reports.items():
        for suffix in (".json", ".csv", ".md"):
            report.save(folder / f"masking_{name}{suffix}")
    return [str(report) for report in reports.values()]


def _model(source: str, arguments: argparse.Namespace, returns: str | None = None) -> tuple[LogitsFunction, str]:
    """A model from a file, a folder or a name, and what to call it."""
    from keras_fim.distribution import local_strategy
    from keras_fim.logits import logits_function
    from keras_fim.strangers import check_operations
    from keras_fim.training.inputs import model_for

    path = Path(source)
    model: Any = path
    if arguments.strict and (path / "saved_model.pb").is_file():
        check_operations(path, strict=True)
    if not (path / "saved_model.pb").is_file():
        with local_strategy().scope():
            model = model_for(source, arguments.data, arguments.data_dir, size=arguments.image_size)
    path = path.resolve()
    name = path.parent.name if path.name == "model.keras" else path.name.removesuffix(".keras")
    return logits_function(model, from_logits=None if returns is None else returns == "logits"), name


def _usual_epsilons(
    attacks: list[Attack], facts: DatasetInfo, bounds: PixelRange
) -> dict[str, tuple[float, ...]] | None:
    """Budgets that suit color images, for the norms of the attacks; None for the library's own."""
    from keras_fim.attacks.lp import norm_name
    from keras_fim.training.budgets import default_epsilons

    if len(facts.image_shape) != 3 or facts.image_shape[-1] != 3 or isinstance(bounds.low, tuple):
        return None
    budgets = default_epsilons(facts.image_shape, bounds.bounds)
    return {norm_name(norm): values for norm, values in budgets.items() if norm in {a.norm for a in attacks}} or None


def _attacks(arguments: argparse.Namespace, twin: LogitsFunction | None) -> list[Attack]:
    """The attacks that are named, or the default ones; strong ones as the options say."""
    from keras_fim.attacks import Strong, attack_by_name
    from keras_fim.evaluation import default_attacks

    options: dict[str, Any] = {"twin": twin, "quick": arguments.quick}
    if arguments.autoattack and (arguments.attacks or arguments.quick or arguments.black_box or arguments.target):
        others = "--attacks, --quick, --black-box and --target"
        raise ValueError(f"`--autoattack` should stand without {others}. Received: both")
    if arguments.attacks is None and arguments.target:
        return _default_aimed(arguments)
    if arguments.attacks is None:
        kind = {"black_box": arguments.black_box, "autoattack": arguments.autoattack}
        return default_attacks(_epsilons(arguments.epsilons), **kind, **options)
    named = [attack_by_name(name.strip()) for name in arguments.attacks.split(",") if name.strip()]
    return [dataclasses.replace(attack, **options) if isinstance(attack, Strong) else attack for attack in named]


def _default_aimed(arguments: argparse.Namespace) -> list[Attack]:
    """A step towards the target and the strongest climb towards it, in the norms of the budgets."""
    from keras_fim.attacks import APGD, FGM, FGSM
    from keras_fim.evaluation import default_attacks

    norms = dict.fromkeys(attack.norm for attack in default_attacks(_epsilons(arguments.epsilons)))
    return [attack for norm in norms for attack in (FGM() if norm == 2 else FGSM(), APGD(norm=norm))]


def _aimed(attacks: list[Attack], target: int) -> list[Attack]:
    """The attacks with a target."""
    from keras_fim.attacks.aimed import AimedAttack

    if wrong := [attack.name for attack in attacks if not isinstance(attack, AimedAttack)]:
        raise ValueError(f"`--target` should go with attacks that take one, such as fgsm,apgd_ce. Received: {wrong}")
    return [dataclasses.replace(attack, target=target) for attack in attacks if isinstance(attack, AimedAttack)]


def _epsilons(texts: list[str] | None) -> dict[str, list[float]] | list[float] | None:
    """``["l2=0.5,1", "fgsm=0.1"]`` as a mapping, ``["0.1,0.2"]`` as a list."""
    if texts is None:
        return None
    budgets: dict[str, list[float]] = {}
    for text in texts:
        key, _, values = text.rpartition("=")
        try:
            budgets.setdefault(key, []).extend(number(value) for value in values.split(","))
        except argparse.ArgumentTypeError:
            expected = "NORM=NUMBERS, such as l2=0.5,1,2 or linf=8/255"
            raise ValueError(f"`--epsilons` should be {expected}. Received: {text!r}") from None
    if "" not in budgets:
        return budgets
    if len(budgets) > 1:
        raise ValueError(f"`--epsilons` should have a norm for each list, or be one list. Received: {' '.join(texts)}")
    return budgets[""]
