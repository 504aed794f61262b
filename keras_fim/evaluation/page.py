"""Evaluations as one page to read: HTML with its charts and a few attacked images inside, which needs no network."""

from __future__ import annotations

import base64
import collections
import dataclasses
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from keras_fim.attacks import Attack
from keras_fim.attacks.lp import norm_name
from keras_fim.evaluation.distances import DistanceSummary
from keras_fim.evaluation.measurement import measure, probabilities
from keras_fim.evaluation.report import Ratio, columns, share, shown
from keras_fim.evaluation.rows import budget, named
from keras_fim.evaluation.sources import Chunk, joined
from keras_fim.logits import LogitsFunction

if TYPE_CHECKING:
    from keras_fim.evaluation.result import Evaluation
    from keras_fim.evaluation.side_by_side import SideBySide
    from keras_fim.evaluation.smoothing import CertifiedAccuracy

_COUNT, _SIDE = 3, 160  # pictures of a kind, and how large they are at most
_KINDS = ("most fragile", "typical", "most robust")
_BINS, _CONFUSIONS = 20, 10
_STEPS = (0.5, 1, 2, 5, 10, 20)  # of the ticks of an axis in %


@dataclasses.dataclass(frozen=True)
class Example:
    """An image and what an attack makes of it, at the smallest ε that fools it, or the largest if none does.

    Attributes:
        kind: ``"most fragile"``, ``"typical"`` or ``"most robust"``, by the boundary radius or else the confidence.
        index: The position in the dataset.
        label: The true class, which the model predicts.
        confidence: Its probability.
        prediction: The class after the attack.
        confidence_after: Its probability.
        attack: The attack, with its norm and ε.
        amplification: The factor by which the difference is shown larger than it is; 0 if there is none.
        pictures: The image, the difference about gray, and the attacked image: PNG files in Base64.
    """

    kind: str
    index: int
    label: int
    confidence: float
    prediction: int
    confidence_after: float
    attack: str
    amplification: float
    pictures: tuple[str, ...] = dataclasses.field(repr=False)


class Gallery:
    """Collects images; there are never more than nine of them."""

    def __init__(self) -> None:
        self.kept: Chunk | None = None
        self.kept_scores, self.scores = np.zeros(0), np.zeros(0)

    def add(self, chunk: Chunk, scores: np.ndarray) -> None:
        """Look at samples that the model has right; the score, such as a radius, ranks them, NaN leaves one out."""
        chunk, scores = chunk.take(np.isfinite(scores)), scores[np.isfinite(scores)]
        if chunk.images.ndim != 4 or chunk.images.shape[-1] not in (1, 3) or not len(scores):
            return
        pool = joined([chunk] if self.kept is None else [self.kept, chunk])
        self.scores, ranks = np.append(self.scores, scores), np.append(self.kept_scores, scores)
        order = np.argsort(ranks, kind="stable")
        middle = np.argsort(np.abs(ranks[order] - np.median(self.scores)), kind="stable")[:_COUNT]
        ends = np.arange(len(order))
        rows = order[np.unique(np.concatenate([ends[:_COUNT], middle, ends[-_COUNT:]]))]
        self.kept, self.kept_scores = pool.take(rows), ranks[rows]

    def examples(self, logits_fn: LogitsFunction, attack: Attack, epsilons: Sequence[float]) -> tuple[Example, ...]:
        """The images kept, attacked, from the most fragile to the most robust."""
        if self.kept is None:
            return ()
        chunk, budgets, rows = self.kept, sorted(epsilons), range(len(self.kept.labels))
        outcome = measure(logits_fn, attack, budgets, chunk, inspect=lambda result: result.adversarials)
        fooled = np.asarray(outcome.fooled.any(axis=0))
        at = np.where(fooled, outcome.fooled.argmax(axis=0), len(budgets) - 1)
        attacked = np.stack([outcome.seen_at(at[row])[row] if fooled[row] else chunk.images[row] for row in rows])
        before, after = (probabilities(logits_fn, images) for images in (chunk.images, attacked))
        low, high = map(np.asarray, attack.bounds)
        unit, changed = ((np.asarray(images, np.float64) - low) / (high - low) for images in (chunk.images, attacked))
        largest = np.abs(changed - unit).max(axis=(1, 2, 3))
        factor = np.divide(0.5, largest, out=np.zeros(len(at)), where=largest > 0)
        difference = 0.5 + factor[:, None, None, None] * (changed - unit)
        pictures = [[_png(row) for row in images] for images in (unit, difference, changed)]
        names = [named(attack.name, norm_name(attack.norm), budgets[position]) for position in at]
        kinds = [_KINDS[_COUNT * row // len(rows)] for row in rows]
        columns = kinds, chunk.indices, chunk.labels, before.max(axis=-1), after.argmax(axis=-1), after.max(axis=-1)
        plain = [column.tolist() if isinstance(column, np.ndarray) else column for column in (*columns, names, factor)]
        return tuple(map(Example, *plain, zip(*pictures, strict=True)))


def _png(image: np.ndarray) -> str:
    """An image ``(height, width, 1 or 3)`` in [0, 1], not larger than `_SIDE`, as a PNG file in Base64."""
    pixels = np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)
    picture, file = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels), io.BytesIO()
    picture.thumbnail((_SIDE, _SIDE))
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def page(evaluation: Evaluation) -> str:
    """The report of an evaluation.

    Args:
        evaluation: The result.

    Returns:
        HTML, in which names of models and classes are escaped.
    """
    rows, accuracy, certified = evaluation.rows, evaluation.accuracy, evaluation.certified
    several = len({row.options for row in rows}) > len({row.attack for row in rows})
    ascending = sorted(rows, key=lambda row: row.epsilon)
    values: dict[str, Any] = {
        "rows": [(row.options if several else row.attack, accuracy, row) for row in ascending],
        "certified": _certified(certified) if certified else None,
        "histograms": [(summary, _histogram(summary)) for summary in evaluation.distances],
        "classes": _by_class(evaluation, evaluation.strongest),
        "confusions": _confusions(evaluation),
    }
    return _rendered("report.html", result=evaluation, **values)


