"""σ-zero: adversarials in which few values differ, by the gradient of a smooth stand-in for their number."""

import dataclasses
import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_fim.attacks.losses import margin_against
from keras_fim.attacks.lp import by_image
from keras_fim.attacks.nearest import Found, SearchAttack
from keras_fim.attacks.samples import Task, choose
from keras_fim.geometry.jacobian import gradient as gradient_of
from keras_fim.logits import LogitsFunction


class _State(NamedTuple):
    """The present point of each sample, its threshold, and the sparsest adversarial so far."""

    points: tf.Tensor
    threshold: tf.Tensor
    sparsest: tf.Tensor
    count: tf.Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class SigmaZero(SearchAttack):
    r"""σ-zero: an adversarial in which as few values as possible differ, by gradients.

    .. math:: \min_δ \max\Big(z_y - \max_{j \ne y} z_j, 0\Big) + \frac 1 D \sum_i \frac{δ_i^2}{δ_i^2 + σ}

    A step goes along the gradient, whose largest entry is scaled to 1, and inside the bounds; then changes below a
    threshold τ are undone. τ grows after an adversarial point and falls after another, by ``rate`` times the length of
    the step, which falls along a cosine to a tenth. The adversarial of the way with the fewest changes is returned.

    Distances are numbers of changed values (l0), lengths are shares of the range of the pixels.

    Args:
        steps: The number of gradients.
        step_size: The length of the first step, in its largest entry.
        sigma: σ, below which a squared change counts as less than half a value.
        threshold: The first τ.
        rate: By how much τ changes.

    Example:
        >>> from keras_fim import models
        >>> result = SigmaZero(steps=5)(models.convnet(), np.full((2, 28, 28, 1), 0.4), [3, 7])
        >>> result.distances.shape
        (2,)

    Source:
        Cinà, Villani, Pintor, Schönherr, Biggio, Pelillo, σ-zero: gradient-based optimization of l0-norm adversarial
        examples (ICLR 2025), algorithm 1.
    """

    name = "sigma_zero"
    norm = 0.0

    steps: int = 300
    step_size: float = 1.0
    sigma: float = 1e-3
    threshold: float = 0.3
    rate: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_counts("steps")
        for option in ("step_size", "sigma"):
            self._check(0 < getattr(self, option) < np.inf, option, "a positive number")
        for option in ("threshold", "rate"):
            self._check(0 <= getattr(self, option) <= 1, option, "in [0, 1]")

    def search(self, logits_fn: LogitsFunction, task: Task) -> Found:
        """The steps, and a last look."""
        images, one = task.images, tf.ones_like(task.epsilon)

        def body(step: tf.Tensor, state: _State) -> tuple[tf.Tensor, _State]:
            return step + 1, self._step(logits_fn, task, step, state)

        start = (tf.constant(0), _State(images, self.threshold * one, images, np.inf * one))
        _, state = tf.while_loop(lambda step, _: step < self.steps, body, start)
        fooled = margin_against(logits_fn(state.points), task.labels) > 0
        return Found(_with_sparser(images, state, fooled).sparsest)

    def _step(self, logits_fn: LogitsFunction, task: Task, step: tf.Tensor, state: _State) -> _State:
        images, axes = task.images, tuple(range(1, task.images.shape.rank))
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(state.points)
            margin = margin_against(logits_fn(state.points), task.labels)
            square = (state.points - images) ** 2
            loss = tf.maximum(-margin, 0) + tf.reduce_mean(square / (square + self.sigma), axis=axes)
        gradient = gradient_of(tape, loss, state.points)
        gradient = tf.math.divide_no_nan(gradient, tf.reduce_max(tf.abs(gradient), axis=axes, keepdims=True))
        fooled = margin > 0
        state = _with_sparser(images, state, fooled)
        length = self.step_size * (0.55 + 0.45 * tf.cos(math.pi * tf.cast(step, images.dtype) / self.steps))
        moved = tf.clip_by_value(state.points - length * gradient, 0, 1)
        change = self.rate * tf.where(fooled, length, -length)
        threshold = tf.clip_by_value(state.threshold + change, 0, 1)
        small = tf.abs(moved - images) < by_image(threshold, images)
        return state._replace(points=tf.where(small, images, moved), threshold=threshold)


def _with_sparser(images: tf.Tensor, state: _State, fooled: tf.Tensor) -> _State:
    """With the present points where they are adversarials with fewer changes."""
    axes = tuple(range(1, images.shape.rank))
    count = tf.math.count_nonzero(state.points != images, axis=axes, dtype=images.dtype)
    old, new = (state.sparsest, state.count), (state.points, count)
    sparsest, count = choose(fooled & (count < state.count), new, old)
    return state._replace(sparsest=sparsest, count=count)
