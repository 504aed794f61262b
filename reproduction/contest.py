"""The contestants of a dataset side by side: stored models, attacked alike, with their cost."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_fim import attacks
from keras_fim.evaluation import clean_performance, masking_report
from keras_fim.evaluation.report import encode
from keras_fim.fisher import fisher_spectrum
from keras_fim.records import read_json
from keras_fim.training.comparison import Comparison, DefenseRow, write
from keras_fim.training.run import step_costs
from reproduction.contestants import BUDGETS, MASKING_IMAGES, contestant, stored_as
from reproduction.workbench import Workbench, digest, same_attack

__all__ = ["contest"]


def contest(
    bench: Workbench,
    data: str,
    defenses: Mapping[str, Sequence[int]],
    *,
    max_samples: int = 1000,
    quick: bool = False,
    changes: Mapping[str, Any] | None = None,
) -> Comparison:
    """Train contestants on one dataset and attack all of them alike; write a table and a figure.

    Every training and every attack is kept, so that an interrupted contest continues. After each defense,
    ``comparison.json``, ``.csv``, ``.md`` and ``comparison.png`` in the bench's folder hold the rows so far.

    Args:
        bench: The folders of results, runs, models and data.
        data: The name of the dataset.
        defenses: Seeds by name of `reproduction.contestants.CONTESTANTS`, or as ``keras-fim train --defense`` takes
            it. ``"none"``, with which the others are compared, is added if it is missing.
        max_samples: The number of test images to attack, stratified.
        quick: Whether `keras_fim.attacks.Strong` takes a quarter of its steps.
        changes: Attributes of `TrainingConfig` for all of them.

    Returns:
        `Comparison`.

    Raises:
        ValueError: If a name is unknown.
    """
    seeds = {"none": (0,), **defenses}
    entries = [_Entry(bench, data, name, tuple(group), dict(changes or {})) for name, group in seeds.items()]
    costs = _costs(bench, entries)
    rows: list[DefenseRow] = []
    for entry in entries:
        rows.append(entry.row(max_samples, quick, costs[entry.name]))
        comparison = Comparison(data, max_samples, quick, tuple(rows))
        write(comparison, bench.folder)
    return comparison


class _Entry:
    """A contestant with its seeds; checks its name before anything is trained."""

    def __init__(self, bench: Workbench, data: str, name: str, seeds: tuple[int, ...], changes: dict[str, Any]) -> None:
        self.bench, self.data, self.name, self.seeds, self.changes = bench, data, name, seeds, changes
        self.configs = [contestant(data, name, seed, **changes) for seed in seeds]

    def row(self, count: int, quick: bool, cost: float) -> DefenseRow:
        """The figures over all seeds."""
        measured = [self._attacked(seed, count, quick) for seed in self.seeds]
        return DefenseRow(
            defense=self.name,
            config=self.configs[0].as_dict(),
            seeds=self.seeds,
            accuracy=tuple(self._accuracy(seed) for seed in self.seeds),
            fooling={label: tuple(seed[label][0] for seed in measured) for label in measured[0]},
            robust={label: tuple(seed[label][1] for seed in measured) for label in measured[0]},
            eigenvalue=tuple(self._eigenvalue(seed, count) for seed in self.seeds),
            suspects=tuple(self._suspects(min(MASKING_IMAGES, count))),
            cost=cost,
        )

    def _model(self, name: str, seed: int) -> keras.Model:
        config = contestant(self.data, name, seed, **self.changes)
        return self.bench.model(stored_as(config, name), config)

    def _twin(self, seed: int) -> keras.Model | None:
        return None if self.name == "none" else self._model("none", seed)

    def _attacked(self, seed: int, count: int, quick: bool) -> dict[str, tuple[float, float]]:
        """Fooling ratio and robust accuracy by attack, norm and ε: of one step, and of the strongest attack."""
        strong = [attacks.Strong(norm=norm, twin=self._twin(seed), quick=quick) for norm in BUDGETS[self.data]]
        figures = {}
        for attack in (attacks.OSSA(), attacks.FGSM(), *strong):
            for epsilon in BUDGETS[self.data][attack.norm]:
                norm = f"l{attack.norm:g}"
                label = f"{attack.name.removesuffix(f'_{norm}')} {norm} {epsilon:.3g}"
                cell = self._earlier(seed, attack, epsilon, count) or self._cell(seed, attack, epsilon, count)
                figures[label] = (float(cell["fooling"]), float(cell["robust"]))
        return figures

    def _cell(self, seed: int, attack: attacks.FixedBudgetAttack, epsilon: float, count: int) -> dict[str, float]:
        model, (images, labels) = self._model(self.name, seed), self.bench.test_images(self.data, count)

        def measure() -> dict[str, float]:
            result = attack(model, images, labels, epsilon=epsilon)
            return {
                "fooling": float(result.fooling_ratio),
                "robust": float((result.was_correct & ~result.success).mean()),
            }

        twin = getattr(attack, "twin", None)
        settings = {"attack": _text(attack), "epsilon": epsilon, "images": count, **({"twin": twin} if twin else {})}
        key = f"{self.name}-seed{seed}/{attack.name}-{epsilon:g}"
        result: dict[str, float] = self.bench.cell(key, model, settings, measure)
        return result

    def _earlier(
        self, seed: int, attack: attacks.FixedBudgetAttack, epsilon: float, count: int
    ) -> dict[str, float] | None:
        """The cell that `keras_fim.evaluation.evaluate` kept for the comparisons of version 0.1, if there is one.

        Its own digests are not recomputed: the accuracy beside it names the weights.
        """
        folder = self.bench.folder / "cells" / f"{self.name}-seed{seed}"
        accuracy, twin = folder / "accuracy.json", getattr(attack, "twin", None)
        if not accuracy.is_file() or read_json(accuracy)["settings"]["weights"] != digest(self._model(self.name, seed)):
            return None
        for path in sorted(folder.glob(f"{attack.name}-{epsilon:g}-*.json")):
            cell = read_json(path)
            key, content = cell["key"], cell["content"]
            same = content["robust"]["total"] == count and ("twin" in key) == (twin is not None)
            if same and same_attack(key["attack"], _text(attack)):
                return {name: content[name]["value"] for name in ("fooling", "robust")}
        return None

    def _accuracy(self, seed: int) -> float:
        model, (images, labels) = self._model(self.name, seed), self.bench.test_images(self.data, None)
        key, settings = f"{self.name}-seed{seed}/accuracy", {"images": len(images)}
        return float(self.bench.cell(key, model, settings, lambda: clean_performance(model, images, labels).accuracy))

    def _eigenvalue(self, seed: int, count: int) -> float:
        model, (images, _) = self._model(self.name, seed), self.bench.test_images(self.data, count)
        key, settings = f"{self.name}-seed{seed}/eigenvalue", {"images": count}
        measure = functools.partial(fisher_spectrum, model, images)
        return float(self.bench.cell(key, model, settings, lambda: float(np.mean(measure().eigenvalues, dtype=float))))

    def _suspects(self, limit: int) -> list[str]:
        """The checks of the masking report that fire, in either norm."""
        model, twin = self._model(self.name, self.seeds[0]), self._twin(self.seeds[0])
        images = self.bench.test_images(self.data, limit)
        settings = {"images": limit, **({} if twin is None else {"twin": twin})}
        lines = []
        for norm in BUDGETS[self.data]:
            key = f"{self.name}-seed{self.seeds[0]}/masking-l{norm:g}"
            measure = functools.partial(masking_report, model, images, norm=norm, twin=twin, max_samples=None)
            report = self.bench.cell(key, model, settings, lambda measure=measure: encode(measure()))  # type: ignore[misc]
            lines += [f"{check['name']} (l{norm:g})" for check in report["checks"] if check["verdict"] == "suspect"]
        return lines


def _text(attack: attacks.FixedBudgetAttack) -> str:
    """The attack as text, without the model that it uses."""
    return repr(dataclasses.replace(attack, twin=None) if isinstance(attack, attacks.Strong) else attack)


def _costs(bench: Workbench, entries: Sequence[_Entry]) -> dict[str, float]:
    """CPU time by name relative to the first, of steps measured together; again for all if one is new."""
    configs = {entry.name: entry.configs[0] for entry in entries}
    settings = {name: {**config.as_dict(), "seed": 0, "init_from": None} for name, config in configs.items()}
    measured = bench.cell("costs", None, settings, lambda: step_costs(configs))
    epochs = entries[0].configs[0].epochs
    return {name: cost["cpu"] * configs[name].epochs / epochs for name, cost in measured.items()}
