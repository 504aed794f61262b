"""Fooling ratio against ε, and how a model does without an attack."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from keras_fim.arguments import checked
from keras_fim.attacks.base import Attack
from keras_fim.attacks.catalog import attack_by_name, resolve_epsilons
from keras_fim.evaluation.measurement import Outcome, measure, probabilities
from keras_fim.evaluation.rows import RobustnessCurve, attack_rows
from keras_fim.evaluation.sources import chunks
from keras_fim.logits import logits_function
from keras_fim.typing import Images, Labels, Model
from keras_fim.validation import check_images, check_labels


@dataclasses.dataclass(frozen=True)
class Confidence:
    """How a model does on images that nobody tampered with.

    Attributes:
        accuracy: The share of samples classified correctly.
        mean_confidence: The mean of the largest predicted probability.
        num_samples: The number of samples.
    """

    accuracy: float
    mean_confidence: float
    num_samples: int


@checked
def robustness_curve(
    model: Model, images: Images, labels: Labels, attack: Attack | str, epsilons: Sequence[float]
) -> RobustnessCurve:
    """Measure the fooling ratio of an attack for each ε.

    Args:
        model: Any classifier that `keras_fim.logits.logits_function` takes.
        images: ``(batch, ...)`` within the attack's bounds.
        labels: The true classes, ``(batch,)`` or one-hot.
        attack: An attack or its name; one that looks for the nearest adversarial searches once for all ε.
        epsilons: The budgets in the attack's norm.

    Returns:
        `RobustnessCurve`.

    Raises:
        ValueError: As the attack, and if ``epsilons`` is empty.

    Example:
        >>> from keras_fim import attacks, models
        >>> x, y = np.full((4, 28, 28, 1), 0.5), [0, 1, 2, 3]
        >>> robustness_curve(models.convnet(), x, y, attacks.FGSM(), [0.0, 0.1]).norm
        'linf'
    """
    attack = attack_by_name(attack)
    (budgets,) = resolve_epsilons([attack], epsilons)
    logits_fn = logits_function(model, check_images(images))
    outcome = Outcome.joined(measure(logits_fn, attack, budgets, chunk) for chunk in chunks((images, labels)))
    return RobustnessCurve(attack_rows(attack, budgets, outcome))


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
    right = p.argmax(axis=-1) == check_labels(labels, *p.shape)
    return Confidence(float(right.mean()), float(p.max(axis=-1).mean()), len(p))


@checked
def predicted_classes(model: Model, images: Images, *, batch_size: int = 256) -> np.ndarray:
    """The class that a model predicts for each image.

    Args:
        model: Any classifier that `keras_fim.logits.logits_function` takes.
        images: ``(batch, ...)``.
        batch_size: The number of images worked on at a time.

    Returns:
        int64 ``(batch,)``.
    """
    images = check_images(images)
    p = probabilities(logits_function(model, images), images, batch_size=batch_size)
    return np.asarray(p.argmax(axis=-1), np.int64)
