"""Tables 1 and 2: minimal distances of a plain and a defended model, and what one's adversarials do to the other."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_fim import attacks
from keras_fim.attacks.lp import norm_name
from keras_fim.evaluation import clean_performance
from keras_fim.training.comparison import spread
from keras_fim.typing import AttackResult
from reproduction.bench import PaperBench
from reproduction.recipes import DEFENDED_MU, SEEDS, model_name
from reproduction.report import Report
from reproduction.values import TABLE1, TABLE2
from reproduction.workbench import digest

__all__ = ["ATTACKS", "nearest_cell", "table1", "table2"]

ATTACKS: dict[str, attacks.MinimalDistanceAttack] = {
    "fgsm": attacks.MinimalDistance(attacks.FGSM()),
    "fgm": attacks.MinimalDistance(attacks.FGM()),
    "bim_l1": attacks.MinimalDistance(attacks.BIM(norm=1)),
    "bim_l2": attacks.MinimalDistance(attacks.BIM(norm=2)),
    "bim_linf": attacks.MinimalDistance(attacks.BIM()),
    "deepfool_l2": attacks.DeepFool(),
    "carlini_wagner_l2": attacks.CarliniWagner(),
    "jsma": attacks.JSMA(),
    "pgd_linf": attacks.MinimalDistance(attacks.PGD()),
}
"""The nine attacks of table 1. Foolbox 0.x searched over ε for the one-step and the iterative ones, as
`MinimalDistance` does."""

_SLOW = ("carlini_wagner_l2", "jsma")
_OSSA_EPSILON = 1.0


def nearest_cell(bench: PaperBench, attack: str, source: str, target: str | None = None) -> dict[str, Any]:
    """Minimal distances of one attack on one model, and how another model does on the adversarials.

    Args:
        bench: the workbench.
        attack: a key of `ATTACKS`, or ``"ossa"`` at a fixed ε.
        source: name of the model attacked, of `reproduction.recipes.all_models`.
        target: name of the model that the adversarials are tried on, if any.

    Returns:
        Numbers by name: the mean distance over successes in Foolbox 0.x's convention and in the true norm, its median
        (of all correct samples, failures infinite), the share of successes, and the target's accuracy on them.
    """
    model, other = bench.paper_model(source), bench.paper_model(target) if target else None
    images, labels = bench.images(bench.scale.slow_images if attack in _SLOW else None)
    method: Any = attacks.OSSA() if attack == "ossa" else ATTACKS[attack]

    def measure() -> dict[str, Any]:
        if attack == "ossa":
            result = method(model, images, labels, epsilon=_OSSA_EPSILON)
        else:
            result = method(model, images, labels)
        distances = _distances(result, images, method.norm)
        return distances if other is None else {**distances, **_transferred(result, labels, other)}

    settings = {"attack": repr(method), "images": len(images), "target": target and digest(bench.paper_model(target))}
    if attack == "ossa":
        settings["epsilon"] = _OSSA_EPSILON
    kind = "transfer" if target else "distance"
    cell: dict[str, Any] = bench.cell(f"{kind}/{source}/{attack}", model, settings, measure)
    return cell


def _distances(result: AttackResult, images: np.ndarray, norm: float) -> dict[str, float]:
    """Distances of an attack's successes: Foolbox 0.x's convention and the true norm."""
    correct, won = result.was_correct, result.success
    inside = np.where(won, result.distances, np.inf)[correct]
    size = images[0].size
    per_norm: dict[float, Any] = {1: lambda d: d / size, 2: lambda d: d**2 / size}
    foolbox = per_norm.get(norm, lambda d: d)(result.distances[won])
    return {
        "success": float(won.sum() / max(1, correct.sum())),
        "num_correct": int(correct.sum()),
        "mean_foolbox": float(foolbox.mean()) if won.any() else float("nan"),
        "mean_norm": float(result.distances[won].mean()) if won.any() else float("nan"),
        "median_norm": float(np.median(inside)) if correct.any() else float("nan"),
    }


def _transferred(result: AttackResult, labels: np.ndarray, target: keras.Model) -> dict[str, float]:
    won = result.success
    if not won.any():
        return {"transfer_accuracy": float("nan"), "num_transferred": 0}
    accuracy = clean_performance(target, result.adversarials[won], labels[won]).accuracy
    return {"transfer_accuracy": accuracy, "num_transferred": int(won.sum())}


def _pairs(bench: PaperBench) -> list[tuple[str, str]]:
    """Names of the plain and the defended model of each seed."""
    return [(model_name(0.0, seed), model_name(DEFENDED_MU, seed)) for seed in SEEDS[: bench.scale.seeds]]


def table1(bench: PaperBench) -> Report:
    """Mean minimal distances on the original model and on the defended one, beside the paper's."""
    rows = []
    for name, attack in ATTACKS.items():
        plain, defended = ([nearest_cell(bench, name, *pair[::way]) for pair in _pairs(bench)] for way in (1, -1))
        theirs = TABLE1[name]
        ratios = [b["mean_foolbox"] / a["mean_foolbox"] for a, b in zip(plain, defended, strict=True)]
        true = [b["median_norm"] / a["median_norm"] for a, b in zip(plain, defended, strict=True)]
        form = ".2f" if name == "jsma" else ".4g"
        rows.append((
            name,
            norm_name(attack.norm),
            spread([cell["mean_foolbox"] for cell in plain], form),
            spread([cell["mean_foolbox"] for cell in defended], form),
            spread(ratios, ".2f"),
            f"{theirs[0]:g} → {theirs[1]:g}",
            f"{theirs[1] / theirs[0]:.2f}",
            spread([cell["median_norm"] for cell in plain], ".4g"),
            spread([cell["median_norm"] for cell in defended], ".4g"),
            spread(true, ".2f"),
            spread([cell["success"] for cell in plain + defended], ".1f", scale=100),
        ))  # fmt: skip
    columns = (
        "attack", "norm", "μ = 0", f"μ = {DEFENDED_MU:g}", "factor", "paper", "its factor",
        "true norm, median, μ = 0", f"μ = {DEFENDED_MU:g}", "factor", "success [%]",
    )  # fmt: skip
    notes = (
        "Mean distance over successes in Foolbox 0.x's convention, which the paper's table uses: mean squared error "
        "for "
        "l2, mean absolute error for l1, largest change for l∞, number of changed pixels for l0. Beside it the median "
        "of the true norm over the originally correct images, a failure counting as infinite.",
        _images_note(bench),
    )
    return Report("table1", "Table 1: distance to the nearest adversarial, MNIST", columns, tuple(rows), notes)


