"""What one attack does at one ε."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from keras_fim.attacks.base import Attack
from keras_fim.attacks.lp import norm_name
from keras_fim.evaluation.intervals import Ratio, wilson

__all__ = ["AttackRow", "attack_row", "marked"]


@dataclasses.dataclass(frozen=True)
class AttackRow:
    """What one attack does at one ε.

    Attributes:
        attack: the attack's name.
        options: the attack's options, as its ``repr`` shows them.
        norm: ``"l0"``, ``"l1"``, ``"l2"`` or ``"linf"``: what ε is measured in.
        epsilon: the budget.
        fooling: misclassified over originally correct samples.
        robust: samples that are right before and after, over all.
        strongest: whether no attack here of the same norm and ε fools more. Its ``robust`` is the one to quote.
        stages: for `keras_fim.attacks.Strong`, the share of the originally correct samples that each stage fooled.
        seconds: what the measurement took; an attack that shares work among its ε has it divided among them.
    """

    attack: str
    options: str
    norm: str
    epsilon: float
    fooling: Ratio
    robust: Ratio
    strongest: bool
    stages: dict[str, float]
    seconds: float


def attack_row(
    attack: Attack, epsilon: float, success: np.ndarray, was_correct: np.ndarray, seconds: float
) -> AttackRow:
    """A row from who was fooled and who was correct before, bool ``(batch,)`` each; not marked yet."""
    fooled, correct, total = int(success.sum()), int(was_correct.sum()), len(was_correct)
    return AttackRow(
        attack=attack.name,
        options=repr(attack),
        norm=norm_name(attack.norm),
        epsilon=float(epsilon),
        fooling=wilson(fooled, correct),
        robust=wilson(correct - fooled, total),
        strongest=False,
        stages={},
        seconds=seconds,
    )


def marked(rows: Sequence[AttackRow]) -> tuple[AttackRow, ...]:
    """The rows, those marked that fool most at their norm and ε."""
    most: dict[tuple[str, float], int] = {}
    for row in rows:
        most[row.norm, row.epsilon] = max(most.get((row.norm, row.epsilon), 0), row.fooling.count)
    return tuple(dataclasses.replace(row, strongest=row.fooling.count == most[row.norm, row.epsilon]) for row in rows)
