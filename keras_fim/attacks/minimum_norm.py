"""Gradient steps that close in on the nearest adversarial: Carlini-Wagner in l2, FMN in l1, l2 and l∞, σ-zero in l0."""

import dataclasses
import functools
import math
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import tensorflow as tf

from keras_fim.arguments import Count, InnerShare, Norm, NotNegative, Positive, PositiveOrNone, Share
from keras_fim.attacks import base, kinds, losses, lp, samples
from keras_fim.geometry import boundary, jacobian
from keras_fim.logits import LogitsFunction

_INSIDE = 1 - 1e-3  # pixels at a bound start where tanh still has a slope, and not hundreds of steps away from it
_BETAS = (0.9, 0.999)
_Kept: TypeAlias = tuple[samples.Nearest, tf.Tensor]
"""The nearest adversarial of each sample so far, and whether the present weight has given one."""


class _Descent(NamedTuple):
    """Adam in tanh space, for samples whose loss still falls."""

    weight: tf.Tensor
    variable: tf.Tensor
    mean: tf.Tensor
    variance: tf.Tensor
    loss: tf.Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class CarliniWagner(kinds.SearchAttack, base.AimedAttack):
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
        target: See `keras_fim.attacks.base.AimedAttack`.

    Example:
        >>> from keras_fim import models
        >>> attack = CarliniWagner(steps=5, search_steps=2)
        >>> attack(models.convnet(), np.full((2, 28, 28, 1), 0.4), [3, 7]).distances.shape
        (2,)

    Source:
        Carlini, Wagner, Towards evaluating the robustness of neural networks (S&P 2017).
    """

    steps: Count = 200
    search_steps: Count = 6
    learning_rate: Positive = 0.05
    initial_weight: Positive = 1.0
    confidence: NotNegative = 0.0
    abort_early: bool = True

    base_name = "carlini_wagner"
    norm = 2.0

    def search(self, logits_fn: LogitsFunction, task: samples.Task) -> kinds.Perturbed:
        """The search over the weight, with a descent for each."""
        nearest, nobody = samples.Nearest.start(task.images), tf.zeros_like(task.labels, tf.bool)
        weight, infinite = self.initial_weight * tf.ones_like(nearest.distance), nearest.distance

        def body(_: tf.Tensor, state: tuple[Any, ...]) -> tuple[Any, ...]:
            nearest, low, weight, high = state
            nearest, fooled = self._descend(logits_fn, task, weight, (nearest, nobody))
            low, high = tf.where(fooled, low, weight), tf.where(fooled, weight, high)
            between = tf.where(low > 0, tf.sqrt(low * high), high / 10)
            return nearest, low, tf.where(tf.math.is_finite(high), between, 10 * low), high

        start = (nearest, tf.zeros_like(weight), weight, infinite)
        return kinds.Perturbed(samples.repeat(body, self.search_steps, start)[0].points)

    def _descend(self, logits_fn: LogitsFunction, task: samples.Task, weight: tf.Tensor, kept: _Kept) -> _Kept:
        """Adam at one weight per sample."""
        variable = tf.atanh(tf.clip_by_value(2 * task.images - 1, -_INSIDE, _INSIDE))
        zero, infinite = tf.zeros_like(variable), samples.Nearest.start(variable).distance
        way = samples.Way.start(task, _Descent(weight, variable, zero, zero, infinite))
        return samples.walk(functools.partial(self._adam, logits_fn), self.steps, kept, way)[0]

    def _adam(
        self, logits_fn: LogitsFunction, step: tf.Tensor, task: samples.Task, kept: _Kept, descent: _Descent
    ) -> tuple[_Kept, _Descent, tf.Tensor]:
        """One step; what fools on the way and is nearer than before is kept."""
        with jacobian.watched(descent.variable) as tape:
            points = (tf.tanh(descent.variable) + 1) / 2
            logits = logits_fn(points)
            square = tf.reduce_sum((points - task.images) ** 2, axis=lp.axes(points))
            margin = losses.loss_value(logits, task.labels, "margin", self._aims(task))
            loss = square + descent.weight * tf.maximum(self.confidence - margin, 0)
        gradient = jacobian.usable_gradient(tape, loss, descent.variable)
        predicted = tf.argmax(logits, axis=-1)
        fooled = (predicted == task.target if self.aimed else predicted != task.labels) & (margin >= self.confidence)
        kept = kept[0].or_new(points, square, fooled), kept[1] | fooled
        mean = _BETAS[0] * descent.mean + (1 - _BETAS[0]) * gradient
        variance = _BETAS[1] * descent.variance + (1 - _BETAS[1]) * gradient**2
        corrections = [1 - tf.cast(beta, mean.dtype) ** tf.cast(step + 1, mean.dtype) for beta in _BETAS]
        move = self.learning_rate * (mean / corrections[0]) / (tf.sqrt(variance / corrections[1]) + 1e-8)
        descent = descent._replace(variable=descent.variable - move, mean=mean, variance=variance)
        every = max(1, self.steps // 10)
        checked = self.abort_early & (step % every == every - 1)
        falls = ~checked | (loss < 0.9999 * descent.loss)
        return kept, descent._replace(loss=tf.where(checked, loss, descent.loss)), falls


class _State(NamedTuple):
    """The present point of each sample, the radius of its ball or its threshold, and the nearest adversarial so far."""

    points: tf.Tensor
    radius: tf.Tensor
    nearest: samples.Nearest

    def looked(self, images: tf.Tensor, fooled: tf.Tensor, norm: float) -> "_State":
        """With the present points where they are the nearest adversarials."""
        distance = lp.norms_of(self.points - images, norm) if norm else lp.num_changed(self.points, images)
        return self._replace(nearest=self.nearest.or_new(self.points, distance, fooled))


@dataclasses.dataclass(frozen=True, kw_only=True)
class FMN(kinds.SearchAttack):
    r"""Fast minimum-norm attack: a fixed number of gradients for a distance close to the smallest.

    A step goes along the normalized gradient of the margin, then back into the ball of radius ε. Until a sample is
    fooled ε is a little more than the distance to the boundary of the linearized margin; from then on it shrinks by a
    share γ after an adversarial point, and grows by it after another. Step length and γ fall along a cosine. In l2 this
    is close to DDN (Rony et al. 2019).

    Args:
        norm: 1, 2 or inf.
        steps: number of gradients.
        step_size: The l2 length of the first step, in units of the range of the pixels; the last is a hundredth of it.
            ``None`` for 1 (10 for l∞).
        gamma: The first share γ; the last is 1e-4. The authors take 0.05, which finds slightly longer l2 distances.

    Example:
        >>> from keras_fim import models
        >>> FMN(steps=5)(models.convnet(), np.full((2, 28, 28, 1), 0.4), [3, 7]).distances.shape
        (2,)

    Source:
        Pintor, Roli, Brendel, Biggio, Fast minimum-norm adversarial attacks through adaptive norm constraints
        (NeurIPS 2021).
    """

    base_name = "fmn"
    revision = 2

    norm: Norm = 2.0
    steps: Count = 100
    step_size: PositiveOrNone = None
    gamma: InnerShare = 0.1

    def search(self, logits_fn: LogitsFunction, task: samples.Task) -> kinds.Perturbed:
        """The steps, then a last look."""
        return _searched(self, logits_fn, task, np.inf)

    def _step(self, logits_fn: LogitsFunction, task: samples.Task, step: tf.Tensor, state: _State) -> _State:
        images = task.images
        gradient, logits = losses.loss_gradient(logits_fn, state.points, task.labels, loss="margin")
        margin = losses.margin_against(logits, task.labels)
        found_before, fooled = tf.math.is_finite(state.nearest.distance), margin > 0
        state = state.looked(images, fooled, self.norm)
        cosine = (1 + tf.cos(math.pi * tf.cast(step, images.dtype) / self.steps)) / 2
        gamma = 1e-4 + (self.gamma - 1e-4) * cosine
        way = lp.norms_of(state.points - images, self.norm)
        reach = way + tf.math.divide_no_nan(-margin, lp.norms_of(gradient, boundary.DUAL[self.norm]))
        grown = tf.where(tf.math.is_finite(state.radius) & ~found_before, tf.maximum(state.radius, reach), reach)
        outside = (1 + gamma) * tf.where(found_before, state.radius, grown)  # past the boundary, not onto it
        radius = tf.where(fooled, tf.minimum(state.radius * (1 - gamma), state.nearest.distance), outside)
        length = (self.step_size or (10.0 if self.norm == np.inf else 1.0)) * (0.01 + 0.99 * cosine)
        shift = lp.project(state.points + length * lp.unit(gradient) - images, radius, self.norm)
        return state._replace(points=tf.clip_by_value(images + shift, 0, 1), radius=radius)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SigmaZero(kinds.SearchAttack):
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

    steps: Count = 300
    step_size: Positive = 1.0
    sigma: Positive = 1e-3
    threshold: Share = 0.3
    rate: Share = 0.01

    def search(self, logits_fn: LogitsFunction, task: samples.Task) -> kinds.Perturbed:
        """The steps, and a last look."""
        return _searched(self, logits_fn, task, self.threshold)

    def _step(self, logits_fn: LogitsFunction, task: samples.Task, step: tf.Tensor, state: _State) -> _State:
        images, axes = task.images, lp.axes(task.images)
        with jacobian.watched(state.points) as tape:
            margin = losses.margin_against(logits_fn(state.points), task.labels)
            square = (state.points - images) ** 2
            loss = tf.maximum(-margin, 0) + tf.reduce_mean(square / (square + self.sigma), axis=axes)
        gradient = jacobian.usable_gradient(tape, loss, state.points)
        gradient = tf.math.divide_no_nan(gradient, tf.reduce_max(tf.abs(gradient), axis=axes, keepdims=True))
        fooled = margin > 0
        state = state.looked(images, fooled, self.norm)
        length = self.step_size * (0.55 + 0.45 * tf.cos(math.pi * tf.cast(step, images.dtype) / self.steps))
        moved = tf.clip_by_value(state.points - length * gradient, 0, 1)
        threshold = tf.clip_by_value(state.radius + self.rate * tf.where(fooled, length, -length), 0, 1)
        small = tf.abs(moved - images) < lp.by_image(threshold, images)
        return state._replace(points=tf.where(small, images, moved), radius=threshold)


def _searched(attack: FMN | SigmaZero, logits_fn: LogitsFunction, task: samples.Task, radius: float) -> kinds.Perturbed:
    """The nearest adversarials seen in all steps of an attack that starts at the images with a radius."""
    start = _State(task.images, radius * tf.ones_like(task.epsilon), samples.Nearest.start(task.images))
    state = samples.repeat(functools.partial(attack._step, logits_fn, task), attack.steps, start)
    fooled = losses.margin_against(logits_fn(state.points), task.labels) > 0
    return kinds.Perturbed(state.looked(task.images, fooled, attack.norm).nearest.points)
