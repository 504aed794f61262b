"""An evaluation as one page to read: HTML with its pictures inside, which needs no network."""

from __future__ import annotations

import collections
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_fim.evaluation.distances import DistanceSummary
from keras_fim.evaluation.intervals import wilson
from keras_fim.evaluation.report import shown
from keras_fim.evaluation.rows import budget

if TYPE_CHECKING:
    from keras_fim.evaluation.result import Evaluation

_BINS, _CONFUSIONS = 20, 10


def page(evaluation: Evaluation) -> str:
    """The report of an evaluation.

    Args:
        evaluation: The result.

    Returns:
        HTML, in which names of models and classes are escaped.
    """
    import jinja2

    folder, names = Path(__file__).with_name("templates"), evaluation.class_names
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    text: str = environment.get_template("report.html").render(
        result=evaluation,
        called=lambda index: names[index] if index < len(names) else str(index),
        shown=shown,
        budget=budget,
        histograms=[(summary, _histogram(summary)) for summary in evaluation.distances],
        **_by_class(evaluation),
    )
    return text


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


def _histogram(summary: DistanceSummary) -> list[tuple[float, float, int]]:
    """Lower end, upper end and number of images of each bin of the distances to the nearest adversarials."""
    distances = np.array(summary.distances)[summary.success]
    counts, edges = np.histogram(distances, _BINS, (0, distances.max() if len(distances) else 1))
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True))
