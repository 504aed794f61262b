"""Balls and directions of the l1, l2 and l∞ norm, image by image."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from keras_fim.attacks import draws

__all__ = [
    "by_image",
    "check_norm",
    "norm_name",
    "norms",
    "norms_of",
    "project",
    "project_inside",
    "random_in_ball",
    "steepest",
    "unit",
]


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
    """`norms` inside a compiled function, in the tensor's own precision; p is 1, 2 or inf."""
    return tf.norm(_flat(perturbations), ord=p, axis=-1)


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
    if p not in allowed:
        names = ", ".join("np.inf" if each == np.inf else f"{each:g}" for each in allowed)
        raise ValueError(f"`norm` should be one of {names}. Received: norm={p!r}")
    return float(p)


def by_image(values: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
    """One value per image, ``(batch,)``, in a shape that broadcasts against ``images``."""
    return tf.reshape(values, [-1, *[1] * (images.shape.rank - 1)])


def unit(vectors: tf.Tensor) -> tf.Tensor:
    """Each of ``(batch, ...)`` divided by its l2 norm; zero stays zero. No overflow or underflow on the way."""
    axes = _axes(vectors)
    vectors = tf.math.divide_no_nan(vectors, tf.reduce_max(tf.abs(vectors), axis=axes, keepdims=True))
    return tf.math.divide_no_nan(vectors, tf.sqrt(tf.reduce_sum(vectors**2, axis=axes, keepdims=True)))


def steepest(gradients: tf.Tensor, p: float, *, sparsity: float = 0.0) -> tf.Tensor:
    r"""The direction of lp norm 1 along which a linear function grows fastest, :math:`\arg\max_{\|v\|_p=1} v^\top g`.

    Args:
        gradients: ``(batch, ...)``.
        p: 1, 2 or inf.
        sparsity: for p = 1, the share of the largest components that divide the step among them, at least one. More
            than one component makes way while pixel bounds stop single ones (Tramèr & Boneh 2019).

    Returns:
        As ``gradients``; zero where they are.
    """
    if p == np.inf:
        return tf.sign(gradients)
    if p == 2:
        return unit(gradients)
    flat = _flat(gradients)
    count = max(1, math.ceil(sparsity * flat.shape[-1]))
    threshold = tf.math.top_k(tf.abs(flat), count).values[:, -1:]
    chosen = tf.where(tf.abs(flat) >= threshold, tf.sign(flat), 0)
    return tf.reshape(
        tf.math.divide_no_nan(chosen, tf.reduce_sum(tf.abs(chosen), axis=-1, keepdims=True)), tf.shape(gradients)
    )


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
        length = tf.sqrt(tf.reduce_sum(perturbations**2, axis=_axes(perturbations), keepdims=True))
        return perturbations * tf.minimum(tf.cast(1, radius.dtype), tf.math.divide_no_nan(radius, length))
    flat = tf.abs(_flat(perturbations))
    inside = tf.reshape(_onto_capped_simplex(flat, flat, epsilon[:, None]), tf.shape(perturbations))
    return tf.sign(perturbations) * inside


def project_inside(points: tf.Tensor, origin: tf.Tensor, epsilon: tf.Tensor, p: float) -> tf.Tensor:
    """Points brought into the lp ball about ``origin`` and into the unit cube.

    For l1 and l∞ it is the nearest point (in l2) of both. For l2 the ball comes first, then the cube.

    Args:
        points: ``(batch, ...)``.
        origin: As ``points``, in the unit cube.
        epsilon: radii ``(batch,)``.
        p: 1, 2 or inf.

    Returns:
        As ``points``.

    Source:
        For l1: Croce & Hein, Mind the box: l1-APGD for sparse adversarial attacks on image classifiers (ICML 2021),
        proposition 2.1.
    """
    shift = points - origin
    if p == 1:
        room = tf.where(shift > 0, 1 - origin, origin)
        inside = _onto_capped_simplex(_flat(tf.abs(shift)), _flat(room), epsilon[:, None])
        shift = tf.sign(shift) * tf.reshape(inside, tf.shape(shift))
    else:
        shift = project(shift, epsilon, p)
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


def _onto_capped_simplex(values: tf.Tensor, caps: tf.Tensor, radius: tf.Tensor) -> tf.Tensor:
    """Projection of rows >= 0 onto ``{0 <= v <= caps, Σv <= radius}``: ``clip(values - λ, 0, caps)``, the least λ >= 0.

    The sum falls along λ, piecewise linearly. Halving the interval of λ until it is as short as rounding takes an
    eighth of the time of sorting the breaks of the sum, and between the ends of the interval the sum is interpolated.
    """

    def at(shift: tf.Tensor) -> tf.Tensor:
        return tf.clip_by_value(values - shift, 0, caps)

    def total(rows: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(rows, axis=-1, keepdims=True)

    def body(low: tf.Tensor, high: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        middle = (low + high) / 2
        above = total(at(middle)) > radius
        return tf.where(above, middle, low), tf.where(above, high, middle)

    low = tf.zeros_like(radius)
    high = tf.where(total(at(low)) > radius, tf.reduce_max(values, axis=-1, keepdims=True), low)
    digits = 26 if values.dtype == tf.float32 else 54
    low, high = tf.while_loop(lambda *_: True, body, (low, high), maximum_iterations=digits)
    more, less = at(low), at(high)
    share = tf.math.divide_no_nan(total(more) - radius, total(more) - total(less))
    inside = more + tf.clip_by_value(share, 0, 1) * (less - more)
    # the sums round
    return inside * tf.minimum(tf.math.divide_no_nan(radius, total(inside)), 1)


def _axes(tensor: tf.Tensor) -> tuple[int, ...]:
    return tuple(range(1, tensor.shape.rank))


def _flat(tensor: tf.Tensor) -> tf.Tensor:
    return tf.reshape(tensor, [-1, tensor.shape[1:].num_elements()])
