"""DeepFool: to the nearest boundary of the linearized classifier, again and again."""

import dataclasses
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_fim.attacks.hyperplane import Boundaries
from keras_fim.attacks.losses import others
from keras_fim.attacks.lp import by_image, check_norm, norm_name
from keras_fim.attacks.nearest import Found, SearchAttack
from keras_fim.attacks.samples import Task, keep, put, while_active
from keras_fim.logits import LogitsFunction


class _Walk(NamedTuple):
    """Samples that are not fooled yet, ``(active, ...)`` each."""

    index: tf.Tensor
    task: Task
    rivals: tf.Tensor
    shift: tf.Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeepFool(SearchAttack):
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

    norm: float = 2.0
    steps: int = 50
    num_rivals: int = 4
    overshoot: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "norm", check_norm(self.norm, (2, np.inf)))
        self._check_counts("steps", "num_rivals")
        self._check(0 <= self.overshoot < np.inf, "overshoot", "a number >= 0")

    @property
    def name(self) -> str:
        """``deepfool_l2`` or ``deepfool_linf``."""
        return f"deepfool_{norm_name(self.norm)}"

    def search(self, logits_fn: LogitsFunction, task: Task) -> Found:
        """The steps."""
        images, logits = task.images, others(logits_fn(task.images), task.labels)
        rivals = tf.math.top_k(logits, min(self.num_rivals, logits.shape[-1] - 1)).indices
        walk = _Walk(tf.range(tf.shape(images)[0]), task, rivals, tf.zeros_like(images))

        def body(step: tf.Tensor, adversarials: tf.Tensor, walk: _Walk) -> tuple[tf.Tensor, tf.Tensor, _Walk]:
            walk = walk._replace(shift=walk.shift + self._step(logits_fn, walk))
            points = self._points(walk)
            adversarials = put(adversarials, walk.index, points)
            # a forward pass to see who is fooled costs far less than their gradients in the next step
            return step + 1, adversarials, keep(walk, tf.argmax(logits_fn(points), axis=-1) == walk.task.labels)

        _, adversarials, _ = while_active(body, self.steps, images, walk)
        return Found(adversarials)

    def _points(self, walk: _Walk) -> tf.Tensor:
        return tf.clip_by_value(walk.task.images + (1 + self.overshoot) * walk.shift, 0, 1)

    def _step(self, logits_fn: LogitsFunction, walk: _Walk) -> tf.Tensor:
        points = self._points(walk)
        rivals = Boundaries.of(logits_fn, points, walk.task.labels, walk.rivals, self.norm)
        # a rival that this image cannot be pushed to is infinitely far
        beyond = tf.maximum(0.5 * _BEYOND * tf.abs(rivals.own), _BEYOND)
        distances = tf.where(rivals.lengths > 0, (tf.abs(rivals.gaps) + beyond) / rivals.lengths, np.inf)
        nearest, parts = tf.argmin(distances, axis=-1), (rivals.slopes, rivals.lengths, distances)
        gradient, length, distance = (tf.gather(values, nearest, batch_dims=1) for values in parts)
        unit = tf.sign(gradient) if self.norm == np.inf else tf.math.divide_no_nan(gradient, by_image(length, gradient))
        return unit * by_image(tf.where(tf.math.is_finite(distance), distance, tf.zeros_like(distance)), gradient)


# Added to the gap, as the authors do, so that the last steps do not become ever smaller. Half of it is relative to the
# logit, whose rounding would otherwise decide whether a point beyond the boundary is still beyond in another batch.
_BEYOND = 1e-4
