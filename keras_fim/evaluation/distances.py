"""How far the nearest adversarials are that an attack finds."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_fim.arguments import checked, expect
from keras_fim.attacks import Attack, MinimalDistance, MinimalDistanceAttack, attack_by_name
from keras_fim.attacks.lp import NORMS, norm_name
from keras_fim.evaluation import measurement, report
from keras_fim.logits import logits_function
from keras_fim.metrics import in_convention, mean_distance, median_distance, standing_distances
from keras_fim.typing import Images, Labels, Model
from keras_fim.validation import check_images

_QUANTILES, _BINS = (0.1, 0.25, 0.5, 0.75, 0.9), 20


@dataclasses.dataclass(frozen=True)
class DistanceSummary(report.Report):
    """Distances to the nearest adversarials that an attack found, over the originally correct samples.

    Attributes:
        attack: the attack's name.
        options: the attack's options, as its ``repr`` shows them.
        norm: ``"l0"``, ``"l1"``, ``"l2"`` or ``"linf"``.
        size: number of values in an image.
        bounds: smallest and largest pixel value.
        distances: of every sample: inf where the attack failed, 0 for samples that were wrong before.
        was_correct: of every sample: classified correctly before the attack.
    """

    attack: str
    options: str
    norm: str
    size: int
    bounds: tuple[float, ...]
    distances: tuple[float, ...] = dataclasses.field(repr=False)
    was_correct: tuple[bool, ...] = dataclasses.field(repr=False)

    @property
    def success(self) -> np.ndarray:
        """Bool ``(batch,)``: correct before, and an adversarial was found."""
        return np.asarray(np.array(self.was_correct, bool) & np.isfinite(self.distances))

    @property
    def num_samples(self) -> int:
        """Number of samples."""
        return len(self.was_correct)

    @property
    def num_correct(self) -> int:
        """Number of originally correct samples."""
        return int(np.sum(self.was_correct))

    @property
    def median(self) -> float:
        """Median over the originally correct samples; a failed attack counts as inf."""
        return median_distance(self.distances, self.success, self.was_correct)

    @property
    def mean(self) -> float:
        """Mean over the successes; read it with `success_share`."""
        return mean_distance(self.distances, self.success, self.was_correct)[0]

    @property
    def foolbox_mean(self) -> float:
        """Mean over the successes of what Foolbox 0.x calls the distance (`keras_fim.metrics.in_convention`)."""
        return mean_distance(self.in_convention("foolbox"), self.success, self.was_correct)[0]

    @property
    def success_share(self) -> report.Ratio:
        """Share of originally correct samples for which an adversarial was found."""
        return report.share(self.success, self.was_correct)

    @property
    def quantiles(self) -> dict[str, float]:
        """Quantiles over the originally correct samples, each the distance of one of them; failures count as inf."""
        values = standing_distances(self.distances, self.success, self.was_correct)
        values = values if len(values) else np.array([math.nan])
        return {f"{q:g}": float(np.quantile(values, q, method="inverted_cdf")) for q in _QUANTILES}

    @property
    def histogram(self) -> list[tuple[float, float, int]]:
        """The lower end, the upper end and the number of images of bins of the successes' distances."""
        distances = np.array(self.distances)[self.success]
        counts, edges = np.histogram(distances, _BINS, (0, distances.max() if len(distances) else 1))
        return list(zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True))

    def in_convention(self, convention: str) -> np.ndarray:
        """The distances as ``convention``, ``"norm"`` or ``"foolbox"``, reports them; float64 ``(batch,)``."""
        bounds: Any = self.bounds
        return in_convention(self.distances, NORMS[self.norm], self.size, convention=convention, bounds=bounds)

    def interval(self, statistic: str = "median", *, convention: str = "norm", **options: Any) -> report.Interval:
        """The median or the mean with its bootstrap interval.

        Args:
            statistic: ``"median"`` (failures count as inf) or ``"mean"`` (over the successes).
            convention: ``"norm"`` or ``"foolbox"``.
            **options: of `keras_fim.evaluation.bootstrap`.

        Returns:
            `Interval`; NaN if no sample was correct.

        Raises:
            ValueError: if an option is not valid.
        """
        expect(statistic in _STATISTICS, "statistic", "median or mean", statistic)
        columns = self.in_convention(convention), self.success, self.was_correct
        return report.bootstrap(_STATISTICS[statistic], *columns, **options)

    def tables(self) -> dict[str, list[report.Row]]:
        """A row: attack, median, mean over successes, their share, Foolbox' mean."""
        intervals = {"median": self.interval("median"), "mean of successes": self.interval("mean")}
        row = {"attack": self.attack, "norm": self.norm, **intervals, "successes": self.success_share}
        return {"": [{**row, "mean, Foolbox 0.x": self.foolbox_mean}]}

    def records(self) -> list[dict[str, Any]]:
        """The row with the quantiles."""
        (record,) = super().records()
        return [{**record, **{f"quantile {q}": value for q, value in self.quantiles.items()}}]


@checked
def minimal_distances(model: Model, images: Images, labels: Labels, attack: Attack | str) -> DistanceSummary:
    """Measure how far the nearest adversarials are that an attack finds.

    Args:
        model: any classifier that `keras_fim.logits.logits_function` takes.
        images: ``(batch, ...)`` within the attack's bounds.
        labels: the true classes, ``(batch,)`` or one-hot.
        attack: an attack or its name; one with a budget is searched for its smallest ε (`attacks.MinimalDistance`).

    Returns:
        `DistanceSummary`.

    Raises:
        ValueError: as the attack.

    Example:
        >>> model = logits_function(lambda x: x @ [[1.0, -1.0]] - [[0.5, -0.5]], from_logits=True)
        >>> found = minimal_distances(model, [[0.6], [0.8], [0.3]], [0, 0, 0], "fgsm")  # the last is wrong before
        >>> round(found.median, 2), found.num_correct, found.success_share.value
        (0.2, 2, 1.0)
    """
    attack = searching(attack_by_name(attack))
    given = check_images(images)
    outcome = measurement.measured(logits_function(model, given), attack, [np.inf], (images, labels))
    return distance_summary(attack, outcome, tuple(given.shape[1:]))


def searching(attack: Any) -> MinimalDistanceAttack:
    """``attack`` if it looks for the nearest adversarial, else a search over its ε, which has to be an option."""
    return attack if isinstance(attack, MinimalDistanceAttack) else MinimalDistance(attack)


def distance_summary(attack: Attack, outcome: measurement.Outcome, shape: Sequence[int]) -> DistanceSummary:
    """What an attack found that looks for the nearest adversarial, on images of a shape."""
    columns = (tuple(column.tolist()) for column in (outcome.distances, outcome.was_correct))
    return DistanceSummary(attack.name, repr(attack), norm_name(attack.norm), math.prod(shape), attack.bounds, *columns)


_STATISTICS: dict[str, Any] = {"median": median_distance, "mean": lambda *columns: mean_distance(*columns)[0]}
