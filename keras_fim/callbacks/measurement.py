"""What one attack does to a model on the samples of a callback: rows, and a few examples to look at."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from keras_fim.attacks.base import Attack
from keras_fim.attacks.fixed_budget import FixedBudgetAttack
from keras_fim.attacks.nearest import MinimalDistanceAttack
from keras_fim.evaluation.measurement import Outcome, measure, probabilities
from keras_fim.evaluation.rows import RobustnessCurve, attack_rows
from keras_fim.evaluation.sources import Chunk, chunks
from keras_fim.logits import LogitsFunction

_CANDIDATES = 24  # samples among which the examples are chosen


class Examples(NamedTuple):
    """A few images that were classified correctly, attacked at the smallest ε that fools them, or else the largest.

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
    bounds: tuple[float, float]


def logs(curve: RobustnessCurve) -> dict[str, float]:
    """The figures of an attack by the keys that they have in Keras' logs and TensorBoard."""
    name, figures = curve.attack, {}
    for row in curve.rows:
        figures[f"val_fooling/{name}/eps_{epsilon_key(row.epsilon)}"] = row.fooling.value
        figures[f"val_robust_accuracy/{name}/eps_{epsilon_key(row.epsilon)}"] = row.robust.value
    for share, distance in curve.rows[0].nearest.items():  # a single ε has none
        figures[f"val_distance/{name}/q{100 * float(share):g}"] = distance
    return {**figures, f"robustness_seconds/{name}": sum(row.seconds for row in curve.rows)}


def epsilon_key(epsilon: float) -> str:
    """ε in a key, without the dot that Keras' file-name templates stumble over.

    Example:
        >>> epsilon_key(0.1), epsilon_key(2.0)
        ('0p1', '2')
    """
    return f"{epsilon:g}".replace(".", "p")


def measure_attack(
    logits_fn: LogitsFunction,
    samples: tuple[np.ndarray, np.ndarray],
    attack: Attack,
    epsilons: Sequence[float],
    *,
    name: str,
    num_examples: int = 4,
) -> tuple[RobustnessCurve, Examples]:
    """Attack the samples at each ε.

    Args:
        logits_fn: The classifier.
        samples: ``(images, labels)``.
        attack: An attack of either kind.
        epsilons: The budgets in the attack's norm, ascending.
        name: The name of the attack in the curve.
        num_examples: The largest number of examples.

    Returns:
        `RobustnessCurve` and `Examples`, of correctly classified samples: those that are fooled go first.

    Raises:
        ValueError: As the attack.
    """
    asked = attack.fooling_only() if isinstance(attack, FixedBudgetAttack) else attack
    first, *others = chunks(samples)
    shown = measure(logits_fn, asked, epsilons, first, inspect=lambda result: result.adversarials[:_CANDIDATES].copy())
    rest = [measure(logits_fn, asked, epsilons, chunk) for chunk in others]
    examples = _examples(logits_fn, first, shown, epsilons, attack, num_examples)
    outcome = Outcome.joined([part._replace(seen=()) for part in (shown, *rest)])
    rows = attack_rows(attack, epsilons, outcome)
    return RobustnessCurve(tuple(dataclasses.replace(row, attack=name) for row in rows)), examples


def _examples(
    logits_fn: LogitsFunction, chunk: Chunk, outcome: Outcome, epsilons: Sequence[float], attack: Attack, count: int
) -> Examples:
    correct, fooled = np.flatnonzero(outcome.was_correct[:_CANDIDATES]), np.asarray(outcome.fooled.any(axis=0))
    rows = np.sort(correct[np.argsort(~fooled[correct], kind="stable")][:count])
    which = np.where(fooled[rows], outcome.fooled[:, rows].argmax(axis=0), len(epsilons) - 1)
    images = chunk.images[rows]
    if isinstance(attack, MinimalDistanceAttack):  # one result; beyond the largest ε it does not count
        kept = fooled[rows].reshape(-1, *[1] * (images.ndim - 1))
        adversarials = np.where(kept, outcome.seen[0][rows], images)
    else:
        adversarials = np.array([outcome.seen[index][row] for row, index in zip(rows, which, strict=True)])
    adversarials = adversarials.reshape(images.shape)
    empty = np.zeros((0, 1))
    before, after = (probabilities(logits_fn, batch) if len(rows) else empty for batch in (images, adversarials))
    return Examples(images, adversarials, np.asarray(epsilons)[which], chunk.labels[rows], before, after, attack.bounds)
