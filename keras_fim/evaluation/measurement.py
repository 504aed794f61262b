"""The measurement: what an attack does to a chunk of samples, figure by figure, and how a model does without one."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import tensorflow as tf

from keras_fim.arguments import checked
from keras_fim.attacks import Attack, MinimalDistanceAttack
from keras_fim.evaluation.sources import Chunk, Dataset, chunks
from keras_fim.logits import LogitsFunction, classes_of, logits_function, predict_logits, predict_outputs
from keras_fim.typing import AttackResult, Images, Labels, Model
from keras_fim.validation import check_images, check_labels

_MEMORY, _COPIES = 2**30, 256  # bytes; how often a model is assumed to hold an image on the way to its gradient


Inspect: TypeAlias = Callable[[AttackResult], Any] | None


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
    def joined(cls, parts: "Iterable[Outcome]") -> "Outcome":
        """The outcomes of several chunks as one; arrays ``(n,)`` that were ``seen`` are joined as well."""
        return cls(**joined([part._asdict() for part in parts]))

    def seen_at(self, position: int) -> Any:
        """What was seen at a budget; of a search it is the same at all of them."""
        return self.seen[min(position, len(self.seen) - 1)]


def measure(
    logits_fn: LogitsFunction, attack: Attack, epsilons: Sequence[float], chunk: Chunk, *, inspect: Inspect = None
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
    stages = np.where(fooled, stages, np.minimum(stages, -1)).astype(np.int64)
    figures = fooled, np.array(claimed) & ~fooled, distances, np.where(fooled, np.array(taken_for), -1), stages
    seconds = time.perf_counter() - begin
    pairs = zip(results, confirmed, strict=True)
    seen = [inspect(result._replace(success=success)) for result, success in pairs] if inspect else []
    return Outcome(results[0].was_correct, *figures, seconds, seen)


def measured(
    logits_fn: LogitsFunction, attack: Attack, epsilons: Sequence[float], dataset: Dataset, inspect: Inspect = None
) -> Outcome:
    """`measure` of a whole dataset, chunk by chunk; the other arguments are the same."""
    return Outcome.joined(measure(logits_fn, attack, epsilons, chunk, inspect=inspect) for chunk in chunks(dataset))


def joined(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Figures of several chunks as one, by name: arrays ``(..., n)`` become longer, and numbers are added."""
    columns = {name: [part[name] for part in parts] for name in parts[0]}
    return {k: np.concatenate(v, axis=-1) if np.ndim(v[0]) else float(sum(v)) for k, v in columns.items()}


def probabilities(logits_fn: LogitsFunction, images: Any, *, batch_size: int = 256) -> np.ndarray:
    """Predicted probabilities.

    Args:
        logits_fn: The classifier.
        images: ``(n, ...)``, at least one.
        batch_size: The number of images worked on at a time.

    Returns:
        ``(n, K)``.
    """
    return np.asarray(logits_fn.in_batches(softmax, images, batch_size=batch_size))


@dataclasses.dataclass(frozen=True)
class Confidence:
    """How a model does on images that nobody tampered with.

    Attributes:
        accuracy: The share of samples classified correctly.
        mean_confidence: The mean of the largest predicted probability, of images with an answer that is not NaN.
        num_samples: The number of samples.
    """

    accuracy: float
    mean_confidence: float
    num_samples: int


@checked
def clean_performance(model: Model, images: Images, labels: Labels, *, batch_size: int = 256) -> Confidence:
    """Accuracy and mean confidence on untouched images.

    Args:
        model: Any classifier that `keras_fim.logits.logits_function` takes.
        images: ``(batch, ...)``.
        labels: The true classes, ``(batch,)`` or one-hot.
        batch_size: The number of images worked on at a time.

    Returns:
        `Confidence`.
    """
    images = check_images(images)
    p = probabilities(logits_function(model, images), images, batch_size=batch_size)
    classes = classes_of(p)
    right = classes == check_labels(labels, *p.shape)
    return Confidence(float(right.mean()), mean_confidence(p.max(axis=-1), classes), len(p))


def mean_confidence(confidence: np.ndarray, classes: np.ndarray) -> float:
    """The mean of the predicted classes' probabilities ``(n,)``, but for answers of NaN, which are of class -1."""
    answered = confidence[classes >= 0]
    return float(answered.sum(dtype=np.float64)) / (len(answered) or math.nan)


@checked
def predicted_classes(model: Model, images: Images, *, batch_size: int = 256) -> np.ndarray:
    """The class that a model predicts for each image.

    Args:
        model: Any classifier that `keras_fim.logits.logits_function` takes.
        images: ``(batch, ...)``.
        batch_size: The number of images worked on at a time.

    Returns:
        int64 ``(batch,)``; -1 where the model answers with NaN.
    """
    images = check_images(images)
    return classes_of(logits_function(model, images).in_batches(predict_logits, images, batch_size=batch_size))


def predictions_of(model: Model) -> Callable[[AttackResult], np.ndarray]:
    """An ``inspect`` of `measure`: the classes that a model predicts for the adversarials of another."""
    return lambda result: predicted_classes(model, result.adversarials)


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
        outputs = np.stack([logits_fn.in_batches(predict_outputs, result.adversarials[where]) for _ in range(calls)])
        votes = np.eye(outputs.shape[-1], dtype=int)[outputs.argmax(axis=-1)].sum(axis=0)
        classes, targets = votes.argmax(axis=-1), result.details.get("target")
        hit = classes != labels[where] if targets is None else classes == targets[where]
        taken_for[where] = np.where(np.isfinite(outputs).all(axis=(0, -1)) & hit, classes, -1)
    return taken_for


def softmax(logits_fn: LogitsFunction, images: tf.Tensor) -> tf.Tensor:
    """Probabilities of images, as a function that `LogitsFunction.in_batches` can compile."""
    return tf.nn.softmax(logits_fn(images))