def comparison_page(results: SideBySide) -> str:
    """The report of several evaluations side by side, as `page`."""
    rows = [(model.model, model.accuracy, model.strongest[key]) for key in results.budgets for model in results.results]
    same = len({model.digests["data"] for model in results.results}) == 1  # only then can classes be compared
    classes = list(zip(*(_by_class(model, [results.headline]) for model in results.results if same), strict=False))
    return _rendered("side_by_side.html", comparison=results, rows=rows, classes=classes)


def _rendered(template: str, **values: Any) -> str:
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).with_name("templates"))
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.globals |= {"shown": shown, "budget": budget, "columns": columns, "axis": axis}
    return str(environment.get_template(template).render(values))


def _certified(certified: CertifiedAccuracy) -> list[tuple[str, Ratio, dict[str, Any]]]:
    """The points of the chart of certified accuracy, as those of attacks."""
    name, pairs = f"smoothed, σ = {certified.sigma:g}", zip(certified.radii, certified.accuracy, strict=True)
    return [(name, certified.accuracy[0], {"epsilon": radius, "robust": ratio}) for radius, ratio in pairs]


def axis(ratios: list[Ratio]) -> dict[str, Any]:
    """Ends and ticks in % that leave room for the intervals."""
    low, high = 100 * min(ratio.low for ratio in ratios), 100 * max(ratio.high for ratio in ratios)
    step = next((step for step in _STEPS if high - low <= 6 * step), 25)
    first, last = math.floor(low / step), math.ceil(high / step)
    return {"low": first * step, "high": last * step, "ticks": [step * tick for tick in range(first, last + 1)]}


def _by_class(evaluation: Evaluation, budgets: Iterable[tuple[str, float]]) -> list[tuple[int, list[Ratio]]]:
    """For each class the accuracy without an attack, and under the strongest one at each norm and ε."""
    if (samples := evaluation.samples) is None:
        return []
    labels, right = np.array(samples.label), np.array(samples.label) == np.array(samples.prediction)
    standing = [right & (samples.wrong_classes(evaluation.strongest[key]) < 0) for key in budgets]
    classes = np.unique(labels).tolist()
    return [(label, [share(mask, labels == label) for mask in (right, *standing)]) for label in classes]


def _confusions(evaluation: Evaluation) -> list[tuple[tuple[int, int], int]]:
    """The true and the wrong class that the attack of the headline most often turns it into, and how often."""
    if (samples := evaluation.samples) is None:
        return []
    labels, wrong = np.array(samples.label), samples.wrong_classes(evaluation.headline)
    pairs = zip(labels[wrong >= 0].tolist(), wrong[wrong >= 0].tolist(), strict=True)
    return collections.Counter(pairs).most_common(_CONFUSIONS)


def _histogram(summary: DistanceSummary) -> list[tuple[float, float, int]]:
    """Lower end, upper end and number of images of each bin of the distances to the nearest adversarials."""
    distances = np.array(summary.distances)[summary.success]
    counts, edges = np.histogram(distances, _BINS, (0, distances.max() if len(distances) else 1))
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True))
