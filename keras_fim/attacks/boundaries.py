"""Attacks that step to linearized decision boundaries, and the shortest way onto a hyperplane: DeepFool and FAB."""

import dataclasses
import functools
from typing import Annotated, Any, NamedTuple, TypeAlias

import numpy as np
import tensorflow as tf

from keras_fim.arguments import Count, GradientNorm, Norm, NotNegative, PositiveShare, Share, Valid
from keras_fim.attacks import kinds, losses, lp, samples
from keras_fim.geometry import boundary, jacobian
from keras_fim.logits import LogitsFunction

# Added to the gap in DeepFool, as the authors do, so that the last steps do not become ever smaller. Half of it is
# relative to the logit, whose rounding would otherwise decide whether a point beyond the boundary is still beyond in
# another batch.
_BEYOND = 1e-4
_TINY = 1e-12  # added to the lengths of FAB's slopes, which may be 0

_State: TypeAlias = tuple[tf.Tensor, tf.Tensor]
"""The classes that samples on their way may be pushed to, and where they are: the point, or DeepFool's sum of steps."""


class Boundaries(NamedTuple):
    """Linearized decision boundaries between the label y and some rivals t of each sample.

    Attributes:
        gaps: ``z_t - z_y``, ``(batch, r)``.
        slopes: Their gradients, ``(batch, r, ...)``.
        lengths: The dual norms of these, ``(batch, r)``.
        own: ``z_y``, ``(batch, 1)``.
    """

    gaps: tf.Tensor
    slopes: tf.Tensor
    lengths: tf.Tensor
    own: tf.Tensor

    @classmethod
    def of(
        cls, logits_fn: LogitsFunction, points: tf.Tensor, labels: tf.Tensor, rivals: tf.Tensor, norm: float
    ) -> "Boundaries":
        """Those at some points, at the price of a forward pass and a gradient for each rival.

        Args:
            logits_fn: The classifier.
            points: ``(batch, ...)``.
            labels: ``(batch,)``, class indices.
            rivals: ``(batch, r)``, class indices.
            norm: The norm of steps towards them: 1, 2 or inf.
        """
        with jacobian.watched(points, persistent=True) as tape:
            logits = logits_fn(points)
            own = tf.gather(logits, labels, batch_dims=1)[:, None]
            columns = tf.unstack(tf.gather(logits, rivals, batch_dims=1) - own, axis=-1)
        slopes = [jacobian.usable_gradient(tape, column, points) for column in columns]
        lengths = tf.stack([lp.norms_of(slope, boundary.DUAL[norm]) for slope in slopes], axis=1)
        return cls(tf.stack(columns, axis=1), tf.stack(slopes, axis=1), lengths, own)


