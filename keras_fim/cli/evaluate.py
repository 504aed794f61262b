"""The command ``evaluate``."""

import argparse
import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any

from keras_fim import attacks as library
from keras_fim import evaluation as measuring
from keras_fim.arguments import require
from keras_fim.attacks import base, lp
from keras_fim.cli.options import SMOKE_TEST, data_options, given, number
from keras_fim.data import short_name
from keras_fim.distribution import local_strategy
from keras_fim.evaluation import cells, plans, report
from keras_fim.logits import LogitsFunction, logits_function
from keras_fim.records import read_json
from keras_fim.strangers import check_operations
from keras_fim.training import inputs, outcomes, trained

_PAGE = "report.html"
_Budgets = dict[str, list[float]] | list[float] | None


def evaluate(arguments: argparse.Namespace) -> None:
    """Measure the models, print and write; several are put side by side as well."""
    names = [trained.name_of(source) for source in arguments.model]
    require(len(set(names)) == len(names), f"`--model` should be of different names. Received: {', '.join(names)}")
    root, data = Path("results/evaluations"), short_name(arguments.data)
    folder = arguments.out or root / "-".join([*names, data])
    folders = [folder] if len(names) == 1 else [(arguments.out or root) / f"{name}-{data}" for name in names]
    if arguments.ray:
        cells.connect(arguments.ray)
    measured = [_evaluate(source, own, arguments) for source, own in zip(arguments.model, folders, strict=True)]
    results = [result for result in measured if result is not None]  # a chunk has none
    if arguments.json and results:
        summaries = [_summary(result, own / _PAGE) for result, own in zip(results, folders, strict=True)]
        print(json.dumps(summaries if len(summaries) > 1 else summaries[0], indent=2))
    if len(results) > 1:
        compared = measuring.SideBySide(tuple(results))
        end = "\n".join([*compared.flags, *compared.sentences, f"report: {compared.save(folder / _PAGE)}"])
        print(f"\n{compared}", end, sep="\n\n", file=sys.stderr if arguments.json else sys.stdout)
    if arguments.quick:
        print(SMOKE_TEST, file=sys.stderr)
    if arguments.fail_under is not None and any(one.headline.robust.value < arguments.fail_under for one in results):
        raise SystemExit(3)


def _evaluate(source: str, folder: Path, arguments: argparse.Namespace) -> measuring.Evaluation | None:
    """Measure a model, write what came out and print it; None if this was a chunk of several."""
    data = data_options(arguments, arguments.data)
    model = _model(source, data, strict=arguments.strict, returns=arguments.returns)
    twin = _model(arguments.twin, data, strict=arguments.strict) if arguments.twin else None
    budgets = _epsilons(arguments.epsilons)
    attacks = _attacks(arguments, budgets, twin)
    _check_budgets(arguments, attacks, budgets)
    images = inputs.evaluated_images(source, model, data, arguments.max_samples, only=arguments.only)
    if images.part:
        print(images.part, file=sys.stderr)
    if arguments.target:
        attacks = _aimed(attacks, images.facts.label(arguments.target))
    _check_folder(folder, trained.name_of(source))
    result = measuring.evaluate(
        model,
        images.dataset,
        attacks=attacks,
        epsilons=_with_usual(budgets, attacks, images),
        bounds=images.pixels,
        name=trained.name_of(source),
        class_names=images.facts.class_names,
        file_names=images.file_names,
        folder=folder / "cells",
        chunk=arguments.chunk or (1, 1),
        spectrum=not arguments.no_spectrum,
        backend="ray" if arguments.ray else "local",
        **given(arguments, "max_samples", "black_box", "certify_sigma", "num_draws"),
    )
    if (arguments.chunk or (1, 1)) != (1, 1):
        print(f"{result.accuracy.total} images in {folder / 'cells'}; gather them without --chunk")
        return None
    result = dataclasses.replace(result, flags=(*images.flags, *result.flags))
    masking = _masking(model, twin, images, {attack.norm for attack in attacks}, folder) if arguments.masking else []
    for file in ("evaluation.json", "evaluation.csv", "evaluation.md", _PAGE, "samples.csv"):
        result.save(folder / file)
    if not arguments.json:
        print(result, *masking, "\n".join([*result.sentences, f"report: {folder / _PAGE}"]), sep="\n\n")
    return result


def _summary(result: measuring.Evaluation, path: Path) -> dict[str, Any]:
    """What ``--json`` prints of a result."""
    parts = {key: getattr(result, key) for key in ("sentences", "flags", "pixels")}
    return dict(report.encode({**parts, "report": str(path), "records": result.records()}))


