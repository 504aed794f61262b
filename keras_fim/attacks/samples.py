"""Tuples of tensors that have one entry for each sample: what an attack is called on, and what it keeps on its way."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
import tensorflow as tf

from keras_fim.attacks import draws, losses, lp

_T = TypeVar("_T")

MOST_DRAWS = 0.75
"""The share of the answers of a model that draws random numbers which have to be wrong for a success."""


class Task(NamedTuple):
    """What an attack is called on, a batch of it.

    Attributes:
        images: ``(batch, ...)`` in unit coordinates: 0 is the smallest pixel value, 1 the largest.
        labels: The true classes, int64 ``(batch,)``.
        epsilon: The budgets ``(batch,)``, in the attack's norm and in unit coordinates.
        keys: For random draws (`keras_fim.attacks.draws`), int64 ``(batch,)``.
        target: The classes to aim at, int64 ``(batch,)``; the labels where none were given.
    """

    images: tf.Tensor
    labels: tf.Tensor
    epsilon: tf.Tensor
    keys: tf.Tensor
    target: tf.Tensor


class Best(NamedTuple):
    """The best point seen of each sample: a fooling one if there was one, the one of the largest loss among equals.

    Attributes:
        points: ``(n, ...)``.
        logits: ``(n, K)``, theirs.
        loss: ``(n,)``, theirs.
        fooled: bool ``(n,)``, whether another class than the label is predicted, or the target if there is one; of a
            model that draws random numbers, whether `MOST_DRAWS` of its answers are so.
        once: bool ``(n,)``, whether a single answer was so, at this point or another one seen.
    """

    points: tf.Tensor
    logits: tf.Tensor
    loss: tf.Tensor
    fooled: tf.Tensor
    once: tf.Tensor

    @classmethod
    def of(
        cls, points: tf.Tensor, logits: tf.Tensor, labels: tf.Tensor, loss: str, targets: tf.Tensor | None = None
    ) -> "Best":
        """Points that were looked at; ``loss`` and ``targets`` are as for `keras_fim.attacks.losses.loss_value`."""
        predicted = tf.argmax(logits, axis=-1)
        fooled = predicted != labels if targets is None else predicted == targets
        return cls(points, logits, losses.loss_value(logits, labels, loss, targets), fooled, fooled)

    def unless_worse_than(self, old: "Best") -> "Best":
        """The better ones of two, sample by sample; of equals the old."""
        better = (self.fooled & ~old.fooled) | ((self.fooled == old.fooled) & (self.loss > old.loss))
        return choose(better, self, old)._replace(once=self.once | old.once)


class Nearest(NamedTuple):
    """The nearest adversarial of each sample so far: its point ``(n, ...)``, and its distance, inf if there is none."""

    points: tf.Tensor
    distance: tf.Tensor

    @classmethod
    def start(cls, images: tf.Tensor) -> "Nearest":
        """None so far."""
        return cls(images, tf.fill(tf.shape(images)[:1], tf.cast(np.inf, images.dtype)))

    def or_new(self, points: tf.Tensor, distance: tf.Tensor, fooled: tf.Tensor) -> "Nearest":
        """With the points that ``fooled`` marks where they are nearer; of as near ones the earlier."""
        return choose(fooled & (distance < self.distance), Nearest(points, distance), self)


def take(parts: _T, index: Any) -> _T:
    """The entries at ``index``: positions or a slice."""
    return _each(lambda t: t[index] if isinstance(index, slice) else tf.gather(t, index), parts)


def keep(parts: _T, mask: tf.Tensor) -> _T:
    """The entries of the samples that ``mask``, bool ``(n,)``, marks."""
    return _each(lambda t: tf.boolean_mask(t, mask), parts)


def put(parts: _T, index: tf.Tensor, new: _T) -> _T:
    """The same with ``new`` entries at the positions ``index``."""
    return _each(lambda t, n: tf.tensor_scatter_nd_update(t, index[:, None], n), parts, new)


def choose(mask: tf.Tensor, yes: _T, no: _T) -> _T:
    """``yes`` where ``mask``, bool ``(n,)``, says so, ``no`` elsewhere."""
    return _each(lambda y, n: tf.where(lp.by_image(mask, y), y, n), yes, no)


def _each(function: Callable[..., tf.Tensor], parts: _T, *others: _T) -> _T:
    mapped: _T = tf.nest.map_structure(function, parts, *others)
    return mapped


class Way(NamedTuple):
    """Samples on their way through the steps of an attack, ``(active, ...)`` each.

    Attributes:
        index: Where they are among all.
        task: What they are attacked on.
        state: What else the attack keeps of them.
    """

    index: tf.Tensor
    task: Task
    state: Any

    @classmethod
    def start(cls, task: Task, state: Any) -> "Way":
        """That of all samples."""
        return cls(tf.range(tf.shape(task.labels)[0]), task, state)


def walk(
    body: Callable[..., tuple[Any, ...]], steps: int, best: _T, way: Way, *, first: int = 0, last: Any = None
) -> tuple[_T, Way]:
    """Repeat a step until no sample is left: no model is called on an empty batch.

    Args:
        body: Called with the number of the step, and the task, the best and the state of the samples on their way.
            Returns their best and their state after it, and which of them go on, bool ``(active,)``, or ``None``.
        steps: The number at which it ends.
        best: What is to be returned of all samples.
        way: The samples that take part.
        first: The number of the first step.
        last: Called like ``body`` at the end, if there are samples left; returns what is best then.

    Returns:
        The best, and the samples that are left.
    """

    def going(step: tf.Tensor, best: _T, way: Way) -> tf.Tensor:
        return (step < steps) & (tf.size(way.index) > 0)

    def onward(step: tf.Tensor, best: _T, way: Way) -> tuple[tf.Tensor, _T, Way]:
        reached, state, stays = body(step, way.task, take(best, way.index), way.state)
        best, way = put(best, way.index, reached), way._replace(state=state)
        return step + 1, best, way if stays is None else keep(way, stays)

    step, best, way = tf.while_loop(going, onward, (tf.constant(first), best, way))
    if last is not None:
        ended = tf.size(way.index) == 0
        end = functools.partial(last, step, way.task)
        best = tf.cond(ended, lambda: best, lambda: put(best, way.index, end(take(best, way.index), way.state)))
    return best, way


def repeat(body: Callable[[tf.Tensor, _T], _T], count: int, state: _T) -> _T:
    """The state after ``count`` steps; ``body`` goes from the number of a step and the state to the next state."""

    def onward(step: tf.Tensor, state: _T) -> tuple[tf.Tensor, _T]:
        return step + 1, body(step, state)

    end: _T = tf.while_loop(lambda step, _: step < count, onward, (tf.constant(0), state))[1]
    return end


def random_start(task: Task, norm: float, restart: int | tf.Tensor = 0) -> tf.Tensor:
    """Where a restart begins, as the images: uniform in the ball, then clipped to the unit cube."""
    shift = lp.random_in_ball(task.images, task.epsilon, norm, draws.fold(task.keys, restart))
    return tf.clip_by_value(task.images + shift, 0, 1)


def reachable(task: Task, norm: float) -> Task:
    """The task with an ε of no more than the distance to the farthest corner of the unit cube.

    Steps in proportion to a larger one would only lead from corner to corner. In l1 it is a little less than ε: many
    small components are each rounded when they are added to pixels.
    """
    epsilon = tf.minimum(task.epsilon, lp.norms_of(tf.maximum(task.images, 1 - task.images), norm))
    rounding = task.images.shape[1:].num_elements() * np.finfo(task.images.dtype.as_numpy_dtype).eps / 4
    return task._replace(epsilon=tf.maximum(epsilon - rounding, 0) if norm == 1 else epsilon)
