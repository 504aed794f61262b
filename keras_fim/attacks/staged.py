"""Attacks that run several others in turn, each on the samples that those before could not fool."""

import abc
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from keras_fim.arguments import Norm
from keras_fim.attacks import base, draws, iterative, kinds, losses, lp
from keras_fim.attacks.problem import Problem
from keras_fim.attacks.samples import Best, Task, choose, put, take
from keras_fim.logits import LogitsFunction, predict_logits
from keras_fim.typing import AttackResult


@dataclasses.dataclass(frozen=True, kw_only=True)
class StagedAttack(kinds.FixedBudgetAttack):
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

    norm: Norm = np.inf

    compiled: ClassVar[bool] = False  # the stages are
    stages: ClassVar[tuple[str, ...]]
    """The names of the stages, in order."""

    @abc.abstractmethod
    def attacks(self, num_classes: int = 10) -> dict[str, base.Attack]:
        """The attack of each stage that runs on models of K classes, by its name."""

    def shares(self, result: AttackResult) -> dict[str, float]:
        """The share of the originally correct samples that each stage fooled; they add up to the fooling ratio.

        Args:
            result: of this attack.

        Returns:
            Shares by the name of the stage; NaN if no sample was correct.
        """
        stage = result.details["stage"][result.was_correct]
        total = len(stage) or float("nan")
        return {name: np.count_nonzero(stage == number) / total for number, name in enumerate(self.stages)}

    def _sweep(self, problem: Problem, epsilons: Sequence[float | None]) -> list[AttackResult]:
        """From the smallest ε to the largest: what was fooled stays fooled, by the same point."""
        budgets, results = base.check_epsilons(epsilons), {}
        state = (logits, *_) = self.prepare(problem.unit_fn, problem.task)
        for epsilon in sorted(set(budgets)):
            result = self.perturb(problem.unit_fn, problem.task._replace(epsilon=problem.budgets(epsilon)), state)
            state = (logits, result.adversarials, result.logits, result.details["stage"])
            results[epsilon] = self._result(problem, logits, result)
        return [results[epsilon] for epsilon in budgets]

    def prepare(self, logits_fn: LogitsFunction, task: Task) -> tuple[tf.Tensor, ...]:
        """Logits; then the best points so far, their logits, and the stages that they are of."""
        starts = range(0, len(task.images), self.batch_size)
        logits = tf.concat([self._logits(logits_fn, task.images[i : i + self.batch_size]) for i in starts], axis=0)
        return logits, task.images, logits, tf.fill([len(task.images)], -1)

    def _logits(self, logits_fn: LogitsFunction, images: tf.Tensor) -> tf.Tensor:
        """The logits by which images were correct before."""
        return logits_fn.compiled(predict_logits)(images)

    def perturb(self, logits_fn: LogitsFunction, task: Task, state: tuple[Any, ...]) -> kinds.Perturbed:
        """Stage by stage, each on full batches of the samples that stand."""
        logits, points, attacked, stage = state
        best, rounds = Best.of(points, attacked, task.labels, "margin"), self._rounds(logits.shape[-1])
        stage = tf.where(stage == -2, -1, stage)
        bar = keras.utils.Progbar(len(rounds), verbose=int(self.progress), unit_name="round")
        for turn, (number, attack) in enumerate(rounds):
            for index in self._standing(task, best):
                part = take(task._replace(keys=draws.fold(task.keys, turn)), index)
                new = self._run(self.stages[number], attack, logits_fn, part, tf.gather(logits, index))
                best = put(best, index, new.unless_worse_than(take(best, index)))
                reached = tf.where(new.fooled, number, tf.where(new.once, -3, tf.gather(stage, index)))
                stage = put(stage, index, reached)
            bar.update(turn + 1)
        return kinds.Perturbed(best.points, best.logits, {"stage": self._stuck(logits_fn, task, best, stage)})

    def _stuck(self, logits_fn: LogitsFunction, task: Task, best: Best, stage: tf.Tensor) -> tf.Tensor:
        """The stages, -2 for samples that stand where the margin has no slope."""
        for index in self._standing(task, best):
            points, labels, old = take((best.points, task.labels, stage), index)
            stuck = ~(logits_fn.compiled(losses.slope)(points, labels) > 0) & (old == -1)
            stage = put(stage, index, tf.where(stuck, -2, old))
        return stage

    def _standing(self, task: Task, best: Best) -> Iterator[tf.Tensor]:
        """The positions of samples that stand and have a budget, a batch at a time."""
        (standing,) = np.nonzero(~best.fooled.numpy() & (task.epsilon.numpy() > 0))
        for start in range(0, len(standing), self.batch_size):
            yield tf.constant(standing[start : start + self.batch_size])

    def _rounds(self, num_classes: int) -> list[tuple[int, base.Attack]]:
        """Stages and attacks in order; restarts one by one, since they share what is compiled, and batches are full."""
        rounds: list[tuple[int, base.Attack]] = []
        for name, attack in self.attacks(num_classes).items():
            number, runs = self.stages.index(name), 1
            if isinstance(attack, iterative.PGD):
                attack, runs = dataclasses.replace(attack, restarts=1), attack.restarts
            rounds += [(number, attack)] * runs
        return rounds

    def _run(self, stage: str, attack: base.Attack, logits_fn: LogitsFunction, task: Task, logits: tf.Tensor) -> Best:
        """What a stage makes of some samples, whose logits are known."""
        if isinstance(attack, kinds.FixedBudgetAttack):
            result = attack._function(type(attack).perturb, logits_fn)(task, (logits,))
            return Best.of(result.adversarials, result.logits, task.labels, "margin")
        assert isinstance(attack, kinds.SearchAttack)
        points = attack._function(type(attack).search, logits_fn)(task).adversarials
        points = choose(lp.norms_of(points - task.images, self.norm) <= task.epsilon, points, task.images)
        return Best.of(points, logits_fn.compiled(predict_logits)(points), task.labels, "margin")


def random_outputs(logits_fn: LogitsFunction, images: tf.Tensor) -> bool:
    """Whether outputs differ between passes over some images: of few random states, such as sizes, two may agree."""
    first = np.asarray(logits_fn(images), np.float64)
    return any(outputs_differ(first, np.asarray(logits_fn(images), np.float64)) for _ in range(5))


def outputs_differ(first: np.ndarray, second: np.ndarray, most: float = 1e-4) -> bool:
    """Whether the logits ``(n, K)`` of two passes over some images, l2-normalized, are apart by more than ``most``.

    Of two classes all rows have one norm, the largest: of one sigmoid's (0, z) the row's own leaves only the sign.
    """
    norms = [np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-300) for rows in (first, second)]
    norms = [np.max(norms)] * 2 if first.shape[-1] == 2 else norms
    return bool(np.linalg.norm(first / norms[0] - second / norms[1], axis=-1).max() > most)
