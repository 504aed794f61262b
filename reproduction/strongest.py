"""The strongest attack with all its steps, on the defenses that matter: the README's table, and those like it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_fim.attacks import Strong
from keras_fim.evaluation.report import Row, table
from keras_fim.records import read_json, versions, write_json, write_text
from keras_fim.training.comparison import spread
from reproduction.contestants import BUDGETS, contestant, stored_as
from reproduction.workbench import Workbench

IMAGES = {"mnist": 300, "gtsrb": 100, "cifar10": 100}
"""The number of test images attacked, stratified."""

_TITLES = {
    "none": "none (plain training)",
    "fisher-trace": "the paper's eq. (4), `FisherTraceLoss`",
    "spectral": "the paper's eq. (2), `SpectralDefense`",
    "n-fgm": "**N-FGM**, `n_fgm`",
    "pgd": "PGD training, `AdversarialTraining`",
    "pgd-3": "PGD training, 3 steps",
}
_PHOTO = ("none", "n-fgm", "spectral", "pgd-3")
_DEFENSES = {"mnist": ("none", "fisher-trace", "n-fgm", "spectral", "pgd"), "gtsrb": _PHOTO, "cifar10": _PHOTO}


def strongest(bench: Workbench, data: str, seeds: Sequence[int] | None = None) -> str:
    """Attack stored models of a dataset with `keras_fim.attacks.Strong`; write ``strongest.json`` and ``.md``.

    Accuracy and cost are those of the comparison in the bench's folder. Each attack is kept as a finished cell.

    Args:
        bench: The folders of results, models and data; that of results holds ``comparison.json``.
        data: The name of the dataset.
        seeds: The seeds to attack; ``None`` for those that were compared.

    Returns:
        A Markdown table: in %, means over seeds with their range.
    """
    compared = {row["defense"]: row for row in read_json(bench.folder / "comparison.json")["rows"]}
    rows: list[Row] = []
    stored: list[dict[str, Any]] = []
    for name in _DEFENSES[data]:
        own = [seed for seed in compared[name]["seeds"] if seeds is None or seed in seeds]
        robust = {
            f"{_norm(norm)} {epsilon:.3g}": [_robust(bench, data, name, seed, norm, epsilon) for seed in own]
            for norm, epsilons in BUDGETS[data].items()
            for epsilon in epsilons
        }
        accuracy = [compared[name]["accuracy"][compared[name]["seeds"].index(seed)] for seed in own]
        cost = compared[name]["cost"]
        stored.append({"defense": name, "seeds": own, "accuracy": accuracy, "robust": robust, "cost": cost})
        columns = {f"robust accuracy, {key}": spread(values, scale=100) for key, values in robust.items()}
        accuracies = spread(accuracy, ".2f", scale=100)
        rows.append({"defense": _TITLES[name], "accuracy": accuracies, **columns, "cost": f"{cost:.1f}"})
    content = {"data": data, "images": IMAGES[data], "attack": "Strong", "revision": Strong.revision, "rows": stored}
    write_json(bench.folder / "strongest.json", {**content, "versions": versions()})
    markdown = table(rows, markdown=True)
    write_text(bench.folder / "strongest.md", markdown + "\n")
    return markdown


def _norm(norm: float) -> str:
    """``l2`` or ``linf``."""
    return f"l{norm:g}"


def _robust(bench: Workbench, data: str, name: str, seed: int, norm: float, epsilon: float) -> float:
    """The share of all attacked images that are classified correctly before and after the attack."""
    config, plain = contestant(data, name, seed), contestant(data, "none", seed)
    model = bench.model(stored_as(config, name), config)
    twin = None if name == "none" else bench.model(stored_as(plain, "none"), plain)
    attack, (images, labels) = Strong(norm=norm, twin=twin), bench.test_images(data, IMAGES[data])

    def measure() -> float:
        result = attack(model, images, labels, epsilon=epsilon)
        return float(np.mean(result.was_correct & ~result.success))

    settings = {"attack": "Strong", "revision": Strong.revision, "epsilon": epsilon, "images": len(images)}
    key = f"strongest/{name}-seed{seed}-{_norm(norm)}-{epsilon:g}"
    return float(bench.cell(key, model, settings if twin is None else {**settings, "twin": twin}, measure))
