"""Defences side by side: trained alike, judged by the same attacks, with what they cost."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from numpy.typing import ArrayLike

from keras_fim import attacks
from keras_fim.evaluation import Evaluation, clean_performance, evaluate, masking_report
from keras_fim.evaluation.report import Report, Row, encode
from keras_fim.experiments.contestants import BUDGETS, MASKING_IMAGES, contestant, stored_as
from keras_fim.experiments.cost import step_costs
from keras_fim.experiments.tables import spread
from keras_fim.experiments.workbench import Workbench
from keras_fim.fisher import fisher_spectrum
from keras_fim.plots import defences_figure
from keras_fim.records import versions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Comparison", "DefenceRow", "compare"]

_STRONG = "strong "  # the labels of the strongest attack begin so


@dataclasses.dataclass(frozen=True)
class DefenceRow:
    """What one defence reaches, over its seeds.

    Attributes:
        defence: its name.
        config: how the first seed was trained.
        seeds: the seeds.
        accuracy: on all test images, by seed.
        fooling: by attack, norm and ε, fooling ratios by seed.
        robust: as ``fooling``, shares of all attacked images that are right before and after.
        eigenvalue: mean of λ_max(G_x), which eq. (2) penalises, over the attacked images, by seed.
        suspects: checks of the masking report that fired, with their norm, for the first seed.
        cost: CPU time of the training over that of plain training: of a step, times the ratio of the epochs.
    """

    defence: str
    config: dict[str, Any]
    seeds: tuple[int, ...]
    accuracy: tuple[float, ...]
    fooling: dict[str, tuple[float, ...]]
    robust: dict[str, tuple[float, ...]]
    eigenvalue: tuple[float, ...]
    suspects: tuple[str, ...]
    cost: float

    def objectives(self) -> list[float]:
        """Means over seeds, less being better: error, what the strongest attack fools by norm and ε, and cost.

        The cost is that of the table, to one decimal: what it varies by from run to run should not decide.
        """
        strong = [_mean(values) for key, values in self.fooling.items() if key.startswith(_STRONG)]
        return [1 - _mean(self.accuracy), *strong, round(self.cost, 1)]


@dataclasses.dataclass(frozen=True)
class Comparison(Report):
    """Defences on one data set.

    Attributes:
        data: name of the data set.
        images: number of test images that were attacked.
        quick: whether `keras_fim.attacks.Strong` took a quarter of its steps.
        rows: one for each defence.
        versions: of the packages that wrote this.
    """

    data: str
    images: int
    quick: bool
    rows: tuple[DefenceRow, ...]
    versions: dict[str, str | None] = dataclasses.field(default_factory=versions)

    def tables(self) -> dict[str, list[Row]]:
        """One row for each defence; ratios in %, means over seeds with their range."""
        steps = ", a quarter of the strong attack's steps" if self.quick else ""
        what = f"fooling ratio in %, of the correct among {self.images} test images{steps}; their mean λ_max(G_x)"
        title = f"{self.data}: {what}; over seeds, mean (range)"
        front = self.front()
        return {title: [_table_row(row, row.defence in front) for row in self.rows]}

    def records(self) -> list[dict[str, Any]]:
        """One row for each defence and seed; ratios in [0, 1]."""
        return [
            {
                "defence": row.defence,
                "seed": seed,
                "accuracy": row.accuracy[index],
                **{f"{key} fooling": values[index] for key, values in row.fooling.items()},
                **{f"{key} robust": values[index] for key, values in row.robust.items()},
                "eigenvalue": row.eigenvalue[index],
                "cost": row.cost,
            }
            for row in self.rows
            for index, seed in enumerate(row.seeds)
        ]

    def front(self) -> list[str]:
        """Names of the Pareto front: none is as good in all of `DefenceRow.objectives` and better in one."""
        found = {row.defence: row.objectives() for row in self.rows}
        return [name for name, ours in found.items() if not any(_dominates(other, ours) for other in found.values())]

    def figure(self) -> Figure:
        """Accuracy against robust accuracy under the strongest attack, at the smallest ε of each norm."""
        strong = [key for key in self.rows[0].robust if key.startswith(_STRONG)]
        panels = {
            key: {row.defence: (_mean(row.accuracy), _mean(row.robust[key]), row.cost) for row in self.rows}
            for key in {key.split()[1]: key for key in reversed(strong)}.values()
        }
        return defences_figure(panels, self.front())


def compare(
    bench: Workbench,
    data: str,
    defences: Mapping[str, Sequence[int]],
    *,
    images: int = 1000,
    quick: bool = False,
    changes: Mapping[str, Any] | None = None,
) -> Comparison:
    """Train defences on one data set and attack all of them alike; write a table and a figure.

    Every training and every attack is kept: what was interrupted goes on. After each defence, ``comparison.json``,
    ``.csv``, ``.md`` and ``comparison.png`` in the bench's folder hold what is known so far.

    Args:
        bench: where results, runs and data are.
        data: name of the data set.
        defences: seeds by name of `keras_fim.experiments.contestants.CONTESTANTS`, or as ``keras-fim train --defense``
            takes it. ``"none"``, what the others are compared with, is added where it is missing.
        images: number of test images to attack, stratified.
        quick: a quarter of the steps of `keras_fim.attacks.Strong`.
        changes: attributes of `TrainingConfig` for all of them.

    Returns:
        `Comparison`.

    Raises:
        ValueError: if the data set or a name is not known, or there is no seed.
    """
    if data not in BUDGETS:
        raise ValueError(f"`data` should be one of {', '.join(BUDGETS)}. Received: data={data!r}")
    chosen = {"none": (0,), **defences}
    if empty := [name for name, seeds in chosen.items() if not seeds]:
        raise ValueError(f"`defences` should have a seed for each name. Received: none for {', '.join(empty)}")
    entries = [_Entry(bench, data, name, tuple(seeds), dict(changes or {})) for name, seeds in chosen.items()]
    costs = _costs(bench, data, entries)
    rows: list[DefenceRow] = []
    for entry in entries:
        rows.append(entry.measured(images, quick, costs[entry.name]))
        comparison = Comparison(data, images, quick, tuple(rows))
        _write(comparison, bench.folder)
    return comparison


class _Entry:
    """A defence with its seeds; checks its name before anything is trained."""

    def __init__(self, bench: Workbench, data: str, name: str, seeds: tuple[int, ...], changes: dict[str, Any]) -> None:
        self.bench, self.data, self.name, self.seeds, self.changes = bench, data, name, seeds, changes
        self.configs = [contestant(data, name, seed, **changes) for seed in seeds]

    def measured(self, images: int, quick: bool, cost: float) -> DefenceRow:
        found = [self._evaluated(seed, images, quick) for seed in self.seeds]
        labels = [f"{row.attack.removesuffix(f'_{row.norm}')} {row.norm} {row.epsilon:.3g}" for row in found[0].rows]
        by_attack = list(zip(labels, zip(*[each.rows for each in found], strict=True), strict=True))
        return DefenceRow(
            defence=self.name,
            config=self.configs[0].as_dict(),
            seeds=self.seeds,
            accuracy=tuple(self._accuracy(seed) for seed in self.seeds),
            fooling={label: tuple(row.fooling.value for row in rows) for label, rows in by_attack},
            robust={label: tuple(row.robust.value for row in rows) for label, rows in by_attack},
            eigenvalue=tuple(self._eigenvalue(seed, images) for seed in self.seeds),
            suspects=tuple(self._suspects(min(MASKING_IMAGES, images))),
            cost=cost,
        )

    def _model(self, name: str, seed: int) -> keras.Model:
        config = contestant(self.data, name, seed, **self.changes)
        return self.bench.model(stored_as(config, name), config)

    def _evaluated(self, seed: int, images: int, quick: bool) -> Evaluation:
        """One step, and the strongest attack, which has the plain model of the same seed for a twin."""
        model = self._model(self.name, seed)
        twin = None if self.name == "none" else self._model("none", seed)
        strong = [attacks.Strong(norm=norm, twin=twin, quick=quick) for norm in BUDGETS[self.data]]
        return evaluate(
            model,
            self.bench.test_images(self.data, images),
            attacks=[attacks.OSSA(), attacks.FGSM(), *strong],
            epsilons=BUDGETS[self.data],
            spectrum=False,
            folder=self.bench.folder / "cells" / f"{self.name}-seed{seed}",
            on_cell=lambda line: self.bench.say(f"{self.name}, seed {seed}: {line}"),
        )

    def _accuracy(self, seed: int) -> float:
        model, (images, labels) = self._model(self.name, seed), self.bench.test_images(self.data, None)
        key, settings = f"{self.name}-seed{seed}/accuracy", {"images": len(images)}
        return float(self.bench.cell(key, model, settings, lambda: clean_performance(model, images, labels).accuracy))

    def _eigenvalue(self, seed: int, count: int) -> float:
        model, (images, _) = self._model(self.name, seed), self.bench.test_images(self.data, count)
        key, settings = f"{self.name}-seed{seed}/eigenvalue", {"images": count}
        return float(self.bench.cell(key, model, settings, lambda: _mean(fisher_spectrum(model, images).eigenvalues)))

    def _suspects(self, limit: int) -> list[str]:
        """Checks of the masking report that fire, in either norm."""
        model, seed = self._model(self.name, self.seeds[0]), self.seeds[0]
        twin = None if self.name == "none" else self._model("none", seed)
        images = self.bench.test_images(self.data, limit)
        settings = {"images": limit, **({} if twin is None else {"twin": twin})}
        found = []
        for norm in BUDGETS[self.data]:
            key = f"{self.name}-seed{seed}/masking-l{norm:g}"
            measure = functools.partial(masking_report, model, images, norm=norm, twin=twin, limit=None)
            report = self.bench.cell(key, model, settings, lambda measure=measure: encode(measure()))  # type: ignore[misc]
            found += [f"{check['name']} (l{norm:g})" for check in report["checks"] if check["verdict"] == "suspect"]
        return found


def _costs(bench: Workbench, data: str, entries: Sequence[_Entry]) -> dict[str, float]:
    """CPU time by name, over that of the first; of steps measured together, again for all where one is new."""
    configs = {entry.name: entry.configs[0] for entry in entries}
    settings = {name: {**config.as_dict(), "seed": 0, "init_from": None} for name, config in configs.items()}
    measured = bench.cell("costs", None, settings, lambda: step_costs(configs))
    epochs = entries[0].configs[0].epochs
    return {name: cost["cpu"] * configs[name].epochs / epochs for name, cost in measured.items()}


def _table_row(row: DefenceRow, on_front: bool) -> Row:
    return {
        "defence": row.defence,
        "accuracy": spread(row.accuracy, ".2f", scale=100),
        **{key: spread(values, scale=100) for key, values in row.fooling.items()},
        "λ_max": spread(row.eigenvalue, ".2g"),
        "cost": f"{row.cost:.1f}",
        "on the front": on_front,
        f"masked gradients? (seed {row.seeds[0]})": ", ".join(row.suspects) or "no sign",
        "seeds": len(row.seeds),
    }


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def _mean(values: ArrayLike) -> float:
    return float(np.asarray(values, np.float64).mean())


def _write(comparison: Comparison, folder: Path) -> None:
    """The table as JSON, CSV and Markdown, and the figure."""
    for suffix in ("json", "csv", "md"):
        comparison.save(folder / f"comparison.{suffix}")
    aside = folder / ".comparison.png"
    comparison.figure().savefig(aside, dpi=120, format="png")
    aside.replace(folder / "comparison.png")
