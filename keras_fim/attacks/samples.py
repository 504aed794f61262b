"""Tuples of tensors that have one entry for each sample: what an attack is called on, and what it keeps on its way."""

from __future__ import annotations

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
    ) -> Best:
        """Points that were looked at; ``loss`` and ``targets`` are as for `keras_fim.attacks.losses.loss_value`."""
        predicted = tf.argmax(logits, axis=-1)
        fooled = predicted != labels if targets is None else predicted == targets
        return cls(points, logits, losses.loss_value(logits, labels, loss, targets), fooled, fooled)

    def unless_worse_than(self, old: Best) -> Best:
        """The better ones of two, sample by sample; of equals the old."""
        better = (self.fooled & ~old.fooled) | ((self.fooled == old.fooled) & (self.loss > old.loss))
        return choose(better, self, old)._replace(once=self.once | old.once)

    def improved_at(self, index: tf.Tensor, new: Best) -> Best:
        """The same with the ``new`` points of some samples where they are better."""
        return put(self, index, new.unless_worse_than(take(self, index)))


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


def while_active(body: Callable[..., tuple[Any, ...]], steps: int, *state: Any, first: int = 0) -> tuple[Any, ...]:
    """Repeat a step until no sample is left: no model is called on an empty batch.

    Args:
        body: From the number of the step and the state to those of the next.
        steps: The number at which it ends.
        *state: The state at the start, whose last part has an ``index`` of the samples on their way.
        first: The number of the first step.

    Returns:
        The number of the step that would be next, and the state.
    """

    def going(step: tf.Tensor, *state: Any) -> tf.Tensor:
        return (step < steps) & (tf.size(state[-1].index) > 0)

    end: tuple[Any, ...] = tf.while_loop(going, body, (tf.constant(first), *state))
    return end


def repeat(body: Callable[[tf.Tensor, _T], _T], count: int, state: _T) -> _T:
    """The state after ``count`` steps; ``body`` goes from the number of a step and the state to the next state."""

    def going(step: tf.Tensor, state: _T) -> tf.Tensor:
        return step < count

    def onward(step: tf.Tensor, state: _T) -> tuple[tf.Tensor, _T]:
        return step + 1, body(step, state)

    end: _T = tf.while_loop(going, onward, (tf.constant(0), state))[1]
    return end


def random_start(task: Task, norm: float, restart: int | tf.Tensor = 0) -> tf.Tensor:
    """Where a restart begins, as the images: uniform in the ball, then clipped to the unit cube."""
    shift = lp.random_in_ball(task.images, task.epsilon, norm, draws.fold(task.keys, restart))
    return tf.clip_by_value(task.images + shift, 0, 1)


def before_rounding(task: Task, norm: float) -> Task:
    """The task; in l1 with a little less ε: many small components are each rounded when they are added to pixels."""
    if norm != 1:
        return task
    rounding = task.images.shape[1:].num_elements() * np.finfo(task.images.dtype.as_numpy_dtype).eps / 4
    return task._replace(epsilon=tf.maximum(task.epsilon - rounding, 0))
