"""Balls and directions of the l1, l2 and l∞ norm, image by image."""

import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_fim.arguments import expect
from keras_fim.attacks import draws

NORMS = {"l0": 0.0, "l1": 1.0, "l2": 2.0, "linf": np.inf}
"""The norms by their names."""


def norms(perturbations: np.ndarray, p: float) -> np.ndarray:
    """The lp norm of each perturbation; for p = 0 the number of changed values.

    Args:
        perturbations: ``(batch, ...)``.
        p: 0, 1, 2 or inf.

    Returns:
        float64 ``(batch,)``.
    """
    flat = np.asarray(perturbations, np.float64).reshape(len(perturbations), math.prod(np.shape(perturbations)[1:]))
    return np.asarray(np.linalg.norm(flat, ord=p, axis=-1))


def norms_of(perturbations: tf.Tensor, p: float) -> tf.Tensor:
    """`norms` inside a compiled function, in the tensor's own precision; p is 1, 2 or inf.

    In l2, where squares would underflow or overflow, values are divided by the largest.
    """
    values = _flat(perturbations)
    if p != 2:
        return tf.norm(values, ord=p, axis=-1)
    largest = tf.reduce_max(tf.abs(values), axis=-1)
    scale = tf.where((largest < 1e-15) | (largest > 1e15), largest, 1)
    return scale * tf.norm(tf.math.divide_no_nan(values, scale[:, None]), axis=-1)


