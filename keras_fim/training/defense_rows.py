"""The figures of defenses side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from keras_fim.evaluation.report import Report, Row
from keras_fim.evaluation.side_by_side import pareto_front
from keras_fim.plots import defenses_figure
from keras_fim.records import versions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STRONG = "strong "  # the labels of the strongest attack begin so


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
        strong = [mean(values) for key, values in self.fooling.items() if key.startswith(_STRONG)]
        return [1 - mean(self.accuracy), *strong, round(self.cost, 1)]


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
        records = []
        for row in self.rows:
            for index, seed in enumerate(row.seeds):
                record = {"defense": row.defense, "seed": seed, "accuracy": row.accuracy[index]}
                record |= {f"{key} fooling": values[index] for key, values in row.fooling.items()}
                record |= {f"{key} robust": values[index] for key, values in row.robust.items()}
                records.append({**record, "eigenvalue": row.eigenvalue[index], "cost": row.cost})
        return records

    def front(self) -> list[str]:
        """The Pareto front: no other defense is as good in all of `DefenseRow.objectives` and better in one."""
        return pareto_front({row.defense: row.objectives() for row in self.rows})

    def figure(self) -> Figure:
        """Accuracy against robust accuracy under the strongest attack, at the smallest ε of each norm."""
        strong = [key for key in self.rows[0].robust if key.startswith(_STRONG)]
        panels = {
            key: {row.defense: (mean(row.accuracy), mean(row.robust[key]), row.cost) for row in self.rows}
            for key in {key.split()[1]: key for key in reversed(strong)}.values()
        }
        return defenses_figure(panels, self.front())


def spread(values: Sequence[float], form: str = ".1f", *, scale: float = 1.0) -> str:
    """The mean and range of a figure over seeds, such as ``12.3 (11.9-12.8)``; a single value alone."""
    numbers: Any = np.asarray(values, float) * scale
    mean, low, high = (format(float(value), form) for value in (numbers.mean(), numbers.min(), numbers.max()))
    return mean if len(numbers) == 1 else f"{mean} ({low}-{high})"


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


def mean(values: ArrayLike) -> float:
    """The mean in float64."""
    return float(np.asarray(values, np.float64).mean())
