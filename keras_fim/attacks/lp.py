"""Balls and directions of the l1, l2 and l∞ norm, image by image."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

__all__ = ["by_image", "check_norm", "norm_name", "norms", "norms_of", "project", "random_in_ball", "steepest", "unit"]


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
    flat = _flat(perturbations)
    return tf.reshape(tf.sign(flat) * _onto_simplex(tf.abs(flat), epsilon[:, None]), tf.shape(perturbations))


def random_in_ball(like: tf.Tensor, epsilon: tf.Tensor, p: float, seed: tf.Tensor) -> tf.Tensor:
    """Points drawn uniformly from the lp ball about zero.

    Args:
        like: ``(batch, ...)``, whose shape and dtype the points have.
        epsilon: radii ``(batch,)``.
        p: 1, 2 or inf.
        seed: int32 ``(2,)``.

    Returns:
        As ``like``.
    """
    radius = by_image(epsilon, like)
    shape = tf.shape(like)
    if p == np.inf:
        return radius * tf.random.stateless_uniform(shape, seed, -1, 1, dtype=like.dtype)
    size = like.shape[1:].num_elements()
    if p == 2:
        share = tf.random.stateless_uniform(shape[:1], seed + 1, dtype=like.dtype) ** (1 / size)
        return radius * by_image(share, like) * unit(tf.random.stateless_normal(shape, seed, dtype=like.dtype))
    # uniform in the simplex: exponentials over their sum, with one more than there are components
    draws = -tf.math.log1p(-tf.random.stateless_uniform([shape[0], size + 1], seed, dtype=like.dtype))
    draws = (draws / tf.reduce_sum(draws, axis=-1, keepdims=True))[:, :-1]
    signs = tf.cast(2 * tf.random.stateless_uniform([shape[0], size], seed + 1, 0, 2, tf.int32) - 1, like.dtype)
    return radius * tf.reshape(signs * draws, shape)


def _onto_simplex(values: tf.Tensor, radius: tf.Tensor) -> tf.Tensor:
    """Projection of rows >= 0 onto ``{v >= 0, Σv <= radius}`` (Duchi et al. 2008)."""
    ordered = tf.sort(values, axis=-1, direction="DESCENDING")
    counts = tf.cast(tf.range(1, values.shape[-1] + 1), values.dtype)
    excess = (tf.cumsum(ordered, axis=-1) - radius) / counts
    kept = tf.maximum(tf.reduce_sum(tf.cast(ordered > excess, tf.int32), axis=-1, keepdims=True), 1)
    shift = tf.gather(excess, kept - 1, batch_dims=1)
    inside = tf.maximum(values - tf.maximum(shift, 0), 0)
    # the cumulative sum rounds
    return inside * tf.minimum(tf.math.divide_no_nan(radius, tf.reduce_sum(inside, axis=-1, keepdims=True)), 1)


def _axes(tensor: tf.Tensor) -> tuple[int, ...]:
    return tuple(range(1, tensor.shape.rank))


def _flat(tensor: tf.Tensor) -> tf.Tensor:
    return tf.reshape(tensor, [-1, tensor.shape[1:].num_elements()])
