"""Attacks that run several others in turn, each on the samples that those before could not fool."""

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from keras_fim.attacks import draws
from keras_fim.attacks.base import Attack, check_epsilons, predict_logits
from keras_fim.attacks.fixed_budget import FixedBudgetAttack, Perturbed
from keras_fim.attacks.iterative import PGD
from keras_fim.attacks.losses import loss_gradient
from keras_fim.attacks.lp import check_norm, norms_of
from keras_fim.attacks.nearest import SearchAttack
from keras_fim.attacks.problem import Problem
from keras_fim.attacks.samples import Best, Task, choose, put, take
from keras_fim.logits import LogitsFunction
from keras_fim.typing import AttackResult

_DIFFER = 1e-4  # l2-normalized logits of two passes


@dataclasses.dataclass(frozen=True, kw_only=True)
class StagedAttack(FixedBudgetAttack):
    """Stages of attacks: each sample goes on to the next stage while it stands.

    A stage is an attack with a budget, or one that looks for the nearest adversarial, whose points within ε count.

    A sample that was fooled at a smaller ε of a sweep stays fooled by the same point, so that success grows with ε. One
    that stands comes back at the point of the largest margin, one that was wrong before unchanged. Samples of all
    batches are gathered before each stage, so that later ones work on full batches.

    Args:
        norm: 1, 2 or inf.

    The result's ``details["stage"]`` is, for each sample, the index of the stage that fooled it, -1 for none, -2 where
    it stands and gradients lead nowhere: at its point of the largest margin, the margin has no slope. It is -3 where
    only single answers of a model that draws random numbers were wrong.
    """

    norm: float = np.inf

    compiled: ClassVar[bool] = False  # the stages are
    stages: ClassVar[tuple[str, ...]]
    """The names of the stages, in order."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "norm", check_norm(self.norm))

    @abc.abstractmethod
    def attacks(self, num_classes: int = 10) -> dict[str, Attack]:
        """The attack of each stage that runs on models of K classes, by its name."""

    def shares(self, result: AttackResult) -> dict[str, float]:
        """The share of the originally correct samples that each stage fooled; they add up to the fooling ratio.

        Args:
            result: of this attack.

        Returns:
            Shares by the name of the stage; NaN if no sample was correct.
        """
        stage, total = result.details["stage"][result.was_correct], np.count_nonzero(result.was_correct)
        return {
            name: np.count_nonzero(stage == number) / total if total else float("nan")
            for number, name in enumerate(self.stages)
        }

    def _sweep(self, problem: Problem, epsilons: Sequence[float | None]) -> list[AttackResult]:
        """From the smallest ε to the largest: what was fooled stays fooled, by the same point."""
        budgets, results = check_epsilons(epsilons), {}
        state = (logits, *_) = self.prepare(problem.unit_fn, problem.task)
        for epsilon in sorted(set(budgets)):
            task = problem.task._replace(epsilon=problem.budgets(epsilon))
            result = self.perturb(problem.unit_fn, task, state)
            state = (logits, result.adversarials, result.logits, result.details["stage"])
            results[epsilon] = self._result(problem, logits, result)
        return [results[epsilon] for epsilon in budgets]

    def prepare(self, logits_fn: LogitsFunction, task: Task) -> tuple[tf.Tensor, ...]:
        """Logits; then the best points so far, their logits, and the stages that they are of."""
        count, size = len(task.images), self.batch_size
        parts = [self._logits(logits_fn, task.images[start : start + size]) for start in range(0, count, size)]
        logits = tf.concat(parts, axis=0)
        return logits, task.images, logits, tf.fill([count], -1)

    def _logits(self, logits_fn: LogitsFunction, images: tf.Tensor) -> tf.Tensor:
        """The logits by which images were correct before."""
        return logits_fn.compiled(predict_logits)(images)

    def perturb(self, logits_fn: LogitsFunction, task: Task, state: tuple[Any, ...]) -> Perturbed:
        """Stage by stage, each on full batches of the samples that stand."""
        logits, points, attacked, stage = state
        best, rounds = Best.of(points, attacked, task.labels, "margin"), self._rounds(logits.shape[-1])
        stage = tf.where(stage == -2, -1, stage)
        bar = keras.utils.Progbar(len(rounds), unit_name="round") if self.progress else None
        for turn, (number, attack) in enumerate(rounds):
            (standing,) = np.nonzero(~best.fooled.numpy() & (task.epsilon.numpy() > 0))
            for start in range(0, len(standing), self.batch_size):
                index = tf.constant(standing[start : start + self.batch_size])
                part = take(task._replace(keys=draws.fold(task.keys, turn)), index)
                new = self._run(self.stages[number], attack, logits_fn, part, tf.gather(logits, index))
                best = best.improved_at(index, new)
                reached = tf.where(new.fooled, number, tf.where(new.once, -3, tf.gather(stage, index)))
                stage = put(stage, index, reached)
            if bar:
                bar.update(turn + 1)
        return Perturbed(best.points, best.logits, {"stage": self._stuck(logits_fn, task, best, stage)})

    def _stuck(self, logits_fn: LogitsFunction, task: Task, best: Best, stage: tf.Tensor) -> tf.Tensor:
        """The stages, -2 for samples that stand where the margin has no slope."""
        (standing,) = np.nonzero(~best.fooled.numpy() & (task.epsilon.numpy() > 0))
        for start in range(0, len(standing), self.batch_size):
            index = tf.constant(standing[start : start + self.batch_size])
            points, labels = tf.gather(best.points, index), tf.gather(task.labels, index)
            steep = logits_fn.compiled(_slope)(points, labels)
            stuck = (steep == 0) & (tf.gather(stage, index) == -1)
            stage = put(stage, index, tf.where(stuck, -2, tf.gather(stage, index)))
        return stage

    def _rounds(self, num_classes: int) -> list[tuple[int, Attack]]:
        """Stages and attacks in order; restarts one by one, since they share what is compiled, and batches are full."""
        rounds: list[tuple[int, Attack]] = []
        for name, attack in self.attacks(num_classes).items():
            number = self.stages.index(name)
            if isinstance(attack, PGD):
                rounds += [(number, dataclasses.replace(attack, restarts=1))] * attack.restarts
            else:
                rounds.append((number, attack))
        return rounds

    def _run(self, stage: str, attack: Attack, logits_fn: LogitsFunction, task: Task, logits: tf.Tensor) -> Best:
        """What a stage makes of some samples, whose logits are known."""
        if isinstance(attack, FixedBudgetAttack):
            result = attack._function(type(attack).perturb, logits_fn)(task, (logits,))
            return Best.of(result.adversarials, result.logits, task.labels, "margin")
        assert isinstance(attack, SearchAttack)
        points = attack._function(type(attack).search, logits_fn)(task).adversarials
        near = norms_of(points - task.images, self.norm) <= task.epsilon
        points = choose(near, points, task.images)
        return Best.of(points, logits_fn.compiled(predict_logits)(points), task.labels, "margin")


def _slope(logits_fn: LogitsFunction, points: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    return norms_of(loss_gradient(logits_fn, points, labels, loss="margin")[0], np.inf)


def outputs_differ(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether the logits ``(n, K)`` of two passes over the same images are apart: l2-normalized, by more than 1e-4."""
    norms = [np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-300) for rows in (first, second)]
    return bool(np.linalg.norm(first / norms[0] - second / norms[1], axis=-1).max() > _DIFFER)
