"""Attacks that look for the nearest adversarial."""

import abc
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_fim.attacks.base import Attack, check_epsilons
from keras_fim.attacks.problem import Problem
from keras_fim.attacks.samples import Task, take
from keras_fim.logits import LogitsFunction
from keras_fim.typing import AttackResult


class Found(NamedTuple):
    """What `SearchAttack.search` and `MinimalDistanceAttack.nearest` return.

    Attributes:
        adversarials: ``(batch, ...)``, within the unit cube; of samples that were not fooled, anything.
        details: ``(batch, ...)`` each, for `AttackResult.details`.
    """

    adversarials: tf.Tensor
    details: dict[str, tf.Tensor] = {}  # noqa: RUF012 - never written to


class MinimalDistanceAttack(Attack):
    """An attack that looks for the nearest adversarial of each image.

    A sample that could not be fooled (within ``epsilon``, if it is given) comes back unchanged with distance inf; one
    that was wrong before comes back unchanged with distance 0. Neither is a success.
    """

    def _sweep(self, problem: Problem, epsilons: Sequence[float | None]) -> list[AttackResult]:
        limits = check_epsilons([np.inf if epsilon is None else epsilon for epsilon in epsilons], infinite=True)
        labels, images = problem.labels.numpy(), problem.images.numpy()
        predictions = self._predictions(problem.logits_fn, problem.images)
        correct = (predictions == labels) & ~problem.left_out
        result = self.nearest(problem, correct)
        points, attacked = self._in_pixels(problem, result.adversarials)
        predictions = np.where(correct, attacked, predictions)
        distances = problem.distances(result.adversarials, points.numpy(), self.norm)
        results = []
        for limit in limits:
            success = correct & problem.fooled(predictions) & (distances <= limit)
            results.append(
                AttackResult(
                    adversarials=np.where(success.reshape(-1, *[1] * (images.ndim - 1)), points, images),
                    success=success,
                    distances=np.where(success, distances, np.where(correct, np.inf, 0.0)),
                    predictions=np.where(correct & ~success, labels, predictions),
                    was_correct=correct,
                    details=problem.details(result.details),
                )
            )
        return results

    @abc.abstractmethod
    def nearest(self, problem: Problem, correct: np.ndarray) -> Found:
        """The nearest adversarials at any distance of all samples; ``correct`` marks those that are asked for."""


class SearchAttack(MinimalDistanceAttack):
    """A minimal-distance attack that searches batch by batch, in `search`."""

    def nearest(self, problem: Problem, correct: np.ndarray) -> Found:
        """`search` in batches, of the samples that are correct."""
        search = self._function(type(self).search, problem.unit_fn)
        points, details = problem.task.images.numpy().copy(), dict[str, np.ndarray]()
        for batch in self._batches(len(correct)):
            rows = np.arange(len(correct))[batch][correct[batch]]
            if not len(rows):
                continue
            result = search(take(problem.task, tf.constant(rows)))
            points[rows] = result.adversarials.numpy()
            for key, value in result.details.items():
                details.setdefault(key, np.zeros((len(correct), *value.shape[1:]), value.numpy().dtype))[rows] = value
        return Found(tf.constant(points), details)

    @abc.abstractmethod
    def search(self, logits_fn: LogitsFunction, task: Task) -> Found:
        """The nearest adversarials that can be found. Compiled."""
