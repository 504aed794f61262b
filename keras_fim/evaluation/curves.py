"""Fooling ratio against ε."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_fim.attacks.base import Attack, predict_logits
from keras_fim.attacks.catalog import attack_by_name
from keras_fim.attacks.lp import norm_name
from keras_fim.evaluation.intervals import Ratio, wilson
from keras_fim.evaluation.report import Report, Row
from keras_fim.logits import logits_function
from keras_fim.typing import Images, Labels, Model
from keras_fim.validation import check_images, check_labels

__all__ = ["Confidence", "RobustnessCurve", "clean_performance", "predicted_classes", "robustness_curve", "samples"]


@dataclasses.dataclass(frozen=True)
class RobustnessCurve(Report):
    """How many of the originally correct samples an attack fools, for each ε.

    Attributes:
        attack: the attack's name.
        options: the attack's options, as its ``repr`` shows them.
        norm: ``"l1"``, ``"l2"`` or ``"linf"``: what ε is measured in.
        epsilons: the budgets.
        fooling_ratios: for each ε, misclassified samples over originally correct ones (the paper's section 4).
        num_correct: number of originally correct samples.
        num_samples: number of samples.
    """

    attack: str
    options: str
    norm: str
    epsilons: tuple[float, ...]
    fooling_ratios: tuple[float, ...]
    num_correct: int
    num_samples: int

    @property
    def ratios(self) -> tuple[Ratio, ...]:
        """The fooling ratios with Wilson's intervals."""
        counts = (0 if np.isnan(ratio) else round(ratio * self.num_correct) for ratio in self.fooling_ratios)
        return tuple(wilson(count, self.num_correct) for count in counts)

    def tables(self) -> dict[str, list[Row]]:
        """A row for each ε."""
        pairs = zip(self.epsilons, self.ratios, strict=True)
        return {"": [{"attack": self.attack, "norm": self.norm, "ε": e, "fooling ratio": r} for e, r in pairs]}


@dataclasses.dataclass(frozen=True)
class Confidence:
    """How a model does on images that nobody tampered with.

    Attributes:
        accuracy: share of samples classified correctly.
        mean_confidence: mean of the largest predicted probability.
        num_samples: number of samples.
    """

    accuracy: float
    mean_confidence: float
    num_samples: int


def robustness_curve(
    model: Model, images: Images, labels: Labels, attack: Attack | str, epsilons: Sequence[float]
) -> RobustnessCurve:
    """Measure the fooling ratio of an attack for each ε.

    Args:
        model: any classifier that `keras_fim.logits.logits_function` takes.
        images: ``(batch, ...)`` within the attack's bounds.
        labels: the true classes, ``(batch,)`` or one-hot.
        attack: an attack or its name; one that looks for the nearest adversarial searches once for all ε.
        epsilons: budgets in the attack's norm.

    Returns:
        `RobustnessCurve`.

    Raises:
        ValueError: as the attack, and if ``epsilons`` is empty.

    Example:
        >>> from keras_fim import attacks, models
        >>> x, y = np.full((4, 28, 28, 1), 0.5), [0, 1, 2, 3]
        >>> robustness_curve(models.convnet(), x, y, attacks.FGSM(), [0.0, 0.1]).norm
        'linf'
    """
    if not len(epsilons):
        raise ValueError("`epsilons` should hold at least one budget. Received: none")
    attack = attack_by_name(attack)
    results = attack.sweep(model, images, labels, epsilons)
    return RobustnessCurve(
        attack=attack.name,
        options=repr(attack),
        norm=norm_name(attack.norm),
        epsilons=tuple(float(e) for e in epsilons),
        fooling_ratios=tuple(result.fooling_ratio for result in results),
        num_correct=int(results[0].was_correct.sum()),
        num_samples=len(results[0].was_correct),
    )


def clean_performance(model: Model, images: Images, labels: Labels, *, batch_size: int = 256) -> Confidence:
    """Accuracy and mean confidence on untouched images.

    Args:
        model: any classifier that `keras_fim.logits.logits_function` takes.
        images: ``(batch, ...)``.
        labels: the true classes, ``(batch,)`` or one-hot.
        batch_size: images worked on at a time.

    Returns:
        `Confidence`.
    """
    images = check_images(images)
    logits_fn = logits_function(model, images)
    images = logits_fn.cast(images)
    probabilities = logits_fn.compiled(_probabilities)
    parts = [probabilities(images[i : i + batch_size]) for i in range(0, len(images), batch_size)]
    p = np.concatenate(parts)
    accuracy = float((p.argmax(axis=-1) == check_labels(labels, *p.shape)).mean())
    return Confidence(accuracy, float(p.max(axis=-1).mean()), len(p))


def predicted_classes(model: Model, images: Images, *, batch_size: int = 256) -> np.ndarray:
    """The class that a model predicts for each image.

    Args:
        model: any classifier that `keras_fim.logits.logits_function` takes.
        images: ``(batch, ...)``.
        batch_size: images worked on at a time.

    Returns:
        int64 ``(batch,)``.
    """
    images = check_images(images)
    logits_fn = logits_function(model, images)
    images, predict = logits_fn.cast(images), logits_fn.compiled(predict_logits)
    parts = [np.argmax(predict(images[i : i + batch_size]), axis=-1) for i in range(0, len(images), batch_size)]
    return np.concatenate(parts).astype(np.int64)


def samples(
    dataset: Iterable[tuple[Any, Any]] | tuple[Images, Labels], limit: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The first images and labels of a data set of batches, as arrays.

    Args:
        dataset: yields ``(images, labels)`` batches, as a ``tf.data.Dataset`` does; or the pair of whole arrays.
        limit: how many; ``None`` for all.

    Returns:
        ``(images, labels)``.

    Raises:
        ValueError: if the data set is empty, or the arrays are of different lengths.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"`limit` should be a positive integer. Received: limit={limit}")
    batches = [dataset] if isinstance(dataset, tuple) and len(dataset) == 2 else dataset
    images, labels, found = [], [], 0
    for x, y in batches:
        images.append(np.asarray(x))
        labels.append(np.asarray(y))
        found += len(labels[-1])
        if len(images[-1]) != len(labels[-1]):
            raise ValueError(
                "`dataset` should hold as many labels as images. "
                f"Received: {len(images[-1])} images and {len(labels[-1])} labels"
            )
        if limit is not None and found >= limit:
            break
    if not found:
        raise ValueError("`dataset` should not be empty. Received: no sample")
    return np.concatenate(images)[:limit], np.concatenate(labels)[:limit]


def _probabilities(logits_fn: Any, images: tf.Tensor) -> tf.Tensor:
    return tf.nn.softmax(logits_fn(images))
