"""Attacks that look for the nearest adversarial."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_fim.attacks.base import Attack, Problem, check_epsilons, concatenate, predict_logits
from keras_fim.attacks.lp import norms
from keras_fim.logits import LogitsFunction
from keras_fim.typing import AttackResult, Images, Labels, Model

__all__ = ["Found", "MinimalDistanceAttack", "SearchAttack"]


class Found(NamedTuple):
    """What `SearchAttack.search` returns.

    Attributes:
        adversarials: ``(batch, ...)``, within the bounds; of samples that were not fooled, anything.
        details: tensors ``(batch, ...)`` for `AttackResult.details`.
    """

    adversarials: tf.Tensor
    details: dict[str, tf.Tensor] = {}  # noqa: RUF012 - never written to


class MinimalDistanceAttack(Attack):
    """An attack that looks for the nearest adversarial of each image."""

    def __call__(self, model: Model, images: Images, labels: Labels, *, epsilon: float | None = None) -> AttackResult:
        """Look for the nearest adversarial of each image.

        Args:
            model: any classifier that `keras_fim.logits.logits_function` takes.
            images: ``(batch, ...)``, within `bounds`.
            labels: the true classes: indices ``(batch,)`` or one-hot rows ``(batch, K)``.
            epsilon: if given, success means an adversarial within this distance.

        Returns:
            `AttackResult`. A sample that could not be fooled (within ``epsilon``) comes back unchanged with distance
            inf; one that was wrong before comes back unchanged with distance 0. Neither is a success.

        Raises:
            ValueError: if an argument is not valid; see `keras_fim.validation`.
        """
        return self.sweep(model, images, labels, [np.inf if epsilon is None else epsilon])[0]

    def sweep(self, model: Model, images: Images, labels: Labels, epsilons: Sequence[float]) -> list[AttackResult]:
        """One result for each ε, of one search.

        Args:
            model: as in the call.
            images: as in the call.
            labels: as in the call.
            epsilons: distances >= 0, inf for any.

        Returns:
            `AttackResult` by ε.

        Raises:
            ValueError: as the call.
        """
        return self._sweep(self._problem(model, images, labels), epsilons)

    def _sweep(self, problem: Problem, epsilons: Sequence[float], *extras: tf.Tensor) -> list[AttackResult]:
        check_epsilons(epsilons, infinite=True)
        nearest = self.nearest(problem, *extras)
        return [_within(nearest, problem, epsilon) for epsilon in epsilons]

    @abc.abstractmethod
    def nearest(self, problem: Problem, *extras: tf.Tensor) -> AttackResult:
        """The nearest adversarials at any distance; samples that were wrong before, or stand, come back unchanged."""


class SearchAttack(MinimalDistanceAttack):
    """A minimal-distance attack that searches batch by batch, in `search`."""

    def nearest(self, problem: Problem, *extras: tf.Tensor) -> AttackResult:
        """`search` in batches, of the samples that are correct, and another look at what it returns."""
        parts = []
        for batch, seed in self._batches(len(problem.images)):
            part = problem._replace(images=problem.images[batch], labels=problem.labels[batch])
            parts.append(self._search(part, seed, *(extra[batch] for extra in extras)))
        return concatenate(parts)

    def _search(self, problem: Problem, seed: tf.Tensor, *extras: tf.Tensor) -> AttackResult:
        logits_fn, images, labels, _ = problem
        predict = logits_fn.compiled(predict_logits)
        predictions = np.argmax(predict(images), axis=-1).astype(np.int64)
        correct = predictions == labels.numpy()
        adversarials, success, details = images.numpy().copy(), np.zeros_like(correct), {}
        if correct.any():
            chosen = [tf.boolean_mask(each, correct) for each in (images, labels, *extras)]
            found = self._run(logits_fn, "search")(*chosen[:2], seed, *chosen[2:])
            predictions[correct] = np.argmax(predict(found.adversarials), axis=-1)
            success = correct & (predictions != labels.numpy())
            adversarials[correct] = found.adversarials.numpy()
            details = {key: _spread(value.numpy(), correct) for key, value in found.details.items()}
        distances = norms(adversarials.astype(np.float64) - images.numpy(), self.norm)
        return AttackResult(adversarials, success, distances, predictions, correct, details)

    @abc.abstractmethod
    def search(self, logits_fn: LogitsFunction, images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor) -> Found:
        """The nearest adversarials that can be found. Compiled; ``seed`` is an int32 scalar."""


def _within(nearest: AttackResult, problem: Problem, epsilon: float) -> AttackResult:
    """What remains of a result if only adversarials within ε count."""
    images, success = problem.images.numpy(), nearest.success & (nearest.distances <= epsilon)
    return nearest._replace(
        adversarials=np.where(success.reshape(-1, *[1] * (images.ndim - 1)), nearest.adversarials, images),
        success=success,
        distances=np.where(success, nearest.distances, np.where(nearest.was_correct, np.inf, 0.0)),
        predictions=np.where(nearest.was_correct & ~success, problem.labels.numpy(), nearest.predictions),
    )


def _spread(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """``values`` of the samples that ``where`` marks, zero for the others."""
    spread = np.zeros((len(where), *values.shape[1:]), values.dtype)
    spread[where] = values
    return spread
