"""Defenses side by side: trained alike, attacked alike, with their cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from keras_fim import attacks, data
from keras_fim.evaluation import Evaluation, evaluate, masking_report, samples
from keras_fim.evaluation.report import Report, Row
from keras_fim.fisher import fisher_spectrum
from keras_fim.plots import defenses_figure
from keras_fim.records import versions
from keras_fim.training.budgets import default_epsilons
from keras_fim.training.config import TrainingConfig, recipe
from keras_fim.training.cost import step_costs
from keras_fim.training.defending import COMPARED
from keras_fim.training.run import train
from keras_fim.training.trained import load_model

if TYPE_CHECKING:
    import keras
    from matplotlib.figure import Figure

__all__ = ["Comparison", "DefenseRow", "compare", "spread", "write"]

_STRONG = "strong "  # the labels of the strongest attack begin so
_MASKING_SAMPLES = 200


@dataclasses.dataclass(frozen=True)
class DefenseRow:
    """The figures of one defense, over its seeds.

    Attributes:
        defense: The name of the defense.
        config: How the model of the first seed was trained.
        seeds: The random seeds of the trainings.
        accuracy: The accuracy on test images, by seed.
        fooling: The fooling ratios by seed, for each attack, norm and ε.
        robust: As ``fooling``, the shares of all attacked images that are classified correctly before and after.
        eigenvalue: The mean of λ_max(G_x), which eq. (2) penalizes, over the attacked images, by seed.
        suspects: The checks of the masking report that fired for the first seed, with their norm.
        cost: Training CPU time relative to plain training: the ratio of a step times the ratio of the epochs.
    """

    defense: str
    config: dict[str, Any]
    seeds: tuple[int, ...]
    accuracy: tuple[float, ...]
    fooling: dict[str, tuple[float, ...]]
    robust: dict[str, tuple[float, ...]]
    eigenvalue: tuple[float, ...]
    suspects: tuple[str, ...]
    cost: float

    def objectives(self) -> list[float]:
        """Error, fooling ratios of the strongest attack, and cost to one decimal, as in the table: means over seeds."""
        strong = [_mean(values) for key, values in self.fooling.items() if key.startswith(_STRONG)]
        return [1 - _mean(self.accuracy), *strong, round(self.cost, 1)]


@dataclasses.dataclass(frozen=True)
class Comparison(Report):
    """Defenses on one dataset.

    Attributes:
        data: The name of the dataset.
        images: The number of test images that were attacked.
        quick: Whether `keras_fim.attacks.Strong` took a quarter of its steps.
        rows: One row for each defense.
        versions: The versions of the packages that measured this.
    """

    data: str
    images: int
    quick: bool
    rows: tuple[DefenseRow, ...]
    versions: dict[str, str | None] = dataclasses.field(default_factory=versions)

    def tables(self) -> dict[str, list[Row]]:
        """One row for each defense; ratios in %, means over seeds with their range."""
        steps = ", a quarter of the strong attack's steps" if self.quick else ""
        what = f"fooling ratio in %, of the correct among {self.images} test images{steps}; their mean λ_max(G_x)"
        title = f"{self.data}: {what}; over seeds, mean (range)"
        front = self.front()
        return {title: [_table_row(row, row.defense in front) for row in self.rows]}

    def records(self) -> list[dict[str, Any]]:
        """One row for each defense and seed; ratios in [0, 1]."""
        return [
            {
                "defense": row.defense,
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
        """The Pareto front: no other defense is as good in all of `DefenseRow.objectives` and better in one."""
        points = {row.defense: row.objectives() for row in self.rows}
        return [name for name, point in points.items() if not any(_dominates(p, point) for p in points.values())]

    def figure(self) -> Figure:
        """Accuracy against robust accuracy under the strongest attack, at the smallest ε of each norm."""
        strong = [key for key in self.rows[0].robust if key.startswith(_STRONG)]
        panels = {
            key: {row.defense: (_mean(row.accuracy), _mean(row.robust[key]), row.cost) for row in self.rows}
            for key in {key.split()[1]: key for key in reversed(strong)}.values()
        }
        return defenses_figure(panels, self.front())


def compare(
    data_name: str,
    folder: str | Path,
    defenses: Sequence[str] = COMPARED,
    *,
    seeds: Sequence[int] = (0,),
    max_samples: int = 500,
    quick: bool = False,
    changes: Mapping[str, Any] | None = None,
    data_dir: str | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> Comparison:
    """Train defenses on one dataset, attack all of them alike, and write a table and a figure.

    Trainings and attacks are kept in ``folder``, so that an interrupted comparison goes on where it stopped. After each
    defense, ``comparison.json``, ``.csv``, ``.md`` and ``comparison.png`` there hold the rows so far.

    Args:
        data_name: The name of the dataset.
        folder: The folder for results, runs and finished measurements.
        defenses: Names as ``keras-fim train --defense`` takes them. Plain training, with which the others are
            compared, is added.
        seeds: The random seeds of the trainings of each defense.
        max_samples: The number of test images to attack, the same number per class as far as possible.
        quick: Whether `keras_fim.attacks.Strong` takes a quarter of its steps.
        changes: Attributes of `TrainingConfig` that replace those of the recipe.
        data_dir: The folder in which TensorFlow Datasets keeps its data.
        on_progress: A function that gets a line of text at each step.

    Returns:
        `Comparison`.

    Raises:
        ValueError: If the dataset or a name is unknown, or there are no seeds or images.
    """
    if not seeds:
        raise ValueError("`seeds` should not be empty. Received: no seed")
    if max_samples < 1:
        raise ValueError(f"`max_samples` should be a positive integer. Received: max_samples={max_samples}")
    configs = {
        name: [recipe(data_name, **{"defense": name, **(changes or {}), "seed": seed}) for seed in dict.fromkeys(seeds)]
        for name in dict.fromkeys(["none", *defenses])
    }
    folder = Path(folder)
    images = samples(data.load(data_name, 500, data_dir=data_dir, test_limit=max_samples)[1])
    work = _Work(folder, images, quick, data_dir, on_progress or (lambda line: None))
    empty = Comparison(data_name, len(images[1]), quick, ())
    rows = _finished(empty, folder, configs)
    missing = {name: group[0] for name, group in configs.items() if name == "none" or name not in rows}
    costs = step_costs(missing) if len(missing) > 1 else {"none": {"cpu": 1.0}}
    for name, group in configs.items():
        if name not in rows:
            cost = costs[name]["cpu"] * group[0].epochs / configs["none"][0].epochs
            rows[name] = work.row(name, group, configs["none"], cost)
        comparison = dataclasses.replace(empty, rows=tuple(rows[key] for key in configs if key in rows))
        write(comparison, folder)
    return comparison


def write(comparison: Comparison, folder: Path) -> None:
    """Write the table as JSON, CSV and Markdown, and the figure."""
    for suffix in ("json", "csv", "md"):
        comparison.save(folder / f"comparison.{suffix}")
    aside = folder / ".comparison.png"
    comparison.figure().savefig(aside, dpi=120, format="png")
    aside.replace(folder / "comparison.png")


def spread(values: Sequence[float], form: str = ".1f", *, scale: float = 1.0) -> str:
    """The mean and range of a figure over seeds, such as ``12.3 (11.9-12.8)``; a single value alone."""
    numbers: Any = np.asarray(values, float) * scale
    mean, low, high = (format(float(value), form) for value in (numbers.mean(), numbers.min(), numbers.max()))
    return mean if len(numbers) == 1 else f"{mean} ({low}-{high})"


@dataclasses.dataclass(frozen=True)
class _Work:
    """What a comparison measures all defenses with."""

    folder: Path
    images: tuple[np.ndarray, np.ndarray]
    quick: bool
    data_dir: str | None
    say: Callable[[str], None]

    def row(
        self, name: str, configs: Sequence[TrainingConfig], plain: Sequence[TrainingConfig], cost: float
    ) -> DefenseRow:
        """Train and measure one defense for each seed; the plain model of the same seed is the attacks' twin."""
        models = [self._model(config) for config in configs]
        twins = [None if name == "none" else self._model(config) for config in plain]
        measured = [self._evaluated(*seed) for seed in zip(configs, models, twins, strict=True)]
        options: dict[str, Any] = {"twin": twins[0], "max_samples": _MASKING_SAMPLES}
        reports = {norm: masking_report(models[0], self.images, norm=norm, **options) for norm in self._epsilons()}
        by_attack = {
            f"{row.attack.removesuffix(f'_{row.norm}')} {row.norm} {row.epsilon:.3g}": (row, *others)
            for row, *others in zip(*(evaluation.rows for evaluation in measured), strict=True)
        }
        return DefenseRow(
            defense=name,
            config=configs[0].as_dict(),
            seeds=tuple(config.seed for config in configs),
            accuracy=tuple(evaluation.accuracy.value for evaluation in measured),
            fooling={label: tuple(row.fooling.value for row in rows) for label, rows in by_attack.items()},
            robust={label: tuple(row.robust.value for row in rows) for label, rows in by_attack.items()},
            eigenvalue=tuple(_mean(fisher_spectrum(model, self.images[0]).eigenvalues) for model in models),
            suspects=tuple(
                f"{check.name} (l{norm:g})"
                for norm, report in reports.items()
                for check in report.checks
                if check.verdict == "suspect"
            ),
            cost=cost,
        )

    def _epsilons(self) -> dict[float, tuple[float, ...]]:
        """One budget for each norm, the second smallest."""
        return {norm: values[1:2] for norm, values in default_epsilons(self.images[0].shape[-1]).items()}

    def _model(self, config: TrainingConfig) -> keras.Model:
        run = self.folder / "runs" / f"{config.defense}-seed{config.seed}"
        return load_model(train(config, run, resume=True, data_dir=self.data_dir))

    def _evaluated(self, config: TrainingConfig, model: keras.Model, twin: keras.Model | None) -> Evaluation:
        strong = [attacks.Strong(norm=norm, twin=twin, quick=self.quick) for norm in self._epsilons()]
        return evaluate(
            model,
            self.images,
            attacks=[attacks.OSSA(), attacks.FGSM(), *strong],
            epsilons=self._epsilons(),
            spectrum=False,
            folder=self.folder / "cells" / f"{config.defense}-seed{config.seed}",
            max_samples=None,
            progress=lambda line: self.say(f"{config.defense}, seed {config.seed}: {line}"),
        )