def table2(bench: PaperBench) -> Report:
    """Accuracy of each model on the other's minimal adversarials, beside the paper's."""
    rows = []
    for name in (*ATTACKS, "ossa"):
        there, back = ([nearest_cell(bench, name, *pair[::way]) for pair in _pairs(bench)] for way in (1, -1))
        to_ours, to_original = TABLE2[name]
        rows.append((
            name if name != "ossa" else f"ossa, ε = {_OSSA_EPSILON:g}",
            spread([cell["transfer_accuracy"] for cell in there], ".2f", scale=100),
            f"{to_ours:.2f}",
            spread([cell["transfer_accuracy"] for cell in back], ".2f", scale=100),
            "-" if to_original is None else f"{to_original:.2f}",
            f"{sum(cell['num_transferred'] for cell in there)} / {sum(cell['num_transferred'] for cell in back)}",
        ))  # fmt: skip
    columns = ("attack", "original → ours", "paper", "ours → original", "paper", "adversarials")
    notes = (
        f"Accuracy in %, on the adversarials that fool their own model. The paper does not name this table's μ; ours "
        f"is table 1's {DEFENDED_MU:g}. Minimal adversarials end where their own model's decision does, so a high "
        "accuracy of another model on them says little about its robustness; Strong's first stage is the harder test.",
        _images_note(bench),
    )
    return Report("table2", "Table 2: accuracy on the other model's adversarials, MNIST", columns, tuple(rows), notes)


def _images_note(bench: PaperBench) -> str:
    scale = bench.scale
    seeds = "one seed" if scale.seeds == 1 else f"{scale.seeds} seeds, in brackets the smallest and the largest value"
    return f"{scale.images} test images ({scale.slow_images} for Carlini-Wagner and JSMA), {seeds}."
