"""Carlini and Wagner's l2 attack: the shortest perturbation with a wrong class, by gradient descent."""

import dataclasses
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_fim.attacks.aimed import AimedAttack
from keras_fim.attacks.losses import loss_value
from keras_fim.attacks.nearest import Found, SearchAttack
from keras_fim.attacks.samples import Task, choose, keep, put, take, while_active
from keras_fim.logits import LogitsFunction

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
    task: Task
    weight: tf.Tensor
    variable: tf.Tensor
    mean: tf.Tensor
    variance: tf.Tensor
    loss: tf.Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class CarliniWagner(SearchAttack, AimedAttack):
    r"""Carlini-Wagner l2: :math:`\min_w \|x(w) - x\|_2^2 + c \max(z_y - \max_{j \ne y} z_j + \kappa, 0)`.

    x is in unit coordinates. ``x(w)`` is a tanh that stays inside the bounds; w is found by Adam, the weight c by a
    search, image by image. Where the loss no longer falls over a tenth of the steps, the image leaves the batch.
    With a target t the hinge is :math:`\max(\max_{j \ne t} z_j - z_t + \kappa, 0)`.

    Args:
        steps: largest number of gradient steps for each weight.
        search_steps: number of weights c tried.
        learning_rate: of Adam, in tanh space.
        initial_weight: first c; it grows or shrinks tenfold until it fools and another does not, then the interval is
            halved in the logarithm.
        confidence: κ, the margin by which the wrong class must win.
        abort_early: whether images leave the batch.
        target: See `keras_fim.attacks.aimed.AimedAttack`.

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

    norm = 2.0

    @property
    def name(self) -> str:
        """``carlini_wagner_l2``, with the target if there is one, like ``carlini_wagner_l2_to_3``."""
        return f"carlini_wagner_l2{self._suffix}"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_counts("steps", "search_steps")
        for option in ("learning_rate", "initial_weight"):
            self._check(0 < getattr(self, option) < np.inf, option, "a positive number")
        self._check(0 <= self.confidence < np.inf, "confidence", "a number >= 0")

    def search(self, logits_fn: LogitsFunction, task: Task) -> Found:
        """The search over the weight, with a descent for each."""
        images, infinite = task.images, tf.fill(tf.shape(task.labels), tf.cast(np.inf, task.images.dtype))
        nobody, weight = tf.zeros_like(task.labels, tf.bool), self.initial_weight * tf.ones_like(infinite)

        def body(
            step: tf.Tensor, nearest: _Nearest, low: tf.Tensor, weight: tf.Tensor, high: tf.Tensor
        ) -> tuple[tf.Tensor, _Nearest, tf.Tensor, tf.Tensor, tf.Tensor]:
            nearest = self._descend(logits_fn, task, weight, nearest._replace(fooled=nobody))
            low = tf.where(nearest.fooled, low, weight)
            high = tf.where(nearest.fooled, weight, high)
            between = tf.where(low > 0, tf.sqrt(low * high), high / 10)
            weight = tf.where(tf.math.is_finite(high), between, 10 * low)
            return step + 1, nearest, low, weight, high

        start = (tf.constant(0), _Nearest(images, infinite, nobody), tf.zeros_like(weight), weight, infinite)
        _, nearest, *_ = tf.while_loop(lambda step, *_: step < self.search_steps, body, start)
        return Found(nearest.points)

    def _descend(self, logits_fn: LogitsFunction, task: Task, weight: tf.Tensor, nearest: _Nearest) -> _Nearest:
        """Adam at one weight per sample."""
        variable = tf.atanh(tf.clip_by_value(2 * task.images - 1, -_INSIDE, _INSIDE))
        zero, infinite = tf.zeros_like(variable), tf.fill(tf.shape(weight), tf.cast(np.inf, weight.dtype))
        every = max(1, self.steps // 10)

        def body(step: tf.Tensor, nearest: _Nearest, descent: _Descent) -> tuple[tf.Tensor, _Nearest, _Descent]:
            nearest, loss, descent = self._adam(logits_fn, step, nearest, descent)
            falling, checked = descent._replace(loss=loss), self.abort_early & (step % every == every - 1)
            return step + 1, nearest, tf.cond(
                checked, lambda: keep(falling, loss < 0.9999 * descent.loss), lambda: descent
            )  # fmt: skip

        descent = _Descent(tf.range(tf.shape(variable)[0]), task, weight, variable, zero, zero, infinite)
        _, nearest, _ = while_active(body, self.steps, nearest, descent)
        return nearest

    def _adam(
        self, logits_fn: LogitsFunction, step: tf.Tensor, nearest: _Nearest, descent: _Descent
    ) -> tuple[_Nearest, tf.Tensor, _Descent]:
        """One step; what fools on the way and is nearer than before is kept."""
        task, axes = descent.task, tuple(range(1, descent.variable.shape.rank))
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(descent.variable)
            points = (tf.tanh(descent.variable) + 1) / 2
            logits = logits_fn(points)
            square = tf.reduce_sum((points - task.images) ** 2, axis=axes)
            margin = loss_value(logits, task.labels, "margin", self._aims(task))
            loss = square + descent.weight * tf.maximum(self.confidence - margin, 0)
        gradient = tape.gradient(loss, descent.variable)
        predicted = tf.argmax(logits, axis=-1)
        hit = predicted == task.target if self.aimed else predicted != task.labels
        fooled = hit & (margin >= self.confidence)
        old = take(nearest, descent.index)
        new = choose(fooled & (square < old.square), _Nearest(points, square, fooled), old)
        nearest = put(nearest, descent.index, new._replace(fooled=old.fooled | fooled))
        mean = _BETAS[0] * descent.mean + (1 - _BETAS[0]) * gradient
        variance = _BETAS[1] * descent.variance + (1 - _BETAS[1]) * gradient**2
        corrections = [1 - tf.cast(beta, mean.dtype) ** tf.cast(step + 1, mean.dtype) for beta in _BETAS]
        move = self.learning_rate * (mean / corrections[0]) / (tf.sqrt(variance / corrections[1]) + 1e-8)
        return nearest, loss, descent._replace(variable=descent.variable - move, mean=mean, variance=variance)
