"""Linearized decision boundaries, and the shortest way onto a hyperplane inside the unit cube, exactly."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from keras_fim.attacks.lp import grown, least_multiplier, norms_of
from keras_fim.geometry.boundary import DUAL
from keras_fim.geometry.jacobian import gradient
from keras_fim.logits import LogitsFunction


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
    ) -> Boundaries:
        """Those at some points, at the price of a forward pass and a gradient for each rival.

        Args:
            logits_fn: The classifier.
            points: ``(batch, ...)``.
            labels: ``(batch,)``, class indices.
            rivals: ``(batch, r)``, class indices.
            norm: The norm of steps towards them: 1, 2 or inf.
        """
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(points)
            logits = logits_fn(points)
            own = tf.gather(logits, labels, batch_dims=1)[:, None]
            columns = tf.unstack(tf.gather(logits, rivals, batch_dims=1) - own, axis=-1)
        slopes = [gradient(tape, column, points) for column in columns]
        lengths = tf.stack([norms_of(slope, DUAL[norm]) for slope in slopes], axis=1)
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
        spent = least_multiplier(lambda least: tf.where(steep > least, gains, zero), top, gap)
        moves = tf.math.divide_no_nan(spent, steep)
    else:
        moves = grown(steep if p == 2 else tf.ones_like(steep), room, steep, gap)
    return tf.reshape(tf.sign(flat) * moves, shape)
