"""Carlini and Wagner's l2 attack: the shortest perturbation with a wrong class, by gradient descent."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_fim.attacks.losses import margin_against
from keras_fim.attacks.lp import by_image
from keras_fim.attacks.nearest import Found, SearchAttack
from keras_fim.logits import LogitsFunction

__all__ = ["CarliniWagner"]

_INSIDE = 1 - 1e-3  # pixels at a bound start where tanh still has a slope, and not hundreds of steps away from it
_BETAS = (0.9, 0.999)


class _Nearest(NamedTuple):
    """The nearest adversarial of each sample so far, and whether the present weight has given one."""

    points: tf.Tensor
    square: tf.Tensor
    fooled: tf.Tensor


class _Descent(NamedTuple):
    """Samples whose loss still falls, ``(active, ...)`` each: Adam in tanh space."""

    index: tf.Tensor
    origin: tf.Tensor
    labels: tf.Tensor
    weight: tf.Tensor
    variable: tf.Tensor
    mean: tf.Tensor
    variance: tf.Tensor
    loss: tf.Tensor

    def keep(self, chosen: tf.Tensor) -> _Descent:
        return _Descent(*[tf.boolean_mask(part, chosen) for part in self])


@dataclasses.dataclass(frozen=True, kw_only=True)
class CarliniWagner(SearchAttack):
    r"""Carlini-Wagner l2: :math:`\min_w \|x(w) - x\|_2^2 + c \max(z_y - \max_{j \ne y} z_j + \kappa, 0)`.

    ``x(w)`` is a tanh that stays inside the bounds; w is found by Adam, the weight c by a search, image by image. Where
    the loss no longer falls over a tenth of the steps, the image leaves the batch.

    Args:
        steps: largest number of gradient steps for each weight.
        search_steps: number of weights c tried.
        learning_rate: of Adam, in tanh space.
        initial_weight: first c; it grows or shrinks tenfold until it fools and another does not, then the interval is
            halved in the logarithm.
        confidence: κ, the margin by which the wrong class must win.
        abort_early: whether images leave the batch.

    Example:
        >>> from keras_fim import models
        >>> attack = CarliniWagner(steps=5, search_steps=2)
        >>> attack(models.convnet(), np.full((2, 28, 28, 1), 0.4), [3, 7]).distances.shape
        (2,)

    Source:
        Carlini, Wagner, Towards evaluating the robustness of neural networks (S&P 2017).
    """

    steps: int = 200
    search_steps: int = 6
    learning_rate: float = 0.05
    initial_weight: float = 1.0
    confidence: float = 0.0
    abort_early: bool = True

    name = "carlini_wagner_l2"
    norm = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_counts("steps", "search_steps")
        for option in ("learning_rate", "initial_weight"):
            self._check(0 < getattr(self, option) < np.inf, option, "a positive number")
        self._check(0 <= self.confidence < np.inf, "confidence", "a number >= 0")

    def search(self, logits_fn: LogitsFunction, images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor) -> Found:
        """The search over the weight, with a descent for each."""
        count = tf.shape(images)[:1]
        infinite, nobody = tf.fill(count, tf.cast(np.inf, images.dtype)), tf.zeros(count, tf.bool)
        weight = tf.fill(count, tf.cast(self.initial_weight, images.dtype))

        def body(
            step: tf.Tensor, nearest: _Nearest, low: tf.Tensor, weight: tf.Tensor, high: tf.Tensor
        ) -> tuple[tf.Tensor, _Nearest, tf.Tensor, tf.Tensor, tf.Tensor]:
            nearest = self._descend(logits_fn, images, labels, weight, nearest._replace(fooled=nobody))
            low = tf.where(nearest.fooled, low, weight)
            high = tf.where(nearest.fooled, weight, high)
            between = tf.where(low > 0, tf.sqrt(low * high), high / 10)
            weight = tf.where(tf.math.is_finite(high), between, 10 * low)
            return step + 1, nearest, low, weight, high

        start = (tf.constant(0), _Nearest(images, infinite, nobody), tf.zeros_like(weight), weight, infinite)
        _, nearest, *_ = tf.while_loop(lambda step, *_: step < self.search_steps, body, start)
        return Found(nearest.points)

    def _descend(
        self, logits_fn: LogitsFunction, images: tf.Tensor, labels: tf.Tensor, weight: tf.Tensor, nearest: _Nearest
    ) -> _Nearest:
        """Adam at one weight per sample."""
        low, high = self.bounds
        variable = tf.atanh(tf.clip_by_value(2 * (images - low) / (high - low) - 1, -_INSIDE, _INSIDE))
        zero, infinite = tf.zeros_like(images), tf.fill(tf.shape(labels), tf.cast(np.inf, images.dtype))
        every = max(1, self.steps // 10)

        def going(step: tf.Tensor, nearest: _Nearest, descent: _Descent) -> tf.Tensor:
            return (step < self.steps) & (tf.size(descent.index) > 0)

        def body(step: tf.Tensor, nearest: _Nearest, descent: _Descent) -> tuple[tf.Tensor, _Nearest, _Descent]:
            nearest, loss, descent = self._adam(logits_fn, step, nearest, descent)
            falling, checked = descent._replace(loss=loss), self.abort_early & (step % every == every - 1)
            descent = tf.cond(checked, lambda: falling.keep(loss < 0.9999 * descent.loss), lambda: descent)
            return step + 1, nearest, descent

        index = tf.range(tf.shape(images)[0])
        descent = _Descent(index, images, labels, weight, variable, zero, zero, infinite)
        _, nearest, _ = tf.while_loop(going, body, (tf.constant(0), nearest, descent))
        return nearest

    def _adam(
        self, logits_fn: LogitsFunction, step: tf.Tensor, nearest: _Nearest, descent: _Descent
    ) -> tuple[_Nearest, tf.Tensor, _Descent]:
        """One step; what fools on the way and is nearer than before is kept."""
        axes = tuple(range(1, descent.origin.shape.rank))
        low, high = self.bounds
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(descent.variable)
            points = low + (high - low) * (tf.tanh(descent.variable) + 1) / 2
            logits = logits_fn(points)
            square = tf.reduce_sum((points - descent.origin) ** 2, axis=axes)
            margin = margin_against(logits, descent.labels)
            loss = square + descent.weight * tf.maximum(self.confidence - margin, 0)
        gradient = tape.gradient(loss, descent.variable)
        fooled = (tf.argmax(logits, axis=-1) != descent.labels) & (margin >= self.confidence)
        nearest = _kept(nearest, descent.index, tf.clip_by_value(points, low, high), square, fooled)
        mean = _BETAS[0] * descent.mean + (1 - _BETAS[0]) * gradient
        variance = _BETAS[1] * descent.variance + (1 - _BETAS[1]) * gradient**2
        corrections = [1 - tf.cast(beta, mean.dtype) ** tf.cast(step + 1, mean.dtype) for beta in _BETAS]
        move = self.learning_rate * (mean / corrections[0]) / (tf.sqrt(variance / corrections[1]) + 1e-8)
        return nearest, loss, descent._replace(variable=descent.variable - move, mean=mean, variance=variance)


def _kept(nearest: _Nearest, index: tf.Tensor, points: tf.Tensor, square: tf.Tensor, fooled: tf.Tensor) -> _Nearest:
    old = _Nearest(*[tf.gather(part, index) for part in nearest])
    nearer = fooled & (square < old.square)
    new = _Nearest(
        tf.where(by_image(nearer, points), points, old.points),
        tf.where(nearer, square, old.square),
        old.fooled | fooled,
    )
    pairs = zip(nearest, new, strict=True)
    return _Nearest(*[tf.tensor_scatter_nd_update(all_of, index[:, None], part) for all_of, part in pairs])