def to_hyperplane(points: tf.Tensor, slopes: tf.Tensor, gaps: tf.Tensor, p: float) -> tf.Tensor:
    r"""The shift of least lp norm with :math:`w^\top δ = g` that stays in the unit cube.

    A value i moves in the direction in which it helps, by at most its room :math:`r_i`. With a multiplier λ the moves
    are :math:`\min(λ, r_i)` in l∞ and :math:`\min(λ |w_i|, r_i)` in l2; in l1 the values of the largest
    :math:`|w_i|` go to their bound, and the last one as far as it has to.

    Args:
        points: ``(batch, ...)``, in the unit cube.
        slopes: w, as ``points``.
        gaps: g, ``(batch,)``.
        p: 1, 2 or inf.

    Returns:
        As ``points``; where no point of the cube is on the hyperplane, the shift to one that is nearest to it.

    Example:
        >>> point, slope = tf.constant([[0.5, 0.9, 0.5]]), tf.constant([[1.0, 2.0, 0.0]])
        >>> to_hyperplane(point, slope, tf.constant([0.5]), 2).numpy().round(2)
        array([[0.3, 0.1, 0. ]], dtype=float32)

    Source:
        Croce & Hein, Minimally distorted adversarial examples with a fast adaptive boundary attack (ICML 2020),
        section 3.1; solved here by the search for λ.
    """
    shape, size = tf.shape(points), points.shape[1:].num_elements()
    flat, here = tf.reshape(slopes, [-1, size]), tf.reshape(points, [-1, size])
    largest = tf.reduce_max(tf.abs(flat), axis=-1, keepdims=True)
    flat = tf.math.divide_no_nan(flat * tf.sign(gaps)[:, None], largest)  # so that nothing underflows
    gap = tf.math.divide_no_nan(tf.abs(gaps)[:, None], largest)
    steep, room = tf.abs(flat), tf.where(flat > 0, 1 - here, here)
    if p == 1:
        gains, zero = steep * room, tf.zeros_like(room)
        top = tf.reduce_max(steep, axis=-1, keepdims=True)
        spent = lp.least_multiplier(lambda least: tf.where(steep > least, gains, zero), top, gap)
        moves = tf.math.divide_no_nan(spent, steep)
    else:
        moves = lp.grown(steep if p == 2 else tf.ones_like(steep), room, steep, gap)
    return tf.reshape(tf.sign(flat) * moves, shape)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeepFool(kinds.SearchAttack):
    r"""DeepFool: step to the nearest boundary of the linearized logits until the image is misclassified.

    .. math:: \hat c = \arg\min_{c \ne y} \frac{|z_c - z_y|}{\|\nabla (z_c - z_y)\|_q}, \qquad
        r = \frac{|z_{\hat c} - z_y|}{\|\nabla (z_{\hat c} - z_y)\|_q}\, \arg\max_{\|v\|_p = 1} v^\top
        \nabla (z_{\hat c} - z_y)

    with the dual norm q. A step costs one forward pass and one gradient per rival class; images that are fooled leave
    the batch.

    Args:
        norm: 2 or inf.
        steps: largest number of steps.
        num_rivals: classes that an image may be pushed to: the most probable wrong ones at the start.
        overshoot: share by which the sum of all steps is lengthened, to end beyond the boundary.

    Example:
        >>> from keras_fim import models
        >>> DeepFool()(models.convnet(), np.full((2, 28, 28, 1), 0.4), [3, 7]).distances.shape
        (2,)

    Source:
        Moosavi-Dezfooli, Fawzi, Frossard, DeepFool: a simple and accurate method to fool deep neural networks
        (CVPR 2016).
    """

    base_name = "deepfool"

    norm: GradientNorm = 2.0
    steps: Count = 50
    num_rivals: Count = 4
    overshoot: NotNegative = 0.02

    def search(self, logits_fn: LogitsFunction, task: samples.Task) -> kinds.Perturbed:
        """The steps."""
        images = task.images
        rivals = losses.most_probable_others(logits_fn(images), task.labels, self.num_rivals)

        def moved(shift: tf.Tensor, task: samples.Task) -> tf.Tensor:
            return tf.clip_by_value(task.images + (1 + self.overshoot) * shift, 0, 1)

        def body(_: tf.Tensor, task: samples.Task, before: tf.Tensor, state: _State) -> tuple[Any, ...]:
            rivals, shift = state
            shift += self._step(logits_fn, moved(shift, task), task.labels, rivals)
            points = moved(shift, task)
            # a forward pass to see who is fooled costs far less than their gradients in the next step
            return points, (rivals, shift), tf.argmax(logits_fn(points), axis=-1) == task.labels

        way = samples.Way.start(task, (rivals, tf.zeros_like(images)))
        return kinds.Perturbed(samples.walk(body, self.steps, images, way)[0])

    def _step(self, logits_fn: LogitsFunction, points: tf.Tensor, labels: tf.Tensor, rivals: tf.Tensor) -> tf.Tensor:
        """To the nearest boundary."""
        rivals = Boundaries.of(logits_fn, points, labels, rivals, self.norm)
        # a rival that this image cannot be pushed to is infinitely far
        beyond = tf.maximum(0.5 * _BEYOND * tf.abs(rivals.own), _BEYOND)
        distances = tf.where(rivals.lengths > 0, (tf.abs(rivals.gaps) + beyond) / rivals.lengths, np.inf)
        nearest, parts = tf.argmin(distances, axis=-1), (rivals.slopes, rivals.lengths, distances)
        slope, length, distance = (tf.gather(values, nearest, batch_dims=1) for values in parts)
        unit = tf.sign(slope) if self.norm == np.inf else tf.math.divide_no_nan(slope, lp.by_image(length, slope))
        return unit * lp.by_image(tf.where(tf.math.is_finite(distance), distance, tf.zeros_like(distance)), slope)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FAB(kinds.SearchAttack):
    r"""Fast adaptive boundary attack: the nearest adversarial from projections onto linearized decision boundaries.

    .. math::
        x_{k+1} = \operatorname{clip}\big((1 - α)(x_k + η δ) + α (x + η δ_0)\big), \quad
        α = \min\Big(\frac{\|δ\|_p}{\|δ\|_p + \|δ_0\|_p}, α_{\max}\Big)

    δ and δ_0 are the shortest steps in the lp norm, inside the bounds, from :math:`x_k` and from the image x onto the
    hyperplane on which the linearization of :math:`z_t - z_y` at :math:`x_k` is zero. A point that is misclassified is
    a candidate; the next step starts at :math:`x + β (x_k - x)`.

    A step costs one gradient for each rival t, and one forward pass.

    Args:
        norm: 1, 2 or inf.
        steps: The number of steps towards a class, or towards all of them.
        targeted: Whether all steps of a run go to one class, with a run for each of the most probable wrong classes
            (FAB-T); otherwise each step goes to the nearest of their boundaries.
        num_targets: The number of these classes, at most K - 1.
        alpha_max: The largest share α.
        eta: η, by which steps are lengthened, to end beyond the boundary.
        beta: β in (0, 1].

    Where samples come with an ε, as inside `keras_fim.attacks.AutoAttack`, one with an adversarial within it is done.

    Example:
        >>> import numpy as np
        >>> from keras_fim import models
        >>> FAB(steps=5, num_targets=2)(models.convnet(), np.full((2, 28, 28, 1), 0.4), [3, 7]).distances.shape
        (2,)

    Source:
        Croce & Hein, Minimally distorted adversarial examples with a fast adaptive boundary attack (ICML 2020),
        algorithm 1; the targeted version: Croce & Hein, Reliable evaluation of adversarial robustness with an ensemble
        of diverse parameter-free attacks (ICML 2020).
    """

    norm: Norm = 2.0
    steps: Count = 100
    targeted: bool = True
    num_targets: Count = 9
    alpha_max: Share = 0.1
    eta: Annotated[float, Valid(lambda eta: 1 <= eta < float("inf"), "a number >= 1")] = 1.05
    beta: PositiveShare = 0.9

    @property
    def name(self) -> str:
        """The version and the norm, like ``fab_t_l2``."""
        return f"fab{'_t' if self.targeted else ''}_{lp.norm_name(self.norm)}"

    def search(self, logits_fn: LogitsFunction, task: samples.Task) -> kinds.Perturbed:
        """A run for each target, or one."""
        rivals = losses.most_probable_others(logits_fn(task.images), task.labels, self.num_targets)
        width = 1 if self.targeted else rivals.shape[1]

        def body(run: tf.Tensor, nearest: samples.Nearest) -> samples.Nearest:
            way = samples.Way.start(task, (tf.gather(rivals, run + tf.range(width), axis=1), task.images))
            way = samples.keep(way, nearest.distance > task.epsilon)
            return samples.walk(functools.partial(self._step, logits_fn), self.steps, nearest, way)[0]

        nearest = samples.Nearest.start(task.images)
        return kinds.Perturbed(samples.repeat(body, rivals.shape[1] // width, nearest).points)

    def _step(
        self, logits_fn: LogitsFunction, _: tf.Tensor, task: samples.Task, nearest: samples.Nearest, state: _State
    ) -> tuple[samples.Nearest, _State, tf.Tensor]:
        """A step of samples, which leave when they have an adversarial within ε."""
        images, (rivals, start) = task.images, state
        point = self._moved(logits_fn, task, start, rivals)
        fooled = tf.argmax(logits_fn(point), axis=-1) != task.labels
        nearest = nearest.or_new(point, lp.norms_of(point - images, self.norm), fooled)
        back = samples.choose(fooled, images + self.beta * (point - images), point)
        return nearest, (rivals, back), nearest.distance > task.epsilon

    def _moved(self, logits_fn: LogitsFunction, task: samples.Task, point: tf.Tensor, rivals: tf.Tensor) -> tf.Tensor:
        """Towards the hyperplane from where it is, and a little from the image."""
        images = task.images
        rivals = Boundaries.of(logits_fn, point, task.labels, rivals, self.norm)
        nearest = tf.argmin(tf.abs(rivals.gaps) / (_TINY + rivals.lengths), axis=1)
        gap, slope = (tf.gather(values, nearest, batch_dims=1) for values in (rivals.gaps, rivals.slopes))
        axes = lp.axes(point)
        here = to_hyperplane(point, slope, -gap, self.norm)
        first = to_hyperplane(images, slope, -gap - tf.reduce_sum(slope * (images - point), axis=axes), self.norm)
        lengths = [tf.maximum(lp.norms_of(shift, self.norm), 1e-8) for shift in (here, first)]
        share = lp.by_image(tf.minimum(lengths[0] / (lengths[0] + lengths[1]), self.alpha_max), point)
        return tf.clip_by_value((1 - share) * (point + self.eta * here) + share * (images + self.eta * first), 0, 1)
