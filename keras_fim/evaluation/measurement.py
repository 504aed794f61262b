"""The measurement: what an attack does to a chunk of samples, figure by figure. Everything else calls it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_fim.attacks.base import Attack
from keras_fim.attacks.kinds import MinimalDistanceAttack
from keras_fim.evaluation.sources import Chunk
from keras_fim.logits import LogitsFunction
from keras_fim.typing import AttackResult

_MEMORY, _COPIES = 2**30, 256  # bytes; how often a model is assumed to hold an image on the way to its gradient


class Outcome(NamedTuple):
    """What an attack does to n samples at e budgets: figures, no images.

    Attributes:
        was_correct: Bool ``(n,)``: classified correctly before the attack, and not of the class that it aims at.
        fooled: Bool ``(e, n)``: correct before and misclassified now, which one more call of the model confirmed; with
            a target, classified as the target.
        unconfirmed: Bool ``(e, n)``: misclassified according to the attack, but not when the model was called again.
        distances: Float64 ``(n,)``, of the nearest confirmed adversarial: inf without one, 0 if wrong before, NaN if
            the sample is of the class that the attack aims at and was left out.
        taken_for: Int64 ``(e, n)``, the class that the model gave to a sample when it was fooled; -1 for the others.
        stages: Int64 ``(e, n)``, the stage of `keras_fim.attacks.Strong` or `AutoAttack` that fooled a sample; -1, -2
            or -3 for none, as in `keras_fim.attacks.staged.StagedAttack`.
        seconds: The time that it took.
        seen: What ``inspect`` returned for each result of the attack; never stored.
    """

    was_correct: np.ndarray
    fooled: np.ndarray
    unconfirmed: np.ndarray
    distances: np.ndarray
    taken_for: np.ndarray
    stages: np.ndarray
    seconds: float
    seen: Sequence[Any] = ()

    @classmethod
    def joined(cls, parts: Iterable[Outcome]) -> Outcome:
        """The outcomes of several chunks as one; arrays that were ``seen`` are joined as well."""
        *arrays, seconds, seen = zip(*parts, strict=True)
        joined = [np.concatenate(column) for column in zip(*seen, strict=True)]
        return cls._make([*(np.concatenate(column, axis=-1) for column in arrays), sum(seconds), joined])

    def seen_at(self, position: int) -> Any:
        """What was seen at a budget; of a search it is the same at all of them."""
        return self.seen[min(position, len(self.seen) - 1)]


def measure(
    logits_fn: LogitsFunction,
    attack: Attack,
    epsilons: Sequence[float],
    chunk: Chunk,
    *,
    inspect: Callable[[AttackResult], Any] | None = None,
) -> Outcome:
    """Attack a chunk at each ε, and see whether each success fools the model once more.

    Args:
        logits_fn: The classifier.
        attack: The attack. One that looks for the nearest adversarial searches once.
        epsilons: The budgets, in the attack's norm.
        chunk: The samples.
        inspect: Called with each result of the attack, whose ``success`` holds confirmed ones only, before its images
            are dropped: one for each ε, or the one of a search.

    Returns:
        `Outcome`.

    Raises:
        ValueError: As the attack.
    """
    begin = time.perf_counter()
    searching = isinstance(attack, MinimalDistanceAttack)
    asked = [np.inf] if searching else list(epsilons)
    results = attack.sweep(logits_fn, chunk.images, chunk.labels, asked, indices=chunk.indices)
    taken_for = [_taken_for(logits_fn, result, chunk.labels, attack.confirmations) for result in results]
    confirmed = [classes >= 0 for classes in taken_for]
    near = [np.where(kept, result.distances, np.inf) for kept, result in zip(confirmed, results, strict=True)]
    left_out = results[0].details.get("target", np.full(len(chunk.labels), -1)) == chunk.labels
    distances = np.where(results[0].was_correct, np.min(near, axis=0), np.where(left_out, np.nan, 0.0))
    claimed = [result.success for result in results]
    if searching:
        claimed = [claimed[0] & (results[0].distances <= epsilon) for epsilon in epsilons]
        fooled = np.array([confirmed[0] & (distances <= epsilon) for epsilon in epsilons])
    else:
        fooled = np.array(confirmed)
    stages = np.array([np.broadcast_to(result.details.get("stage", -1), distances.shape) for result in results])
    return Outcome(
        was_correct=results[0].was_correct,
        fooled=fooled,
        unconfirmed=np.array(claimed) & ~fooled,
        distances=distances,
        taken_for=np.where(fooled, np.array(taken_for), -1),
        stages=np.where(fooled, stages, np.minimum(stages, -1)).astype(np.int64),
        seconds=time.perf_counter() - begin,
        seen=[inspect(r._replace(success=c)) for r, c in zip(results, confirmed, strict=True)] if inspect else [],
    )


def probabilities(logits_fn: LogitsFunction, images: Any, *, batch_size: int = 256) -> np.ndarray:
    """Predicted probabilities.

    Args:
        logits_fn: The classifier.
        images: ``(n, ...)``, at least one.
        batch_size: The number of images worked on at a time.

    Returns:
        ``(n, K)``.
    """
    found: np.ndarray = logits_fn.in_batches(_softmax, images, batch_size=batch_size)
    return found


def fits_memory(shape: Sequence[int], *, copies: int = _COPIES, largest: int = 128) -> int:
    """The number of images of a shape to work on at a time, so that they take at most 1 GiB.

    Args:
        shape: The shape of an image.
        copies: How often an image is held as float32, here as often as a deep network does for its gradient.
        largest: The largest number to return.

    Returns:
        From 1 to ``largest``.

    Example:
        >>> fits_memory((32, 32, 3)), fits_memory((224, 224, 3))
        (128, 6)
    """
    return int(max(1, min(largest, _MEMORY // max(1, 4 * int(np.prod(shape)) * copies))))


def _taken_for(logits_fn: LogitsFunction, result: AttackResult, labels: np.ndarray, calls: int) -> np.ndarray:
    """The wrong class of each success that fools the model called as its user calls it, else -1; int64 ``(n,)``.

    Of several ``calls``, the class that the model gives most often.
    """
    (where,) = np.nonzero(result.success)
    taken_for = np.full(len(labels), -1, np.int64)
    if len(where):
        outputs = np.stack([logits_fn.in_batches(_outputs, result.adversarials[where]) for _ in range(calls)])
        votes = np.eye(outputs.shape[-1], dtype=int)[outputs.argmax(axis=-1)].sum(axis=0)
        classes, targets = votes.argmax(axis=-1), result.details.get("target")
        hit = classes != labels[where] if targets is None else classes == targets[where]
        taken_for[where] = np.where(np.isfinite(outputs).all(axis=(0, -1)) & hit, classes, -1)
    return taken_for


def _outputs(logits_fn: LogitsFunction, images: tf.Tensor) -> tf.Tensor:
    """What the model itself returns, probabilities perhaps; its logits where that is not a row of classes."""
    outputs = logits_fn.called(images)
    rows = tf.is_tensor(outputs) and outputs.shape.rank == 2 and outputs.shape[-1] > 1
    return outputs if rows else logits_fn(images)


def _softmax(logits_fn: LogitsFunction, images: tf.Tensor) -> tf.Tensor:
    return tf.nn.softmax(logits_fn(images))
