"""The fast minimum-norm attack: gradient steps in a ball whose radius closes in on the boundary."""

import dataclasses
import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_fim.attacks.losses import loss_gradient, margin_against
from keras_fim.attacks.lp import check_norm, norm_name, norms_of, project, unit
from keras_fim.attacks.nearest import Found, SearchAttack
from keras_fim.attacks.samples import Task, choose
from keras_fim.geometry.boundary import DUAL
from keras_fim.logits import LogitsFunction


class _State(NamedTuple):
    """The present point of each sample, the radius of its ball, and the nearest adversarial so far."""

    points: tf.Tensor
    radius: tf.Tensor
    nearest: tf.Tensor
    distance: tf.Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class FMN(SearchAttack):
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
        gamma: first share γ; the last is 1e-4.

    Example:
        >>> from keras_fim import models
        >>> FMN(steps=5)(models.convnet(), np.full((2, 28, 28, 1), 0.4), [3, 7]).distances.shape
        (2,)

    Source:
        Pintor, Roli, Brendel, Biggio, Fast minimum-norm adversarial attacks through adaptive norm constraints
        (NeurIPS 2021).
    """

    norm: float = 2.0
    steps: int = 100
    step_size: float | None = None
    gamma: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "norm", check_norm(self.norm))
        self._check_counts("steps")
        self._check(self.step_size is None or 0 < self.step_size < np.inf, "step_size", "a positive number")
        self._check(0 < self.gamma < 1, "gamma", "in (0, 1)")

    @property
    def name(self) -> str:
        """``fmn_l1``, ``fmn_l2`` or ``fmn_linf``."""
        return f"fmn_{norm_name(self.norm)}"

    def search(self, logits_fn: LogitsFunction, task: Task) -> Found:
        """The steps, then a last look."""
        infinite = tf.fill(tf.shape(task.labels), tf.cast(np.inf, task.images.dtype))
        state = _State(task.images, infinite, task.images, infinite)

        def body(step: tf.Tensor, state: _State) -> tuple[tf.Tensor, _State]:
            return step + 1, self._step(logits_fn, task, step, state)

        _, state = tf.while_loop(lambda step, _: step < self.steps, body, (tf.constant(0), state))
        fooled = margin_against(logits_fn(state.points), task.labels) > 0
        return Found(self._with_nearer(task.images, state, fooled).nearest)

    def _step(self, logits_fn: LogitsFunction, task: Task, step: tf.Tensor, state: _State) -> _State:
        images = task.images
        gradient, logits = loss_gradient(logits_fn, state.points, task.labels, loss="margin")
        margin = margin_against(logits, task.labels)
        found_before, fooled = tf.math.is_finite(state.distance), margin > 0
        state = self._with_nearer(images, state, fooled)
        cosine = (1 + tf.cos(math.pi * tf.cast(step, images.dtype) / self.steps)) / 2
        gamma = 1e-4 + (self.gamma - 1e-4) * cosine
        way = norms_of(state.points - images, self.norm)
        boundary = way + tf.math.divide_no_nan(-margin, norms_of(gradient, DUAL[self.norm]))
        grown = tf.where(tf.math.is_finite(state.radius) & ~found_before, tf.maximum(state.radius, boundary), boundary)
        outside = (1 + gamma) * tf.where(found_before, state.radius, grown)  # past the boundary, not onto it
        radius = tf.where(fooled, tf.minimum(state.radius * (1 - gamma), state.distance), outside)
        length = (self.step_size or (10.0 if self.norm == np.inf else 1.0)) * (0.01 + 0.99 * cosine)
        shift = project(state.points + length * unit(gradient) - images, radius, self.norm)
        return state._replace(points=tf.clip_by_value(images + shift, 0, 1), radius=radius)

    def _with_nearer(self, images: tf.Tensor, state: _State, fooled: tf.Tensor) -> _State:
        """With the present points where they are the nearest adversarials."""
        distance = norms_of(state.points - images, self.norm)
        old, new = (state.nearest, state.distance), (state.points, distance)
        nearest, distance = choose(fooled & (distance < state.distance), new, old)
        return state._replace(nearest=nearest, distance=distance)