def _check_budgets(arguments: argparse.Namespace, attacks: list[library.Attack], budgets: _Budgets) -> None:
    """Refuse budgets in a norm that no attack has, and a threshold that several figures could be held against."""
    norms = {lp.norm_name(attack.norm) for attack in attacks}
    unused = [key for key in budgets or () if key in lp.NORMS and key not in norms]
    expected = f"norms of the attacks, which are {', '.join(attack.name for attack in attacks)}"
    received = f"{unused}; a name such as pgd_l2 chooses the norm of an attack"
    require(not unused, f"`--epsilons` should be for {expected}. Received: {received}")
    if arguments.fail_under is None:
        return
    require(0 <= arguments.fail_under <= 1, f"`--fail-under` should be from 0 to 1. Received: {arguments.fail_under:g}")
    todo = plans.planned(attacks, budgets, None, black_box=arguments.black_box)
    distinct = {f"{lp.norm_name(plan.attack.norm)} {epsilon:g}" for plan in todo for epsilon in plan.epsilons}
    expected = "one norm and one budget, such as --epsilons linf=0.03"
    require(len(distinct) == 1, f"`--fail-under` should have {expected}. Received: {', '.join(sorted(distinct))}")


def _check_folder(folder: Path, name: str) -> None:
    """Refuse to write over the report of another model."""
    path = folder / "evaluation.json"
    other = read_json(path).get("model", name) if path.is_file() else name
    require(other == name, f"`--out` should be a folder of its own for {name}. Received: {folder}, a report of {other}")


def _masking(
    model: LogitsFunction, twin: LogitsFunction | None, images: inputs.EvaluatedImages, norms: set[float], folder: Path
) -> list[str]:
    """Reports of masked gradients in the norms of the attacks, written and as texts."""
    reports = []
    for norm in [norm for norm in (2.0, math.inf) if norm in norms] or [2.0, math.inf]:
        reports.append(measuring.masking_report(model, images.dataset, norm=norm, twin=twin, bounds=images.pixels))
        for suffix in (".json", ".csv", ".md"):
            reports[-1].save(folder / f"masking_{lp.norm_name(norm)}{suffix}")
    return [*map(str, reports)]


def _model(source: str, data: inputs.DataOptions, *, strict: bool, returns: str | None = None) -> LogitsFunction:
    """A model from a file, a folder or a name."""
    model: Any = Path(source)
    if not (model / "saved_model.pb").is_file():
        with local_strategy().scope():
            model = inputs.model_for(source, data)
    elif strict:
        check_operations(model, strict=True)
    return logits_function(model, from_logits=None if returns is None else returns == "logits")


def _with_usual(budgets: _Budgets, attacks: list[library.Attack], images: inputs.EvaluatedImages) -> _Budgets:
    """Budgets with those that suit color images for the other norms of the attacks; None for the library's own."""
    shape, pixels = images.facts.image_shape, images.pixels
    if isinstance(budgets, list) or len(shape) != 3 or shape[-1] != 3 or isinstance(pixels.low, tuple):
        return budgets
    usual = outcomes.default_epsilons(shape, pixels.bounds)
    suited = {lp.norm_name(norm): [*values] for norm, values in usual.items() if norm in {a.norm for a in attacks}}
    return {**suited, **(budgets or {})} or None


def _attacks(arguments: argparse.Namespace, budgets: _Budgets, twin: LogitsFunction | None) -> list[library.Attack]:
    """The attacks that are named, or the default ones; strong ones as the options say."""
    options: dict[str, Any] = {"twin": twin, "quick": arguments.quick}
    others = arguments.attacks or arguments.quick or arguments.black_box or arguments.target
    message = "`--autoattack` should stand without --attacks, --quick, --black-box and --target. Received: both"
    require(not (arguments.autoattack and others), message)
    if arguments.attacks is not None:
        names = [name.strip() for text in arguments.attacks for name in text.split(",")]
        named = [library.attack_by_name(name) for name in names if name]
        return [dataclasses.replace(one, **options) if isinstance(one, library.Strong) else one for one in named]
    if not arguments.target:
        return measuring.default_attacks(budgets, **given(arguments, "black_box", "autoattack"), **options)
    # a step towards the target and the strongest climb towards it, in the norms of the budgets
    norms = dict.fromkeys(attack.norm for attack in measuring.default_attacks(budgets))
    steps = {norm: library.FGM() if norm == 2 else library.FGSM() for norm in norms}
    return [attack for norm in norms for attack in (steps[norm], library.APGD(norm=norm))]


def _aimed(attacks: list[library.Attack], target: int) -> list[library.Attack]:
    """The attacks with a target."""
    if wrong := [attack.name for attack in attacks if not isinstance(attack, base.AimedAttack)]:
        raise ValueError(f"`--target` should go with attacks that take one, such as fgsm,apgd_ce. Received: {wrong}")
    return [dataclasses.replace(attack, target=target) for attack in attacks if isinstance(attack, base.AimedAttack)]


def _epsilons(texts: list[str] | None) -> _Budgets:
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
    expected = "have a norm for each list, or be one list"
    require("" not in budgets or len(budgets) == 1, f"`--epsilons` should {expected}. Received: {' '.join(texts)}")
    return budgets.get("", budgets)
