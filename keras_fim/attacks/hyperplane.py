"""The shortest way onto a hyperplane inside the unit cube, exactly, in the l1, l2 and l∞ norm."""

from __future__ import annotations

import tensorflow as tf

from keras_fim.attacks.lp import least_multiplier


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
        moves = _grown(steep if p == 2 else tf.ones_like(steep), steep, room, gap)
    return tf.reshape(tf.sign(flat) * moves, shape)


def _grown(lengths: tf.Tensor, steep: tf.Tensor, room: tf.Tensor, gap: tf.Tensor) -> tf.Tensor:
    """``min(λ lengths, room)`` at the λ at which its product with ``steep`` is ``gap``; ``room`` where none is enough.

    What the values without room left do not gain has to come from the others. That takes more of them to their bound,
    until it takes none: a few times.
    """

    def body(scale: tf.Tensor, full: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        gained = tf.reduce_sum(tf.where(full, steep * room, zero), axis=-1, keepdims=True)
        free = tf.reduce_sum(tf.where(full, zero, steep * lengths), axis=-1, keepdims=True)
        scale = tf.where(free > 0, tf.math.divide_no_nan(tf.maximum(gap - gained, 0), free), scale)
        more = scale * lengths > room
        return scale, full | more, tf.reduce_any(more & ~full)

    zero = tf.zeros_like(steep)
    start = tf.zeros_like(gap), tf.zeros_like(steep, tf.bool), tf.constant(True)
    scale, _, _ = tf.while_loop(lambda *state: state[2], body, start)
    return tf.minimum(scale * lengths, room)