def num_changed(points: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
    """The number of values in which points and images differ, ``(batch,)``: the l0 norm of the perturbation."""
    return tf.math.count_nonzero(points != images, axis=axes(points), dtype=points.dtype)


def norm_name(p: float) -> str:
    """``"l0"``, ``"l1"``, ``"l2"`` or ``"linf"``.

    Example:
        >>> norm_name(np.inf)
        'linf'
    """
    return "linf" if p == np.inf else f"l{p:g}"


def check_norm(p: float, allowed: tuple[float, ...] = (1, 2, np.inf)) -> float:
    """A norm as a float.

    Raises:
        ValueError: if it is not one of ``allowed``.
    """
    names = ", ".join("np.inf" if norm == np.inf else f"{norm:g}" for norm in allowed)
    expect(p in allowed, "norm", f"one of {names}", p)
    return float(p)


def by_image(values: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
    """One value per image, ``(batch,)``, in a shape that broadcasts against ``images``."""
    return tf.reshape(values, [-1, *[1] * (images.shape.rank - 1)])


def unit(vectors: tf.Tensor) -> tf.Tensor:
    """Each of ``(batch, ...)`` divided by its l2 norm; zero stays zero. No overflow or underflow on the way."""
    sides = axes(vectors)
    vectors = tf.math.divide_no_nan(vectors, tf.reduce_max(tf.abs(vectors), axis=sides, keepdims=True))
    return tf.math.divide_no_nan(vectors, tf.sqrt(tf.reduce_sum(vectors**2, axis=sides, keepdims=True)))


def steepest(gradients: tf.Tensor, p: float) -> tf.Tensor:
    r"""The direction of lp norm 1 along which a linear function grows fastest, :math:`\arg\max_{\|v\|_p=1} v^\top g`.

    Args:
        gradients: ``(batch, ...)``.
        p: 2 or inf.

    Returns:
        As ``gradients``; zero where they are.
    """
    return tf.sign(gradients) if p == np.inf else unit(gradients)


def step(points: tf.Tensor, gradients: tf.Tensor, length: tf.Tensor, p: float, *, sparsity: float = 0.0) -> tf.Tensor:
    """Points moved in the direction in which a linear function grows fastest.

    For l1 the step stays in the unit cube: the values of the largest slopes come first, each as far as it has room.

    Args:
        points: ``(batch, ...)``.
        gradients: as ``points``.
        length: of the step in the lp norm, ``(batch,)``.
        p: 1, 2 or inf.
        sparsity: for p = 1, the share of the values that the step is divided among at least; one value at least.

    Returns:
        As ``points``.
    """
    if p != 1:
        return points + by_image(length, points) * steepest(gradients, p)
    flat, budget = _flat(gradients), length[:, None]
    room = tf.where(flat > 0, 1 - _flat(points), _flat(points))
    most = tf.minimum(room, budget / max(1, math.ceil(sparsity * flat.shape[-1])))
    slopes = tf.abs(flat)
    top = tf.reduce_max(slopes, axis=-1, keepdims=True)
    moves = least_multiplier(lambda least: tf.where(slopes > least, most, tf.zeros_like(most)), top, budget)
    return points + tf.reshape(tf.sign(flat) * moves, tf.shape(points))


def project(perturbations: tf.Tensor, epsilon: tf.Tensor, p: float) -> tf.Tensor:
    """The nearest point (in l2) of the lp ball about zero.

    Args:
        perturbations: ``(batch, ...)``.
        epsilon: radii ``(batch,)``.
        p: 1, 2 or inf.

    Returns:
        As ``perturbations``.
    """
    radius = by_image(epsilon, perturbations)
    if p == np.inf:
        return tf.clip_by_value(perturbations, -radius, radius)
    if p == 2:
        length = tf.sqrt(tf.reduce_sum(perturbations**2, axis=axes(perturbations), keepdims=True))
        return perturbations * tf.minimum(tf.cast(1, radius.dtype), tf.math.divide_no_nan(radius, length))
    return tf.sign(perturbations) * _capped(tf.abs(perturbations), tf.abs(perturbations), epsilon, p)


def project_inside(points: tf.Tensor, origin: tf.Tensor, epsilon: tf.Tensor, p: float) -> tf.Tensor:
    """The nearest point (in l2) of the intersection of the lp ball about ``origin`` and the unit cube.

    Args:
        points: ``(batch, ...)``.
        origin: As ``points``, in the unit cube.
        epsilon: radii ``(batch,)``.
        p: 1, 2 or inf.

    Returns:
        As ``points``.

    Source:
        For l1: Croce & Hein, Mind the box: l1-APGD for sparse adversarial attacks on image classifiers (ICML 2021),
        proposition 2.1. In l2 a point in the cube is scaled, as `project` does.
    """
    shift = points - origin
    if p == np.inf:
        shift = project(shift, epsilon, p)
    else:
        shift = tf.sign(shift) * _capped(tf.abs(shift), tf.where(shift > 0, 1 - origin, origin), epsilon, p)
    return tf.clip_by_value(origin + shift, 0, 1)


def random_in_ball(like: tf.Tensor, epsilon: tf.Tensor, p: float, keys: tf.Tensor) -> tf.Tensor:
    """Points drawn uniformly from the lp ball about zero.

    Args:
        like: ``(batch, ...)``, whose shape and dtype the points have.
        epsilon: radii ``(batch,)``.
        p: 1, 2 or inf.
        keys: for `keras_fim.attacks.draws`, int64 ``(batch,)``.

    Returns:
        As ``like``.
    """
    radius, shape, dtype = by_image(epsilon, like), like.shape[1:], like.dtype
    if p == np.inf:
        return radius * (2 * draws.uniform(keys, shape, dtype) - 1)
    size = shape.num_elements()
    if p == 2:
        share = draws.uniform(draws.fold(keys, 1), (), dtype) ** (1 / size)
        return radius * by_image(share, like) * unit(draws.normal(keys, shape, dtype))
    # uniform in the simplex: exponentials over their sum, with one more than there are components
    weights = -tf.math.log(draws.uniform(keys, (size + 1,), dtype))
    weights = (weights / tf.reduce_sum(weights, axis=-1, keepdims=True))[:, :-1]
    return radius * tf.reshape(weights, tf.shape(like)) * draws.signs(draws.fold(keys, 1), shape, dtype)


def _capped(lengths: tf.Tensor, room: tf.Tensor, epsilon: tf.Tensor, p: float) -> tf.Tensor:
    """The nearest to ``lengths`` >= 0 of the values from 0 to ``room`` whose l1 or l2 norm is at most ε.

    With a multiplier they are ``clip(lengths - λ, 0, room)`` in l1, ``min(λ lengths, room)`` with λ <= 1 in l2.
    """
    values, caps, radius = _flat(lengths), _flat(room), epsilon[:, None]
    if p == 1:
        top = tf.reduce_max(values, axis=-1, keepdims=True)
        inside = least_multiplier(lambda shift: tf.clip_by_value(values - shift, 0, caps), top, radius)
    else:
        inside = grown(values, tf.minimum(caps, values), tf.ones_like(values), radius, power=2)
    return tf.reshape(inside, tf.shape(lengths))


def grown(lengths: tf.Tensor, caps: tf.Tensor, weights: tf.Tensor, total: tf.Tensor, *, power: float = 1) -> tf.Tensor:
    r"""The values x = ``min(λ lengths, caps)`` with :math:`\sum_i w_i x_i^q = t^q`; ``caps`` where no λ is enough.

    What values at their cap leave of the total is for the others. That takes more of them to their caps, until it
    takes none: a few times.

    Args:
        lengths: ``(batch, D)``, >= 0.
        caps: As ``lengths``.
        weights: w, as ``lengths``.
        total: t, ``(batch, 1)``.
        power: q.
    """

    def body(scale: tf.Tensor, full: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        held = tf.reduce_sum(tf.where(full, weights * caps**power, zero), axis=-1, keepdims=True)
        free = tf.reduce_sum(tf.where(full, zero, weights * lengths**power), axis=-1, keepdims=True)
        left = tf.maximum(total**power - held, 0)
        scale = tf.where(free > 0, tf.math.divide_no_nan(left, free) ** (1 / power), scale)
        more = scale * lengths > caps
        return scale, full | more, tf.reduce_any(more & ~full)

    zero = tf.zeros_like(lengths)
    start = tf.zeros_like(total), tf.zeros_like(lengths, tf.bool), tf.constant(True)
    scale, _, _ = tf.while_loop(lambda *state: state[2], body, start)
    return tf.minimum(scale * lengths, caps)


def least_multiplier(rows: Callable[[tf.Tensor], tf.Tensor], top: tf.Tensor, limit: tf.Tensor) -> tf.Tensor:
    """``rows(λ)`` at the least λ >= 0 for which their sum is at most ``limit``.

    Halving the interval of λ until it is as short as rounding takes a fifth of the time of sorting where the sum bends.
    Between the ends of the last interval, which may be a jump, it is interpolated.

    Args:
        rows: From ``(batch, 1)`` to values >= 0, ``(batch, D)``, which fall along λ.
        top: Where they are 0, ``(batch, 1)``.
        limit: ``(batch, 1)``.
    """

    def total(values: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(values, axis=-1, keepdims=True)

    def body(low: tf.Tensor, high: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        middle = (low + high) / 2
        above = total(rows(middle)) > limit
        return tf.where(above, middle, low), tf.where(above, high, middle)

    low = tf.zeros_like(top)
    high = tf.where(total(rows(low)) > limit, top, low)
    halvings = 54 if top.dtype == tf.float64 else 26
    low, high = tf.while_loop(lambda *_: True, body, (low, high), maximum_iterations=halvings)
    more, less = rows(low), rows(high)
    share = tf.math.divide_no_nan(total(more) - limit, total(more) - total(less))
    inside = more + tf.clip_by_value(share, 0, 1) * (less - more)
    return inside * tf.minimum(tf.math.divide_no_nan(limit, total(inside)), 1)  # the sums round


def axes(tensor: tf.Tensor) -> tuple[int, ...]:
    """The axes of one sample: all but the first."""
    return tuple(range(1, tensor.shape.rank))


def _flat(tensor: tf.Tensor) -> tf.Tensor:
    return tf.reshape(tensor, [-1, tensor.shape[1:].num_elements()])
