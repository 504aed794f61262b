"""What one attack does to a model on fixed samples, as plain figures."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_fim.attacks.base import Attack
from keras_fim.attacks.fixed_budget import FixedBudgetAttack
from keras_fim.attacks.lp import norm_name
from keras_fim.callbacks.selection import Selection
from keras_fim.logits import LogitsFunction
from keras_fim.typing import AttackResult

__all__ = ["QUANTILES", "AttackMeasurement", "Examples", "epsilon_key", "measure_attack", "predict"]

QUANTILES = (0.25, 0.5, 0.75)


@dataclasses.dataclass(frozen=True)
class Examples:
    """A few images and what became of them, at the smallest ε that fools each, or the largest where none does.

    Attributes:
        images: ``(n, ...)``.
        adversarials: ``(n, ...)``.
        epsilons: float ``(n,)``.
        labels: int ``(n,)``, the true classes.
        before: ``(classes, confidences)`` predicted for ``images``, each ``(n,)``.
        after: the same for ``adversarials``.
        bounds: smallest and largest pixel value.
    """

    images: np.ndarray
    adversarials: np.ndarray
    epsilons: np.ndarray
    labels: np.ndarray
    before: tuple[np.ndarray, np.ndarray]
    after: tuple[np.ndarray, np.ndarray]
    bounds: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class AttackMeasurement:
    """Figures of one attack.

    Attributes:
        name: of the attack.
        norm: ``"l2"``, ...: what ε is measured in.
        epsilons: the budgets, ascending.
        fooling_ratios: for each ε, fooled samples over originally correct ones.
        robust_accuracies: for each ε, samples that are classified correctly still, over all.
        distances: the `QUANTILES`, over originally correct samples, of the smallest ε that fools; inf beyond the
            largest ε. Between two of ``epsilons`` it is interpolated (so there are none of a single one);
            minimal-distance attacks know it.
        num_samples: number of samples.
        seconds: what it took.
    """

    name: str
    norm: str
    epsilons: tuple[float, ...]
    fooling_ratios: tuple[float, ...]
    robust_accuracies: tuple[float, ...]
    distances: tuple[float, ...]
    num_samples: int
    seconds: float

    def logs(self) -> dict[str, float]:
        """The figures by the keys that they have in Keras' logs and TensorBoard."""
        found = {}
        for epsilon, fooled, robust in zip(self.epsilons, self.fooling_ratios, self.robust_accuracies, strict=True):
            found[f"val_fooling/{self.name}/eps_{epsilon_key(epsilon)}"] = fooled
            found[f"val_robust_accuracy/{self.name}/eps_{epsilon_key(epsilon)}"] = robust
        for share, distance in zip(QUANTILES, self.distances, strict=False):  # of a single ε there are none
            found[f"val_distance/{self.name}/q{100 * share:g}"] = distance
        return {**found, f"robustness_seconds/{self.name}": self.seconds}


def epsilon_key(epsilon: float) -> str:
    """ε in a key, without the dot that Keras' file-name templates stumble over.

    Example:
        >>> epsilon_key(0.1), epsilon_key(2.0)
        ('0p1', '2')
    """
    return f"{epsilon:g}".replace(".", "p")


def measure_attack(
    logits_fn: LogitsFunction,
    selection: Selection,
    attack: Attack,
    epsilons: Sequence[float],
    *,
    name: str,
    num_examples: int = 4,
) -> tuple[AttackMeasurement, Examples]:
    """Attack the samples at each ε.

    Args:
        logits_fn: the classifier.
        selection: the samples.
        attack: of either kind.
        epsilons: budgets in the attack's norm, ascending.
        name: what to call it.
        num_examples: how many of the samples, from the first, to keep as examples.

    Returns:
        `AttackMeasurement` and `Examples`.

    Raises:
        ValueError: as the attack.
    """
    begin = time.perf_counter()
    fixed = isinstance(attack, FixedBudgetAttack)
    asked = attack.fooling_only() if isinstance(attack, FixedBudgetAttack) else attack
    results = asked.sweep(logits_fn, *selection, [*epsilons] if fixed else [*epsilons, np.inf])
    distances = _interpolated(results, epsilons) if fixed else _found(results.pop())
    examples = _examples(logits_fn, selection, results, epsilons, attack.bounds, num_examples)
    measured = AttackMeasurement(
        name=name,
        norm=norm_name(attack.norm),
        epsilons=tuple(epsilons),
        fooling_ratios=tuple(result.fooling_ratio for result in results),
        robust_accuracies=tuple(float((result.was_correct & ~result.success).mean()) for result in results),
        distances=distances,
        num_samples=len(selection.labels),
        seconds=time.perf_counter() - begin,
    )
    return measured, examples


def predict(logits_fn: LogitsFunction, images: np.ndarray, *, batch_size: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """Predicted classes and their probabilities, each ``(n,)``."""
    inputs, probabilities = logits_fn.cast(tf.convert_to_tensor(images)), logits_fn.compiled(_probabilities)
    starts = range(0, len(images), batch_size)
    parts = [probabilities(inputs[start : start + batch_size]).numpy() for start in starts]
    p = np.concatenate(parts)
    return p.argmax(axis=-1), p.max(axis=-1)


def _probabilities(logits_fn: LogitsFunction, images: tf.Tensor) -> tf.Tensor:
    return tf.nn.softmax(logits_fn(images))


def _interpolated(results: Sequence[AttackResult], epsilons: Sequence[float]) -> tuple[float, ...]:
    """Quantiles of the smallest ε that fools, from the share of those fooled up to each."""
    if len(epsilons) < 2:
        return ()
    fooled_by_then = np.maximum.accumulate([result.success for result in results])
    correct = results[0].was_correct
    if not correct.any():
        return tuple(np.nan for _ in QUANTILES)
    shares = np.concatenate([[0.0], fooled_by_then[:, correct].mean(axis=1)])
    budgets = np.concatenate([[0.0], epsilons])
    found = []
    for share in QUANTILES:
        after = int(np.searchsorted(shares, share))
        if after == len(shares):
            found.append(np.inf)
            continue
        part = (share - shares[after - 1]) / (shares[after] - shares[after - 1])
        found.append(float(budgets[after - 1] + part * (budgets[after] - budgets[after - 1])))
    return tuple(found)


def _found(nearest: AttackResult) -> tuple[float, ...]:
    if not nearest.was_correct.any():
        return tuple(np.nan for _ in QUANTILES)
    distances = nearest.distances[nearest.was_correct]
    return tuple(float(q) for q in np.quantile(distances, QUANTILES, method="higher"))  # of inf there is no mean


def _examples(
    logits_fn: LogitsFunction,
    selection: Selection,
    results: Sequence[AttackResult],
    epsilons: Sequence[float],
    bounds: tuple[float, float],
    count: int,
) -> Examples:
    images, labels = selection.images[:count], selection.labels[:count]
    fooled = np.array([result.success[:count] for result in results])
    which = np.where(fooled.any(axis=0), fooled.argmax(axis=0), len(results) - 1)
    adversarials = np.array([results[index].adversarials[row] for row, index in enumerate(which)])
    before, after = predict(logits_fn, images), predict(logits_fn, adversarials)
    return Examples(images, adversarials, np.asarray(epsilons)[which], labels, before, after, bounds)
