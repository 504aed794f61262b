"""APGD: steps up the loss whose length follows from how the climb goes, as one compiled loop."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_fim.attacks.aimed import AimedAttack
from keras_fim.attacks.fixed_budget import FixedBudgetAttack, Perturbed
from keras_fim.attacks.losses import LOSSES, TARGETED_LOSSES, loss_gradient, loss_value, others
from keras_fim.attacks.lp import by_image, check_norm, norm_name, project_inside, steepest
from keras_fim.attacks.samples import Best, Task, choose, keep, random_start
from keras_fim.logits import LogitsFunction

_SHORT = {"cross_entropy": "ce", "dlr_targeted": "t"}


def checkpoints(steps: int) -> list[int]:
    """The steps after which the length of a step is reconsidered, with 0 before them.

    They are ``⌈p_j steps⌉`` of p = 0, 0.22, then further apart by 0.03 less each time, but by at least 0.06.

    Example:
        >>> checkpoints(100)
        [0, 22, 41, 57, 70, 80, 87, 93, 99]
    """
    share, gap, found = 0, 22, {0}  # per cent, so that nothing is rounded
    while share + gap <= 100:
        share += gap
        found.add(math.ceil(share * steps / 100))
        gap = max(gap - 3, 6)
    return sorted(found)


class _Place(NamedTuple):
    """Points of some samples, and what is known there."""

    point: tf.Tensor
    gradient: tf.Tensor
    loss: tf.Tensor


class _Climb(NamedTuple):
    """Samples on their way, ``(active, ...)`` each.

    Who they are, where they stand and stood before; the length of their steps, how many steps raised the loss since the
    last checkpoint, whether that halved them; the place of the largest loss, and that loss at the last checkpoint.
    """

    index: tf.Tensor
    task: Task
    here: _Place
    previous: tf.Tensor
    length: tf.Tensor
    rises: tf.Tensor
    halved: tf.Tensor
    peak: _Place
    checked_loss: tf.Tensor

    @classmethod
    def start(cls, task: Task, points: tf.Tensor) -> _Climb:
        index, low = tf.range(tf.shape(points)[0]), tf.fill(tf.shape(task.epsilon), tf.cast(-np.inf, points.dtype))
        here = _Place(points, tf.zeros_like(points), -low)  # the first look is not a rise
        rises = tf.zeros_like(task.labels)
        return cls(index, task, here, points, 2 * task.epsilon, rises, rises > 0, here._replace(loss=low), low)

    def with_look(self, gradient: tf.Tensor, loss: tf.Tensor) -> _Climb:
        """What was found at the present points."""
        here = _Place(self.here.point, gradient, loss)
        rises = self.rises + tf.cast(loss > self.here.loss, self.rises.dtype)
        return self._replace(here=here, rises=rises, peak=choose(loss > self.peak.loss, here, self.peak))

    def checked(self, enough: tf.Tensor) -> _Climb:
        """Half as long steps from the best point, of those that rose too seldom or not at all at this length."""
        halve = (tf.cast(self.rises, enough.dtype) < enough) | (~self.halved & (self.peak.loss <= self.checked_loss))
        return self._replace(
            length=tf.where(halve, self.length / 2, self.length),
            rises=tf.zeros_like(self.rises),
            halved=halve,
            here=choose(halve, self.peak, self.here),
            checked_loss=self.peak.loss,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class APGD(FixedBudgetAttack, AimedAttack):
    r"""Auto-PGD, projected gradient ascent with momentum and without a step size to choose.

    .. math::
        z = P(x_k + η\, s(∇f(x_k))), \quad x_{k+1} = P(x_k + α (z - x_k) + (1 - α) (x_k - x_{k-1})), \quad α = 0.75

    with P onto the pixel bounds and the ball, and s the steepest direction of the norm. η starts at 2 ε. At each of the
    `checkpoints` a sample halves it and goes back to its best point if fewer than ``rho`` of the steps since the last
    one raised the loss, or if the loss has no new maximum and η was not halved at the last one. P clips first: in l2,
    what is clipped after the projection would not use the whole budget.

    Of N steps it pays N gradients and one forward pass.

    Args:
        norm: 2 or inf.
        loss: ``"cross_entropy"``, ``"dlr"`` (of two classes it is the margin; see `losses.logits_ratio_against`),
            ``"margin"``, or a loss of one wrong class, with a run for each of the ``num_targets`` most probable ones:
            ``"dlr_targeted"`` (APGD-T; at least four classes) or ``"targeted_margin"``.
        steps: number of steps.
        restarts: number of runs (for each class aimed at), each from a random point; in those after the first, only
            samples that still stand take part.
        rho: share of the steps that have to raise the loss.
        stop_early: a sample leaves the batch as soon as it is fooled: faster where only fooled-or-not is asked.
            Otherwise the best point of the way is returned (fooling, then of the largest loss; of several targets, of
            the largest margin).
        num_targets: The number of wrong classes that the losses of one wrong class are raised for, at most K - 1.
        target: See `keras_fim.attacks.aimed.AimedAttack`; the losses of one wrong class are then those of the target.

    Example:
        >>> from keras_fim import models
        >>> attack = APGD(norm=2, loss="dlr", steps=5)
        >>> result = attack(models.convnet(), np.full((2, 28, 28, 1), 0.4), [3, 7], epsilon=0.5)
        >>> attack.name, bool((result.distances <= 0.500001).all())
        ('apgd_dlr_l2', True)

    Source:
        Croce & Hein, Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks
        (ICML 2020), algorithm 1.
    """

    norm: float = np.inf
    loss: str = "cross_entropy"
    steps: int = 100
    restarts: int = 1
    rho: float = 0.75
    stop_early: bool = False
    num_targets: int = 9

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "norm", check_norm(self.norm, (2, np.inf)))
        self._check_counts("steps", "restarts", "num_targets")
        self._check(0 <= self.rho <= 1, "rho", "in [0, 1]")
        losses = (*LOSSES, *TARGETED_LOSSES)
        self._check(self.loss in losses, "loss", f"one of {', '.join(losses)}")

    @property
    def name(self) -> str:
        """The loss, the norm and the target, if there is one, like ``apgd_ce_linf`` or ``apgd_t_l2``."""
        return f"apgd_{_SHORT.get(self.loss, self.loss)}_{norm_name(self.norm)}{self._suffix}"

    @property
    def least_classes(self) -> int:
        """4 for the targeted DLR."""
        return 4 if self.loss == "dlr_targeted" else 2

    @property
    def whole_batch(self) -> bool:
        """Whether there is one run and no `stop_early`."""
        return self.restarts == 1 and not self.stop_early and (self.aimed or self.loss in LOSSES)

    def fooling_only(self) -> APGD:
        """With `stop_early`."""
        return dataclasses.replace(self, stop_early=True)

    def perturb(self, logits_fn: LogitsFunction, task: Task, state: tuple[Any, ...]) -> Perturbed:
        """The steps, run by run: for each class aimed at, its restarts."""
        best, targets = self._look(task.images, state[0], task), self._targets(state[0], task)
        count = self.restarts * targets.shape[1]

        def body(run: tf.Tensor, best: Best) -> tuple[tf.Tensor, Best]:
            aimed = task._replace(target=tf.gather(targets, run // self.restarts, axis=1))
            climb = _Climb.start(aimed, random_start(task, self.norm, run))
            takes_part = ~best.fooled if self.stop_early else ~best.fooled | (run == 0)
            return run + 1, self._climb(logits_fn, best, climb if self.whole_batch else keep(climb, takes_part))

        _, best = tf.while_loop(lambda run, _: run < count, body, (tf.constant(0), best))
        return Perturbed(best.points, best.logits)

    def _targets(self, logits: tf.Tensor, task: Task) -> tf.Tensor:
        """The classes aimed at in turn, ``(batch, runs)``; for a loss of one wrong class the most probable ones."""
        if self.aimed or self.loss in LOSSES:
            return task.target[:, None]
        count = min(self.num_targets, logits.shape[-1] - 1)
        return tf.cast(tf.math.top_k(others(logits, task.labels), count).indices, task.labels.dtype)

    def _look(self, points: tf.Tensor, logits: tf.Tensor, task: Task) -> Best:
        """Points by the loss that tells which of them is the best, whatever class they were to be."""
        loss = "margin" if self.loss in TARGETED_LOSSES else self.loss
        return Best.of(points, logits, task.labels, loss, self._aims(task))

    def _climb(self, logits_fn: LogitsFunction, best: Best, climb: _Climb) -> Best:
        """All steps of one run."""
        marks = checkpoints(self.steps)
        enough = np.full(self.steps + 1, -1.0)  # no checkpoint
        enough[marks[1:]] = self.rho * np.diff(marks)

        def going(step: tf.Tensor, best: Best, climb: _Climb) -> tf.Tensor:
            return (step < self.steps) & (tf.size(climb.index) > 0)  # no model is called on an empty batch

        def body(step: tf.Tensor, best: Best, climb: _Climb) -> tuple[tf.Tensor, Best, _Climb]:
            climb = tf.cond(step > 0, lambda: self._move(climb, step), lambda: climb)
            labels, targets = climb.task.labels, self._aims(climb.task, self.loss)
            gradient, logits = loss_gradient(logits_fn, climb.here.point, labels, loss=self.loss, targets=targets)
            new, loss = self._look(climb.here.point, logits, climb.task), loss_value(logits, labels, self.loss, targets)
            best, looked = best.improved_at(climb.index, new), climb.with_look(gradient, loss)
            needed = tf.gather(tf.constant(enough, loss.dtype), step)
            looked = tf.cond(needed >= 0, lambda: looked.checked(needed), lambda: looked)
            return step + 1, best, keep(looked, ~new.fooled) if self.stop_early else looked

        def last() -> Best:  # the end of the last step needs no gradient
            point = self._move(climb, step).here.point
            return best.improved_at(climb.index, self._look(point, logits_fn(point), climb.task))

        step, best, climb = tf.while_loop(going, body, (tf.constant(0), best, climb))
        best = tf.cond(tf.size(climb.index) > 0, last, lambda: best)
        return best

    def _move(self, climb: _Climb, step: tf.Tensor) -> _Climb:
        """One step; the first has no momentum."""
        point, length = climb.here.point, by_image(climb.length, climb.previous)
        aim = self._inside(climb.task, point + length * steepest(climb.here.gradient, self.norm))
        share = tf.where(step > 1, tf.cast(0.75, length.dtype), tf.cast(1, length.dtype))
        moved = point + share * (aim - point) + (1 - share) * (point - climb.previous)
        return climb._replace(here=climb.here._replace(point=self._inside(climb.task, moved)), previous=point)

    def _inside(self, task: Task, points: tf.Tensor) -> tf.Tensor:
        """P; the last clip, in `project_inside`, is for what rounding adds."""
        return project_inside(tf.clip_by_value(points, 0, 1), task.images, task.epsilon, self.norm)
