"""Attacks with a budget: two compiled halves, what does not depend on ε (one gradient, say), and what does.

A sweep over many ε pays the first half once.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_fim.attacks.base import Attack, Problem, check_epsilons, concatenate
from keras_fim.attacks.lp import norms
from keras_fim.logits import LogitsFunction
from keras_fim.typing import AttackResult, Images, Labels, Model

__all__ = ["FixedBudgetAttack", "Perturbed"]


class Perturbed(NamedTuple):
    """What `FixedBudgetAttack.perturb` returns.

    Attributes:
        adversarials: ``(batch, ...)``, within ε and the bounds.
        logits: ``(batch, K)``, theirs.
        details: tensors ``(batch, ...)`` for `AttackResult.details`.
    """

    adversarials: tf.Tensor
    logits: tf.Tensor
    details: dict[str, tf.Tensor] = {}  # noqa: RUF012 - never written to


class FixedBudgetAttack(Attack):
    """An attack that perturbs each image by at most ε."""

    def __call__(self, model: Model, images: Images, labels: Labels, *, epsilon: float) -> AttackResult:
        """Perturb each image by at most ``epsilon``.

        Args:
            model: any classifier that `keras_fim.logits.logits_function` takes.
            images: ``(batch, ...)``, within `bounds`.
            labels: the true classes: indices ``(batch,)`` or one-hot rows ``(batch, K)``.
            epsilon: budget >= 0 in the attack's norm, on the scale of the images.

        Returns:
            `AttackResult`. Samples that were wrong before are perturbed like the others but never count as success.

        Raises:
            ValueError: if an argument is not valid; see `keras_fim.validation`.
        """
        return self.sweep(model, images, labels, [epsilon])[0]

    def sweep(self, model: Model, images: Images, labels: Labels, epsilons: Sequence[float]) -> list[AttackResult]:
        """One result for each ε, paying what does not depend on it once.

        Args:
            model: as in the call.
            images: as in the call.
            labels: as in the call.
            epsilons: budgets, each >= 0.

        Returns:
            `AttackResult` by ε.

        Raises:
            ValueError: as the call.
        """
        return self._sweep(self._problem(model, images, labels), epsilons)

    def _sweep(self, problem: Problem, epsilons: Sequence[float], *extras: tf.Tensor) -> list[AttackResult]:
        """`sweep` with further arguments of `prepare`, one entry per image."""
        check_epsilons(epsilons)
        parts, ascending = [], np.argsort(epsilons, kind="stable")
        for batch, seed in self._batches(len(problem.images)):
            images, labels = problem.images[batch], problem.labels[batch]
            arguments = (images, labels, seed, *(extra[batch] for extra in extras))
            logits, *state = self._run(problem.logits_fn, "prepare")(*arguments)
            perturb = self._run(problem.logits_fn, "perturb")
            results = {}
            for position in ascending:
                budget = tf.fill([len(images)], tf.constant(epsilons[position], images.dtype))
                found = perturb(images, labels, budget, seed, logits, *state)
                results[position] = _result(images, labels, logits, *found, norm=self.norm)
                state = self._carry(state, found)
            parts.append([results[position] for position in range(len(epsilons))])
        return [concatenate(column) for column in zip(*parts, strict=True)]

    def _carry(self, state: list[tf.Tensor], found: Perturbed) -> list[tf.Tensor]:
        """What `perturb` gets at the next larger ε of a sweep, after what was found at this one."""
        return state

    @property
    def one_step(self) -> bool:
        """Whether it goes straight in a direction that does not depend on ε, at hardly any cost for another ε."""
        return False

    @property
    def whole_batch(self) -> bool:
        """Whether all samples stay in the batch to the end, which a model that normalises batches would notice."""
        return True

    def fooling_only(self) -> FixedBudgetAttack:
        """The same attack, as fast as it can be where only fooled-or-not is asked."""
        return self

    @abc.abstractmethod
    def prepare(
        self, logits_fn: LogitsFunction, images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        """What does not depend on ε: the logits of ``images``, then whatever `perturb` wants, by sample. Compiled."""

    @abc.abstractmethod
    def perturb(
        self,
        logits_fn: LogitsFunction,
        images: tf.Tensor,
        labels: tf.Tensor,
        epsilon: tf.Tensor,
        seed: tf.Tensor,
        logits: tf.Tensor,
        *state: Any,
    ) -> Perturbed:
        """Adversarials within ε and the bounds. Compiled; ``epsilon`` is ``(batch,)``, what follows is of `prepare`."""


def _result(
    images: tf.Tensor,
    labels: tf.Tensor,
    logits: tf.Tensor,
    adversarials: tf.Tensor,
    attacked: tf.Tensor,
    details: dict[str, tf.Tensor],
    *,
    norm: float,
) -> AttackResult:
    """An `AttackResult` from tensors: images, labels, logits, adversarials and their logits."""
    was_correct = np.argmax(logits, axis=-1) == labels.numpy()
    predictions = np.argmax(attacked, axis=-1).astype(np.int64)
    distances = norms(adversarials.numpy().astype(np.float64) - images.numpy(), norm)
    success = was_correct & (predictions != labels.numpy())
    arrays = {key: value.numpy() for key, value in details.items()}
    return AttackResult(adversarials.numpy(), success, distances, predictions, was_correct, arrays)
