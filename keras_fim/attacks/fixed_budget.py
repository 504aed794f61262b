"""Attacks with a budget: two compiled halves, what does not depend on ε (one gradient, say), and what does.

A sweep over many ε pays the first half once.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_fim.attacks.base import Attack, check_epsilons
from keras_fim.attacks.problem import Problem
from keras_fim.attacks.samples import Task, take
from keras_fim.logits import LogitsFunction
from keras_fim.typing import AttackResult


class Perturbed(NamedTuple):
    """What `FixedBudgetAttack.perturb` returns.

    Attributes:
        adversarials: ``(batch, ...)``, within ε and the unit cube.
        logits: ``(batch, K)``, theirs.
        details: tensors ``(batch, ...)`` for `AttackResult.details`.
    """

    adversarials: tf.Tensor
    logits: tf.Tensor
    details: dict[str, tf.Tensor] = {}  # noqa: RUF012 - never written to


class FixedBudgetAttack(Attack):
    """An attack that perturbs each image by at most ε."""

    def _sweep(self, problem: Problem, epsilons: Sequence[float | None]) -> list[AttackResult]:
        budgets = [problem.budgets(epsilon) for epsilon in check_epsilons(epsilons)]
        unit_fn, parts = problem.unit_fn, []
        prepare, perturb = (self._function(half, unit_fn) for half in (type(self).prepare, type(self).perturb))
        for batch in self._batches(len(problem.images)):
            state = prepare(take(problem.task, batch))
            tasks = [take(problem.task._replace(epsilon=budget), batch) for budget in budgets]
            parts.append([(state[0], perturb(task, state)) for task in tasks])
        columns = zip(*parts, strict=True)
        return [self._result(problem, *concatenated(column)) for column in columns]

    def _result(self, problem: Problem, logits: tf.Tensor, perturbed: Perturbed) -> AttackResult:
        """An `AttackResult` from the logits of the images and what was found, in unit coordinates."""
        was_correct = (np.argmax(logits, axis=-1) == problem.labels.numpy()) & ~problem.left_out
        points = perturbed.adversarials
        predictions = np.argmax(perturbed.logits, axis=-1)
        if not problem.units.identity:  # the way back to pixels rounds
            points, predictions = self._in_pixels(problem, perturbed.adversarials)
        return AttackResult(
            adversarials=points.numpy(),
            success=was_correct & problem.fooled(predictions),
            distances=problem.distances(perturbed.adversarials, points.numpy(), self.norm),
            predictions=predictions,
            was_correct=was_correct,
            details=problem.details(perturbed.details),
        )

    @property
    def one_step(self) -> bool:
        """Whether it goes straight in a direction that does not depend on ε, at hardly any cost for another ε."""
        return False

    @property
    def whole_batch(self) -> bool:
        """Whether all samples stay in the batch to the end, which a model that normalizes batches would notice."""
        return True

    def fooling_only(self) -> FixedBudgetAttack:
        """The same attack, as fast as it can be where only fooled-or-not is asked."""
        return self

    def prepare(self, logits_fn: LogitsFunction, task: Task) -> tuple[tf.Tensor, ...]:
        """What does not depend on ε: the logits of the images, then whatever `perturb` wants, by sample. Compiled."""
        return (logits_fn(task.images),)

    @abc.abstractmethod
    def perturb(self, logits_fn: LogitsFunction, task: Task, state: tuple[Any, ...]) -> Perturbed:
        """Adversarials within ε and the unit cube. Compiled; ``state`` is what `prepare` returned."""


def concatenated(parts: Sequence[Any]) -> Any:
    """Structures of tensors of several batches as one."""
    return tf.nest.map_structure(lambda *tensors: tf.concat(tensors, axis=0), *parts)
