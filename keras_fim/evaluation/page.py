"""What a page to read is made of: templates, which draw its charts, and a few attacked images; it needs no network."""

import base64
import dataclasses
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from keras_fim.attacks import lp
from keras_fim.evaluation.measurement import Outcome, measure, probabilities
from keras_fim.evaluation.plans import Plan
from keras_fim.evaluation.report import Ratio, columns, shown
from keras_fim.evaluation.rows import budget, named
from keras_fim.evaluation.sources import Chunk, joined
from keras_fim.logits import LogitsFunction
from keras_fim.typing import Bounds

_COUNT, _SIDE = 3, 160  # pictures of a kind, and how large they are at most
_KINDS = ("most fragile", "typical", "most robust")
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
    """Collects images and what attacks made of them; there are never more than nine images."""

    def __init__(self) -> None:
        self.kept: Chunk | None = None
        self.kept_scores, self.scores = np.zeros(0), np.zeros(0)
        self.views: list[dict[str, tuple[float, np.ndarray]]] = []

    def add(self, chunk: Chunk, scores: np.ndarray, views: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
        """Look at samples that the model has right.

        Args:
            chunk: The samples.
            scores: Numbers ``(n,)`` that rank them, such as radii; NaN leaves one out.
            views: What attacks made of them, by the options of the attack: see `shown_at`.
        """
        (right,) = np.nonzero(np.isfinite(scores))
        chunk, scores = chunk.take(right), scores[right]
        if chunk.images.ndim != 4 or chunk.images.shape[-1] not in (1, 3) or not len(scores):
            return
        pool = joined([chunk] if self.kept is None else [self.kept, chunk])
        self.scores, ranks = np.append(self.scores, scores), np.append(self.kept_scores, scores)
        order = np.argsort(ranks, kind="stable")
        middle = np.argsort(np.abs(ranks[order] - np.median(self.scores)), kind="stable")[:_COUNT]
        ends = np.arange(len(order))
        rows = order[np.unique(np.concatenate([ends[:_COUNT], middle, ends[-_COUNT:]]))]
        self.kept, self.kept_scores = pool.take(rows), ranks[rows]
        pairs = [*self.views, *({key: (e[row], points[row]) for key, (e, points) in views.items()} for row in right)]
        self.views = [{key: (e, point.copy()) for key, (e, point) in pairs[row].items()} for row in rows]

    def examples(self, logits_fn: LogitsFunction, plan: Plan) -> tuple[Example, ...]:
        """The images kept, from the most fragile to the most robust, under an attack.

        What it made of them is at hand, unless the figures of a chunk were kept by an earlier process or come from
        another one; then the few images are attacked again.
        """
        if self.kept is None:
            return ()
        chunk, rows, key = self.kept, np.arange(len(self.kept.labels)), repr(plan.attack)
        if all(key in view for view in self.views):
            epsilons, points = map(np.array, zip(*(view[key] for view in self.views), strict=True))
        else:
            outcome = measure(logits_fn, *plan, chunk, inspect=lambda result: result.adversarials)
            epsilons, points = shown_at(plan, chunk, outcome, rows, restored=True)
        shown = Attacked.of(logits_fn, chunk, epsilons, points, plan.attack.bounds)
        pictures, factors = shown.pictures()
        return tuple(
            Example(
                kind=_KINDS[_COUNT * row // len(rows)],
                index=int(chunk.indices[row]),
                label=int(shown.labels[row]),
                confidence=float(shown.before[row].max()),
                prediction=int(shown.after[row].argmax()),
                confidence_after=float(shown.after[row].max()),
                attack=named(plan.attack.name, lp.norm_name(plan.attack.norm), shown.epsilons[row]),
                amplification=float(factors[row]),
                pictures=tuple(map(_png, pictures[row])),
            )
            for row in rows
        )


def shown_at(
    plan: Plan, chunk: Chunk, outcome: Outcome, rows: np.ndarray, *, restored: bool
) -> tuple[np.ndarray, np.ndarray]:
    """What is shown of some rows of a chunk: the smallest ε that fools each, or else the largest, and the image there.

    Args:
        plan: The attack and its budgets.
        chunk: The samples.
        outcome: What the attack did to them; adversarials are what it has ``seen``.
        rows: Which samples.
        restored: Whether those that stand are shown without a change.

    Returns:
        ε, float ``(rows,)``, and images ``(rows, ...)``.
    """
    order, images = np.argsort(plan.epsilons, kind="stable"), chunk.images[rows]
    masks = outcome.fooled[order][:, rows]
    fooled = np.asarray(masks.any(axis=0))
    at = order[np.where(fooled, masks.argmax(axis=0), len(order) - 1)]
    seen = (outcome.seen_at(index)[row] for row, index in zip(rows, at, strict=True))
    pairs = zip(seen, images, fooled, strict=True)
    shown = np.array([changed if hit or not restored else image for changed, image, hit in pairs])
    return np.asarray(plan.epsilons)[at], shown.reshape(images.shape)


class Attacked(NamedTuple):
    """A few images, attacked at the smallest ε that fools them, or else at the largest.

    Attributes:
        images: ``(n, ...)``.
        adversarials: ``(n, ...)``.
        epsilons: Float ``(n,)``.
        labels: Int ``(n,)``, the true classes.
        before: The probabilities ``(n, K)`` of ``images``.
        after: The probabilities ``(n, K)`` of ``adversarials``.
        bounds: The smallest and the largest pixel value.
    """

    images: np.ndarray
    adversarials: np.ndarray
    epsilons: np.ndarray
    labels: np.ndarray
    before: np.ndarray
    after: np.ndarray
    bounds: Bounds

    @classmethod
    def of(
        cls, logits_fn: LogitsFunction, chunk: Chunk, epsilons: np.ndarray, adversarials: np.ndarray, bounds: Bounds
    ) -> "Attacked":
        """The samples of a chunk, and what `shown_at` shows of them."""
        pair, none = (chunk.images, adversarials), np.zeros((0, 1))
        before, after = (probabilities(logits_fn, batch) if len(batch) else none for batch in pair)
        return cls(*pair, epsilons, chunk.labels, before, after, bounds)

    def pictures(self) -> tuple[np.ndarray, np.ndarray]:
        """The image, the difference about gray and the attacked image, and how much the difference is amplified.

        Returns:
            ``(n, 3, height, width, channels)`` in [0, 1], and ``(n,)``, 0 where nothing has changed;
            the largest change is black or white.
        """
        low, high = map(np.asarray, self.bounds)
        pair = np.asarray(self.images, np.float64), np.asarray(self.adversarials, np.float64)
        unit, changed = ((images - low) / (high - low) for images in pair)
        largest = np.abs(changed - unit).max(axis=(1, 2, 3))
        factors = np.divide(0.5, largest, out=np.zeros(len(largest)), where=largest > 0)
        difference = 0.5 + factors[:, None, None, None] * (changed - unit)
        return np.clip(np.stack([unit, difference, changed], axis=1), 0, 1), factors


def _png(image: np.ndarray) -> str:
    """An image ``(height, width, 1 or 3)`` in [0, 1], not larger than `_SIDE`, as a PNG file in Base64."""
    pixels = np.rint(255 * image).astype(np.uint8)
    picture, file = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels), io.BytesIO()
    picture.thumbnail((_SIDE, _SIDE))
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def rendered(template: str, **values: Any) -> str:
    """A template with its values filled in, without a line break at its end; HTML is escaped in HTML alone."""
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).with_name("templates"))
    escape = jinja2.select_autoescape(["html"])
    environment = jinja2.Environment(loader=loader, autoescape=escape, trim_blocks=True, lstrip_blocks=True)
    environment.globals |= {"shown": shown, "budget": budget, "columns": columns, "axis": axis}
    return environment.get_template(template).render(values).rstrip("\n")


def axis(ratios: list[Ratio]) -> dict[str, Any]:
    """Ends and ticks in % that leave room for the intervals."""
    low, high = 100 * min(ratio.low for ratio in ratios), 100 * max(ratio.high for ratio in ratios)
    step = next((step for step in _STEPS if high - low <= 6 * step), 25)
    first, last = math.floor(low / step), math.ceil(high / step)
    return {"low": first * step, "high": last * step, "ticks": [step * tick for tick in range(first, last + 1)]}
