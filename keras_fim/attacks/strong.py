"""A sequence of strong attacks, of which each works on the samples that the ones before could not fool."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from keras_fim.attacks import draws
from keras_fim.attacks.apgd import APGD
from keras_fim.attacks.base import Problem, check_epsilons, predict_logits
from keras_fim.attacks.fixed_budget import FixedBudgetAttack, Perturbed
from keras_fim.attacks.iterative import PGD
from keras_fim.attacks.lp import check_norm, norm_name
from keras_fim.attacks.samples import Best, Task, take
from keras_fim.attacks.square import Square
from keras_fim.attacks.units import Units
from keras_fim.logits import LogitsFunction, logits_function
from keras_fim.typing import AttackResult, Model

__all__ = ["Strong"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Strong(FixedBudgetAttack):
    """The attack whose robust accuracy is worth quoting: each sample goes on to the next stage while it stands.

    The stages are, by index (`stages`): 0 ``transfer``, adversarials of an undefended twin (PGD on its margin, 40
    steps), if there is a twin; 1 ``pgd``, PGD on the margin, 5 restarts of 40 steps; 2 ``apgd_ce``, 100 steps; 3
    ``apgd_dlr``, 100 steps; 4 ``square``, 1000 queries. ``quick`` takes a quarter of the steps (PGD's twice as long)
    and queries. A defense that masks gradients falls to the first stage or the last.

    A sample that was fooled at a smaller ε of a sweep stays fooled by the same point, so that success grows with ε. One
    that stands comes back at the point of the largest margin, one that was wrong before unchanged. Samples of all
    batches are gathered before each stage, so that later ones work on full batches.

    Args:
        norm: 2 or inf.
        twin: an undefended model for the same classes, as `logits_function` takes it; a plain callable or a path is
            best passed through that, so that it is compiled once.
        quick: a quarter of the steps and queries of each stage.
        progress: show a progress bar of the stages and restarts done, at each ε.

    The result's ``details["stage"]`` is, for each sample, the index of the stage that fooled it, -1 for none.

    Example:
        >>> from keras_fim import models
        >>> model, images = models.convnet(), np.full((2, 28, 28, 1), 0.4, "float32")
        >>> attack = Strong(norm=np.inf, quick=True)
        >>> result = attack(model, images, model.predict(images, verbose=0).argmax(axis=-1), epsilon=0.1)
        >>> shares = attack.shares(result)
        >>> list(shares), bool(np.isclose(sum(shares.values()), result.fooling_ratio))
        (['transfer', 'pgd', 'apgd_ce', 'apgd_dlr', 'square'], True)

    Source:
        In the manner of AutoAttack: Croce & Hein, Reliable evaluation of adversarial robustness with an ensemble of
        diverse parameter-free attacks (ICML 2020).
    """

    norm: float = np.inf
    twin: Model = None
    quick: bool = False

    compiled: ClassVar[bool] = False  # the stages are
    stages: ClassVar[tuple[str, ...]] = ("transfer", "pgd", "apgd_ce", "apgd_dlr", "square")
    """The names of the stages, in order."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "norm", check_norm(self.norm, (2, np.inf)))

    @property
    def name(self) -> str:
        """``strong_l2`` or ``strong_linf``."""
        return f"strong_{norm_name(self.norm)}"

    def attacks(self) -> dict[str, FixedBudgetAttack]:
        """The attack of each stage; that of ``transfer`` is for the twin."""
        shared: dict[str, Any] = {"norm": self.norm, "bounds": self.bounds, "batch_size": self.batch_size}
        part = 4 if self.quick else 1
        pgd = {"loss": "margin", "steps": 40 // part, "step_size": 0.25 if self.quick else 0.125, **shared}
        apgd = {"steps": 100 // part, **shared}
        found: tuple[FixedBudgetAttack, ...] = (
            PGD(**pgd),  # to the largest margin of the twin: what barely fools it will not fool another
            PGD(restarts=5, stop_early=True, **pgd),
            APGD(stop_early=True, **apgd),
            APGD(loss="dlr", stop_early=True, **apgd),
            Square(queries=1000 // part, **shared),
        )
        return dict(zip(self.stages, found, strict=True))

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
            found = self.perturb(problem.unit_fn, task, state)
            state = (logits, found.adversarials, found.logits, found.details["stage"])
            results[epsilon] = self._result(problem, logits, found)
        return [results[epsilon] for epsilon in budgets]

    def prepare(self, logits_fn: LogitsFunction, task: Task) -> tuple[tf.Tensor, ...]:
        """Logits; then the best points so far, their logits, and the stages that they are of."""
        predict, count = logits_fn.compiled(predict_logits), len(task.images)
        size = self.batch_size
        logits = tf.concat([predict(task.images[start : start + size]) for start in range(0, count, size)], axis=0)
        return logits, task.images, logits, tf.fill([count], -1)

    def perturb(self, logits_fn: LogitsFunction, task: Task, state: tuple[Any, ...]) -> Perturbed:
        """Stage by stage, each on full batches of the samples that stand."""
        logits, points, attacked, stage = state
        best, rounds = Best.of(points, attacked, task.labels, "margin"), self._rounds()
        bar = keras.utils.Progbar(len(rounds), unit_name="round") if self.progress else None
        for turn, (number, attack) in enumerate(rounds):
            (standing,) = np.nonzero(~best.fooled.numpy() & (task.epsilon.numpy() > 0))
            for start in range(0, len(standing), self.batch_size):
                index = tf.constant(standing[start : start + self.batch_size])
                part = take(task._replace(keys=draws.fold(task.keys, turn)), index)
                attacker = self._transferred if number == 0 else self._attacked
                new = attacker(attack, logits_fn, part, tf.gather(logits, index))
                best = best.improved_at(index, new)
                stage = tf.tensor_scatter_nd_update(stage, index[:, None], tf.where(new.fooled, number, -1))
            if bar:
                bar.update(turn + 1)
        return Perturbed(best.points, best.logits, {"stage": stage})

    def _rounds(self) -> list[tuple[int, FixedBudgetAttack]]:
        """Stages and attacks in order; restarts one by one, since they share what is compiled, and batches are full."""
        rounds: list[tuple[int, FixedBudgetAttack]] = []
        for number, attack in enumerate(self.attacks().values()):
            if isinstance(attack, PGD):
                rounds += [(number, dataclasses.replace(attack, restarts=1))] * attack.restarts
            else:
                rounds.append((number, attack))
        return rounds if self.twin is not None else rounds[1:]

    def _attacked(self, attack: FixedBudgetAttack, logits_fn: LogitsFunction, task: Task, logits: tf.Tensor) -> Best:
        """What an attack finds."""
        found = attack._function(type(attack).perturb, logits_fn)(task, (logits,))
        return Best.of(found.adversarials, found.logits, task.labels, "margin")

    def _transferred(self, attack: FixedBudgetAttack, logits_fn: LogitsFunction, task: Task, logits: tf.Tensor) -> Best:
        """What the model makes of what an attack finds on the twin."""
        units = Units(self.bounds)
        twin = logits_function(self.twin, units.to_pixels(task.images))
        theirs = task._replace(images=twin.cast(task.images))
        theirs, twin = theirs._replace(epsilon=tf.cast(task.epsilon, theirs.images.dtype)), units.logits_fn(twin)
        known = twin.compiled(predict_logits)(theirs.images)
        if known.shape[-1] != logits.shape[-1]:
            raise ValueError(
                f"`twin` should have {logits.shape[-1]} classes like the model. Received: {known.shape[-1]} classes"
            )
        points = tf.cast(self._attacked(attack, twin, theirs, known).points, task.images.dtype)
        return Best.of(points, logits_fn.compiled(predict_logits)(points), task.labels, "margin")
