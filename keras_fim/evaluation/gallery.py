"""A few images to look at, kept on the way through a dataset: the most fragile, typical and the most robust ones."""

import base64
import dataclasses
import io
from collections.abc import Sequence

import numpy as np

from keras_fim.attacks.base import Attack
from keras_fim.attacks.lp import norm_name
from keras_fim.evaluation.measurement import measure, probabilities
from keras_fim.evaluation.rows import named
from keras_fim.evaluation.sources import Chunk
from keras_fim.logits import LogitsFunction

_COUNT, _SIDE = 3, 160  # pictures of a kind, and how large they are at most
_KINDS = ("most fragile", "typical", "most robust")


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
        pool = chunk if self.kept is None else Chunk(*map(np.concatenate, zip(self.kept, chunk, strict=True)))
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
    from PIL import Image

    pixels = np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)
    picture, file = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels), io.BytesIO()
    picture.thumbnail((_SIDE, _SIDE))
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
