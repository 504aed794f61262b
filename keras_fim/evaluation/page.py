"""Evaluations as one page to read: HTML with its pictures inside, which needs no network."""

from __future__ import annotations

import collections
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_fim.evaluation.distances import DistanceSummary
from keras_fim.evaluation.intervals import Ratio, wilson
from keras_fim.evaluation.report import shown
from keras_fim.evaluation.rows import AttackRow, budget

if TYPE_CHECKING:
    from keras_fim.evaluation.result import Evaluation
    from keras_fim.evaluation.side_by_side import SideBySide
    from keras_fim.evaluation.smoothing import CertifiedAccuracy

_BINS, _CONFUSIONS = 20, 10
_STEPS = (0.5, 1, 2, 5, 10, 20)  # of the ticks of an axis in %


def page(evaluation: Evaluation) -> str:
    """The report of an evaluation.

    Args:
        evaluation: The result.

    Returns:
        HTML, in which names of models and classes are escaped.
    """
    rows = evaluation.rows
    several = len({row.options for row in rows}) > len({row.attack for row in rows})
    lines = collections.defaultdict(list)
    for row in sorted(rows, key=lambda row: row.epsilon):
        lines[row.norm, row.options if several else row.attack].append(row)
    return _rendered(
        "report.html",
        result=evaluation,
        charts=_charts({key: (evaluation.accuracy, line) for key, line in lines.items()}),
        certified=_certified(evaluation.certified) if evaluation.certified else None,
        histograms=[(summary, _histogram(summary)) for summary in evaluation.distances],
        called=_named(evaluation),
        **_by_class(evaluation),
    )


def comparison_page(results: SideBySide) -> str:
    """The report of several evaluations side by side, as `page`."""
    lines = {
        (norm, result.model): (result.accuracy, [result.strongest[key] for key in results.budgets if key[0] == norm])
        for norm in dict.fromkeys(norm for norm, _ in results.budgets)
        for result in results.results
    }
    return _rendered(
        "side_by_side.html",
        comparison=results,
        charts=_charts(lines),
        scatters=[_scatter(results, *key) for key in results.budgets],
        called={result.model: _named(result) for result in results.results},
        classes=_classes_side_by_side(results),
    )


def _rendered(template: str, **values: Any) -> str:
    import jinja2

    folder = Path(__file__).with_name("templates")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals |= {"shown": shown, "budget": budget}
    text: str = environment.get_template(template).render(values)
    return text


def _named(evaluation: Evaluation) -> Any:
    names = evaluation.class_names
    return lambda index: names[index] if index < len(names) else str(index)


def _charts(lines: dict[tuple[str, str], tuple[Ratio, list[AttackRow]]]) -> dict[str, dict[str, Any]]:
    """By norm the largest ε, and by name the points of each line: ε, share of correct images, and what to say of it."""
    charts: dict[str, dict[str, Any]] = {}
    for (norm, name), (accuracy, rows) in sorted(lines.items(), key=lambda item: item[0][0]):
        chart = charts.setdefault(norm, {"norm": norm, "largest": 0.0, "lines": {}})
        chart["largest"] = max(chart["largest"], *(row.epsilon for row in rows))
        points = [(row.epsilon, row.robust, f"{row.attack}, ε = {budget(row.epsilon)}") for row in rows]
        chart["lines"][name] = [(0.0, accuracy, "no attack"), *points]
    return charts


def _certified(certified: CertifiedAccuracy) -> dict[str, Any]:
    """As one of `_charts`."""
    points = [
        (radius, ratio, f"radius {radius:.3g}")
        for radius, ratio in zip(certified.radii, certified.accuracy, strict=True)
    ]
    return {"norm": "l2", "largest": certified.radii[-1], "lines": {f"smoothed, σ = {certified.sigma:g}": points}}


def _scatter(results: SideBySide, norm: str, epsilon: float) -> dict[str, Any]:
    """Clean against robust accuracy: an axis each, a point for each model, and the Pareto front as a line, in %."""
    points = {r.model: (r.accuracy, r.strongest[norm, epsilon].robust) for r in results.results}
    across, up = (_axis([point[place] for point in points.values()]) for place in (0, 1))
    front = sorted(results.front(norm, epsilon), key=lambda name: points[name][0].value)
    stairs = [[100 * ratio.value for ratio in points[name]] for name in front]
    left = [across["low"], *(x for x, _ in stairs)]
    corners = [pair for x, (right, y) in zip(left, stairs, strict=False) for pair in ((x, y), (right, y))]
    corners.append((stairs[-1][0], up["low"]))
    return {
        "norm": norm,
        "epsilon": epsilon,
        "points": points,
        "front": front,
        "corners": corners,
        "axes": (across, up),
    }


def _axis(ratios: list[Ratio]) -> dict[str, Any]:
    """Ends and ticks in % that leave room for the intervals."""
    low, high = 100 * min(ratio.low for ratio in ratios), 100 * max(ratio.high for ratio in ratios)
    step = next((step for step in _STEPS if high - low <= 6 * step), 25)
    first, last = math.floor(low / step), math.ceil(high / step)
    return {"low": first * step, "high": last * step, "ticks": [step * tick for tick in range(first, last + 1)]}


def _by_class(evaluation: Evaluation) -> dict[str, Any]:
    """Accuracy by class without and with the strongest attacks, and the confusions under the attack of the headline."""
    samples = evaluation.samples
    if samples is None:
        return {"classes": [], "confusions": []}
    labels, right = np.array(samples.label), np.array(samples.label) == np.array(samples.prediction)
    standing = [right & (samples.wrong_classes(row) < 0) for row in evaluation.strongest.values()]
    wrong = samples.wrong_classes(evaluation.headline)
    pairs = collections.Counter(zip(labels[wrong >= 0].tolist(), wrong[wrong >= 0].tolist(), strict=True))
    classes = [
        (label, [wilson(int(rows[labels == label].sum()), int((labels == label).sum())) for rows in (right, *standing)])
        for label in np.unique(labels).tolist()
    ]
    return {"classes": classes, "confusions": pairs.most_common(_CONFUSIONS)}


def _classes_side_by_side(results: SideBySide) -> list[tuple[int, list[tuple[Ratio, Ratio]]]]:
    """For each class and model the accuracy without an attack and at the headline's budget; only of the same images."""
    if len({result.digests["data"] for result in results.results}) > 1:
        return []
    columns = []
    for result in results.results:
        place = 1 + list(result.strongest).index(results.headline)
        columns.append({label: (ratios[0], ratios[place]) for label, ratios in _by_class(result)["classes"]})
    return [(label, [column[label] for column in columns]) for label in columns[0]] if all(columns) else []


def _histogram(summary: DistanceSummary) -> list[tuple[float, float, int]]:
    """Lower end, upper end and number of images of each bin of the distances to the nearest adversarials."""
    distances = np.array(summary.distances)[summary.success]
    counts, edges = np.histogram(distances, _BINS, (0, distances.max() if len(distances) else 1))
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True))
