"""APGD: steps up the loss whose length follows from how the climb goes, as one compiled loop."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_fim.attacks.best import Best
from keras_fim.attacks.fixed_budget import FixedBudgetAttack, Perturbed
from keras_fim.attacks.losses import LOSSES, loss_gradient
from keras_fim.attacks.lp import by_image, check_norm, norm_name, project, random_in_ball, steepest
from keras_fim.logits import LogitsFunction

__all__ = ["APGD", "checkpoints"]

_SHORT = {"cross_entropy": "ce"}


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


class _Climb(NamedTuple):
    """Samples on their way, ``(active, ...)`` each.

    Who they are, where they stand and stood before, what is known there; the length of their steps, how many steps
    raised the loss since the last checkpoint, whether that halved them; the point of the largest loss, and what that
    loss was at the last checkpoint.
    """

    index: tf.Tensor
    origin: tf.Tensor
    labels: tf.Tensor
    epsilon: tf.Tensor
    point: tf.Tensor
    previous: tf.Tensor
    gradient: tf.Tensor
    loss: tf.Tensor
    length: tf.Tensor
    rises: tf.Tensor
    halved: tf.Tensor
    peak: tf.Tensor
    peak_gradient: tf.Tensor
    peak_loss: tf.Tensor
    checked_loss: tf.Tensor

    @classmethod
    def start(cls, images: tf.Tensor, labels: tf.Tensor, epsilon: tf.Tensor, points: tf.Tensor) -> _Climb:
        index, low = tf.range(tf.shape(images)[0]), tf.fill(tf.shape(epsilon), tf.cast(-np.inf, epsilon.dtype))
        zero, rises = tf.zeros_like(images), tf.zeros_like(labels)
        where = (points, points, zero, -low)  # the first look is not a rise
        return cls(index, images, labels, epsilon, *where, 2 * epsilon, rises, rises > 0, points, zero, low, low)

    def keep(self, chosen: tf.Tensor) -> _Climb:
        return _Climb(*[tf.boolean_mask(each, chosen) for each in self])

    def with_look(self, gradient: tf.Tensor, loss: tf.Tensor) -> _Climb:
        """What was found at the present points."""
        higher = loss > self.peak_loss
        wide = by_image(higher, self.point)
        return self._replace(
            gradient=gradient,
            loss=loss,
            rises=self.rises + tf.cast(loss > self.loss, self.rises.dtype),
            peak=tf.where(wide, self.point, self.peak),
            peak_gradient=tf.where(wide, gradient, self.peak_gradient),
            peak_loss=tf.where(higher, loss, self.peak_loss),
        )

    def checked(self, enough: tf.Tensor) -> _Climb:
        """Half as long steps from the best point, of those that rose too seldom or not at all at this length."""
        halve = (tf.cast(self.rises, enough.dtype) < enough) | (~self.halved & (self.peak_loss <= self.checked_loss))
        wide = by_image(halve, self.point)
        return self._replace(
            length=tf.where(halve, self.length / 2, self.length),
            rises=tf.zeros_like(self.rises),
            halved=halve,
            point=tf.where(wide, self.peak, self.point),
            gradient=tf.where(wide, self.peak_gradient, self.gradient),
            loss=tf.where(halve, self.peak_loss, self.loss),
            checked_loss=self.peak_loss,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class APGD(FixedBudgetAttack):
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
        loss: ``"cross_entropy"``, ``"dlr"`` (of two classes it is the margin; see `losses.logits_ratio_against`) or
            ``"margin"``.
        steps: number of steps.
        restarts: number of runs, each from a random point; in those after the first, only samples that still stand
            take part.
        rho: share of the steps that have to raise the loss.
        stop_early: a sample leaves the batch as soon as it is fooled: faster where only fooled-or-not is asked.
            Otherwise the best point of the way is returned (fooling, then of the largest loss).

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

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "norm", check_norm(self.norm, (2, np.inf)))
        self._check_counts("steps", "restarts")
        self._check(0 <= self.rho <= 1, "rho", "in [0, 1]")
        self._check(self.loss in LOSSES, "loss", f"one of {', '.join(LOSSES)}")

    @property
    def name(self) -> str:
        """The loss and the norm, like ``apgd_ce_linf``."""
        return f"apgd_{_SHORT.get(self.loss, self.loss)}_{norm_name(self.norm)}"

    @property
    def whole_batch(self) -> bool:
        """Whether there are neither `restarts` nor `stop_early`."""
        return self.restarts == 1 and not self.stop_early

    def fooling_only(self) -> APGD:
        """With `stop_early`."""
        return dataclasses.replace(self, stop_early=True)

    def prepare(
        self, logits_fn: LogitsFunction, images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        """Logits."""
        return (logits_fn(images),)

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
        """The steps, restart by restart."""
        best = Best.of(images, logits, labels, self.loss)
        for restart in range(self.restarts):
            start = random_in_ball(images, epsilon, self.norm, tf.stack([seed, restart]))
            start = tf.clip_by_value(images + start, *self.bounds)
            climb = _Climb.start(images, labels, epsilon, start)
            if restart or self.stop_early:
                climb = climb.keep(~best.fooled)
            best = self._climb(logits_fn, best, climb)
        return Perturbed(best.points, best.logits)

    def _climb(self, logits_fn: LogitsFunction, best: Best, climb: _Climb) -> Best:
        """All steps of one restart."""
        marks = checkpoints(self.steps)
        enough = np.full(self.steps + 1, -1.0)  # no checkpoint
        enough[marks[1:]] = self.rho * np.diff(marks)

        def going(step: tf.Tensor, best: Best, climb: _Climb) -> tf.Tensor:
            return (step < self.steps) & (tf.size(climb.index) > 0)  # no model is called on an empty batch

        def body(step: tf.Tensor, best: Best, climb: _Climb) -> tuple[tf.Tensor, Best, _Climb]:
            moved = tf.cond(step > 0, lambda: self._move(climb, step), lambda: climb)
            best, looked, fooled = self._look(logits_fn, best, moved)
            needed = tf.gather(tf.constant(enough, climb.epsilon.dtype), step)
            looked = tf.cond(needed >= 0, lambda: looked.checked(needed), lambda: looked)
            return step + 1, best, looked.keep(~fooled) if self.stop_early else looked

        step, best, climb = tf.while_loop(going, body, (tf.constant(0), best, climb))
        anyone = tf.size(climb.index) > 0
        best = tf.cond(anyone, lambda: self._last(logits_fn, best, climb, step), lambda: best)
        return best

    def _look(self, logits_fn: LogitsFunction, best: Best, climb: _Climb) -> tuple[Best, _Climb, tf.Tensor]:
        """The gradient at the new points; what is good there is kept; and who is fooled there."""
        gradient, logits = loss_gradient(logits_fn, climb.point, climb.labels, loss=self.loss)
        new = Best.of(climb.point, logits, climb.labels, self.loss)
        best = best.with_at(climb.index, new.unless_worse_than(best.at(climb.index)))
        return best, climb.with_look(gradient, new.loss), new.fooled

    def _last(self, logits_fn: LogitsFunction, best: Best, climb: _Climb, step: tf.Tensor) -> Best:
        """The last step, whose end needs no gradient."""
        climb = self._move(climb, step)
        new = Best.of(climb.point, logits_fn(climb.point), climb.labels, self.loss)
        return best.with_at(climb.index, new.unless_worse_than(best.at(climb.index)))

    def _move(self, climb: _Climb, step: tf.Tensor) -> _Climb:
        """One step; the first has no momentum."""
        length = by_image(climb.length, climb.point)
        aim = self._inside(climb, climb.point + length * steepest(climb.gradient, self.norm))
        share = tf.where(step > 1, tf.cast(0.75, length.dtype), tf.cast(1, length.dtype))
        point = climb.point + share * (aim - climb.point) + (1 - share) * (climb.point - climb.previous)
        return climb._replace(point=self._inside(climb, point), previous=climb.point)

    def _inside(self, climb: _Climb, points: tf.Tensor) -> tf.Tensor:
        """P; the last clip is for what rounding adds."""
        points = tf.clip_by_value(points, *self.bounds)
        points = climb.origin + project(points - climb.origin, climb.epsilon, self.norm)
        return tf.clip_by_value(points, *self.bounds)