def _finished(
    comparison: Comparison, folder: Path, configs: Mapping[str, Sequence[TrainingConfig]]
) -> dict[str, DefenseRow]:
    """The rows of an earlier call with the same settings, by name of the defense."""
    try:
        earlier = Comparison.load(folder / "comparison.json")
    except (OSError, ValueError, KeyError, TypeError):  # none, or the file of another version
        return {}
    rows = {row.defense: row for row in earlier.rows if row.defense in configs}
    unchanged = dataclasses.replace(earlier, rows=(), versions=comparison.versions) == comparison
    return {
        name: row
        for name, row in rows.items()
        if unchanged and (row.config, row.seeds) == (configs[name][0].as_dict(), tuple(c.seed for c in configs[name]))
    }


def _table_row(row: DefenseRow, on_front: bool) -> Row:
    return {
        "defense": row.defense,
        "accuracy": spread(row.accuracy, ".2f", scale=100),
        **{key: spread(values, scale=100) for key, values in row.fooling.items()},
        "λ_max": spread(row.eigenvalue, ".2g"),
        "cost": f"{row.cost:.1f}",
        "on the front": on_front,
        f"masked gradients? (seed {row.seeds[0]})": ", ".join(row.suspects) or "no sign",
        "seeds": len(row.seeds),
    }


def _mean(values: ArrayLike) -> float:
    return float(np.asarray(values, np.float64).mean())


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)
