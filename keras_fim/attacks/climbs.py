"""Steps up a loss as one compiled loop, and how APGD climbs: what it keeps of each sample, its steps, checkpoints."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_fim.attacks import base, kinds, losses, lp
from keras_fim.attacks.samples import Best, Task, Way, choose, walk
from keras_fim.geometry.jacobian import gradient as gradient_of
from keras_fim.logits import LogitsFunction


class Ascent(kinds.FixedBudgetAttack, base.AimedAttack):
    """An attack by steps up a loss; what it keeps of samples on their way has a `Place` and makes its own steps."""

    loss: str
    stop_early: bool
    keep_best: bool = True

    def fooling_only(self) -> Ascent:
        """With `stop_early`, unless the last point was asked for."""
        return dataclasses.replace(self, stop_early=self.keep_best)  # type: ignore[call-arg]

    def _climb(
        self, logits_fn: LogitsFunction, best: Best, way: Way, steps: int, *, first: int = 0, counts: bool = True
    ) -> tuple[Best, Way]:
        """All steps of a run: the best points, if its points count, and the samples that are left."""

        def body(step: tf.Tensor, task: Task, best: Best, climb: Any) -> tuple[Any, ...]:
            climb = tf.cond(step > 0, lambda: climb.moved(step, task, self), lambda: climb)
            here, new = self._look(logits_fn, task, climb.here.point)
            climb = self._checked(climb.looked(here), task, step, steps)
            if not counts:
                return best, climb, None
            return self._better(new, best), climb, ~new.fooled if self.stop_early else None

        def last(step: tf.Tensor, task: Task, best: Best, climb: Any) -> Best:
            # compiled, its gradient is not computed
            return self._better(self._look(logits_fn, task, climb.moved(step, task, self).here.point)[1], best)

        return walk(body, steps, best, way, first=first, last=last if counts else None)

    def _look(self, logits_fn: LogitsFunction, task: Task, points: tf.Tensor) -> tuple[Place, Best]:
        """Some points with the gradient and the loss there, and what can be kept of them."""
        targets = self._aims(task, self.loss)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(points)
            logits = logits_fn(points)
            loss = losses.loss_value(logits, task.labels, self.loss, targets)
        return Place(points, gradient_of(tape, loss, points), loss), self._seen(points, logits, task)

    def _checked(self, climb: Any, task: Task, step: tf.Tensor, steps: int) -> Any:
        """What a checkpoint changes, if the step is one."""
        return climb

    def _seen(self, points: tf.Tensor, logits: tf.Tensor, task: Task) -> Best:
        """Points by the loss that tells which of them is the best, whatever class they were to be."""
        compared = "margin" if self.loss in losses.TARGETED_LOSSES else self.loss
        return Best.of(points, logits, task.labels, compared, self._aims(task))

    def _targets(self, logits: tf.Tensor, task: Task, count: int) -> tf.Tensor:
        """The classes aimed at in turn, ``(batch, runs)``; for a loss of one wrong class the most probable ones."""
        if self.aimed or self.loss not in losses.TARGETED_LOSSES:
            return task.target[:, None]
        return tf.cast(losses.most_probable_others(logits, task.labels, count), task.labels.dtype)

    def _better(self, new: Best, old: Best) -> Best:
        """The better of two points, or the new one if the last is asked for."""
        return new.unless_worse_than(old) if self.keep_best else new


def checkpoints(steps: int) -> list[int]:
    """The steps after which the length of a step is reconsidered, with 0 before them.

    They are ``⌈p_j steps⌉`` of p = 0, 0.22, then further apart by 0.03 less each time, but by at least 0.06.

    Example:
        >>> checkpoints(100)
        [0, 22, 41, 57, 70, 80, 87, 93, 99]
    """
    share, gap, marks = 0, 22, {0}  # per cent, so that nothing is rounded
    while share + gap <= 100:
        share += gap
        marks.add(math.ceil(share * steps / 100))
        gap = max(gap - 3, 6)
    return sorted(marks)


class Place(NamedTuple):
    """Points of some samples, with the gradient and the loss there."""

    point: tf.Tensor
    gradient: tf.Tensor
    loss: tf.Tensor

    @classmethod
    def start(cls, points: tf.Tensor, loss: float) -> Place:
        """Points that the model has not been asked about, with a loss to compare with."""
        return cls(points, tf.zeros_like(points), tf.fill(tf.shape(points)[:1], tf.cast(loss, points.dtype)))


class Climb(NamedTuple):
    """What is kept of samples on their way in l2 or l∞.

    Where they stand and stood before; the length of their steps, how many steps raised the loss since the last
    checkpoint, whether that halved them; the place of the largest loss, and that loss at the last checkpoint.
    """

    here: Place
    previous: tf.Tensor
    length: tf.Tensor
    rises: tf.Tensor
    halved: tf.Tensor
    peak: Place
    checked_loss: tf.Tensor

    @classmethod
    def start(cls, task: Task, points: tf.Tensor) -> Climb:
        """Before the first look, which is not a rise."""
        rises, peak = tf.zeros_like(task.labels), Place.start(points, -np.inf)
        here = Place.start(points, np.inf)
        return cls(here, points, 2 * task.epsilon, rises, rises > 0, peak, peak.loss)

    @staticmethod
    def needed(steps: int, rho: float) -> np.ndarray:
        """For each step how many have to have raised the loss since the last checkpoint; -1 between checkpoints."""
        marks, enough = checkpoints(steps), np.full(steps + 1, -1.0)
        enough[marks[1:]] = rho * np.diff(marks)
        return enough

    def moved(self, step: tf.Tensor, task: Task, attack: base.Attack) -> Climb:
        """One step; the first has no momentum."""
        norm, point, length = attack.norm, self.here.point, lp.by_image(self.length, self.previous)
        aim = _inside(point + length * lp.steepest(self.here.gradient, norm), task, norm)
        share = tf.where(step > 1, tf.cast(0.75, length.dtype), tf.cast(1, length.dtype))
        moved = point + share * (aim - point) + (1 - share) * (point - self.previous)
        return self._replace(here=self.here._replace(point=_inside(moved, task, norm)), previous=point)

    def looked(self, here: Place) -> Climb:
        """With what is known at the present points."""
        rises = self.rises + tf.cast(here.loss > self.here.loss, self.rises.dtype)
        return self._replace(here=here, rises=rises, peak=choose(here.loss > self.peak.loss, here, self.peak))

    def checked(self, task: Task, enough: tf.Tensor) -> Climb:
        """Half as long steps from the best point, of those that rose too seldom or not at all at this length."""
        halve = (tf.cast(self.rises, enough.dtype) < enough) | (~self.halved & (self.peak.loss <= self.checked_loss))
        return self._replace(
            length=tf.where(halve, self.length / 2, self.length),
            rises=tf.zeros_like(self.rises),
            halved=halve,
            here=choose(halve, self.peak, self.here),
            checked_loss=self.peak.loss,
        )


def _inside(points: tf.Tensor, task: Task, norm: float) -> tf.Tensor:
    """Clipped, then projected; the last clip, in `project_inside`, is for what rounding adds."""
    return lp.project_inside(tf.clip_by_value(points, 0, 1), task.images, task.epsilon, norm)


class SparseClimb(NamedTuple):
    """What is kept of samples on their way in l1: steps change few values, fewer as the best point does.

    Where they stand; the length of their steps, and the number of values that these change; the place of the largest
    loss, and how many values it had changed at the last checkpoint.
    """

    here: Place
    length: tf.Tensor
    width: tf.Tensor
    peak: Place
    changed: tf.Tensor

    @classmethod
    def start(cls, task: Task, points: tf.Tensor) -> SparseClimb:
        """Before the first look."""
        peak, changed = Place.start(points, -np.inf), lp.num_changed(points, task.images)
        return cls(peak, task.epsilon, changed / 1.5, peak, changed)

    @staticmethod
    def needed(steps: int, rho: float) -> np.ndarray:
        """As of `Climb`; every step in 25 is a checkpoint."""
        return np.where(np.arange(steps + 1) % max(1, steps // 25), -1.0, 0.0)

    def moved(self, step: tf.Tensor, task: Task, attack: base.Attack) -> SparseClimb:
        """One step, of equal length for the values of the largest slopes that have room in its direction."""
        gradient, point = self.here.gradient, self.here.point
        room = tf.where(gradient > 0, 1 - point, point) > 0
        slopes = tf.where(room, tf.abs(gradient), tf.zeros_like(gradient))
        flat = tf.reshape(slopes, [-1, slopes.shape[1:].num_elements()])
        last = tf.cast(tf.clip_by_value(self.width, 1, flat.shape[-1]), tf.int32) - 1
        least = tf.gather(tf.sort(flat, direction="DESCENDING"), last, batch_dims=1)
        steps = tf.where((slopes >= lp.by_image(least, slopes)) & room, tf.sign(gradient), tf.zeros_like(gradient))
        length = tf.math.divide_no_nan(self.length, lp.norms_of(steps, 1))
        point = lp.project_inside(point + lp.by_image(length, steps) * steps, task.images, task.epsilon, 1)
        return self._replace(here=self.here._replace(point=point))

    def looked(self, here: Place) -> SparseClimb:
        """With what is known at the present points."""
        return self._replace(here=here, peak=choose(here.loss > self.peak.loss, here, self.peak))

    def checked(self, task: Task, enough: tf.Tensor) -> SparseClimb:
        """Where the best point has become sparser: from there, in long steps again; elsewhere in shorter ones."""
        changed, longest = lp.num_changed(self.peak.point, task.images), task.epsilon
        sparser = changed < 0.95 * self.changed
        return self._replace(
            length=tf.where(sparser, longest, tf.maximum(self.length / 1.5, longest / 10)),
            width=changed / 1.5,
            here=choose(sparser, self.peak, self.here),
            changed=changed,
        )
