r"""Eigenpairs of the Fisher information matrix in the input, by the method that suits the number of classes.

:math:`G_x = B^\top B` is D x D but of rank at most K-1, and :math:`B B^\top u = \lambda u` gives
:math:`G_x \eta = \lambda \eta` with :math:`\eta = B^\top u / \|B^\top u\|` (the paper's reduction in section 3.2).
"""

from typing import Any

import numpy as np
import tensorflow as tf

from keras_fim.arguments import expect
from keras_fim.geometry.jacobian import factor, linearize
from keras_fim.geometry.krylov import MAX_STEPS, RTOL, in_image_shape, krylov_spectrum_from, largest_first
from keras_fim.typing import LogitsCallable, Spectrum

_CLASSES_PER_PAIR = 4  # up to 4 k classes, K gradients cost no more than the Krylov method's first step


def exact_spectrum(logits_fn: LogitsCallable, images: tf.Tensor, k: int = 1) -> Spectrum:
    """The k largest eigenpairs of ``G_x``, from the whole factor B: K gradients and a K x K eigenproblem per image.

    Args:
        logits_fn: a function from images ``(batch, ...)`` to logits ``(batch, K)``, sample by sample.
        images: ``(batch, ...)``, floating.
        k: number of eigenpairs, from 1 to K.

    Returns:
        `Spectrum` with ``directions`` of shape ``(batch, k, *image shape)``.

    Raises:
        ValueError: if ``k`` is not in 1..K.

    Example:
        >>> weights = tf.constant([[1.0, -1.0]])  # one pixel, two classes: G_x = 4 p_1 p_2
        >>> exact_spectrum(lambda x: x @ weights, tf.zeros((1, 1))).eigenvalues.numpy().round(3)
        array([[1.]], dtype=float32)
    """
    return spectrum_and_logits(logits_fn, images, k, method="exact")[0]


def krylov_spectrum(
    logits_fn: LogitsCallable, images: tf.Tensor, k: int = 1, *, rtol: float = RTOL, max_steps: int = MAX_STEPS
) -> Spectrum:
    r"""The k largest eigenpairs of ``G_x``, from a few products with B and its transpose; B itself is never formed.

    A pair :math:`(\lambda, v)` has converged when the estimated residual, relative to the gap to the next eigenvalues,
    is small: :math:`\|G_x v - \lambda v\| \le \mathrm{rtol}\,(\lambda - \lambda')`, which bounds the sine of the angle
    between v and the eigenvector. The residual is estimated from what is at hand: it is the newest vectors' share in v
    times their block of the small matrix (exact would be their coupling to vectors not yet computed, which costs one
    more gradient). k pairs take k products with B and with its transpose in each step.

    Args:
        logits_fn: a function from images ``(batch, ...)`` to logits ``(batch, K)``, sample by sample.
        images: ``(batch, ...)``, floating.
        k: number of eigenpairs, from 1 to K.
        rtol: tolerance on the estimated sine, > 0. The eigenvalue's relative error is about its square.
        max_steps: largest number of steps, >= 1.

    Returns:
        `Spectrum` with ``directions`` of shape ``(batch, k, *image shape)``. What has not converged is marked so, and
        is the best of the space so far: the eigenvalue is one from below.

    Raises:
        ValueError: if ``k`` is not in 1..K, ``rtol <= 0`` or ``max_steps < 1``.

    Example:
        >>> weights = tf.constant([[1.0, -1.0]])  # one pixel, two classes: G_x = 4 p_1 p_2
        >>> krylov_spectrum(lambda x: x @ weights, tf.zeros((1, 1))).eigenvalues.numpy().round(3)
        array([[1.]], dtype=float32)
    """
    return spectrum_and_logits(logits_fn, images, k, method="krylov", rtol=rtol, max_steps=max_steps)[0]


def spectrum_and_logits(
    logits_fn: LogitsCallable, images: tf.Tensor, k: int = 1, *, method: str = "auto", **krylov_options: Any
) -> tuple[Spectrum, tf.Tensor]:
    """The k largest eigenpairs of ``G_x`` and the logits.

    Args:
        logits_fn: a function from images ``(batch, ...)`` to logits ``(batch, K)``, sample by sample.
        images: ``(batch, ...)``, floating.
        k: number of eigenpairs, from 1 to K.
        method: ``"exact"``, ``"krylov"``, or ``"auto"``: exact up to four classes for each eigenpair, else Krylov.
        **krylov_options: ``rtol`` and ``max_steps`` of `krylov_spectrum`.

    Returns:
        `Spectrum`, and ``(batch, K)``.

    Raises:
        ValueError: if ``k`` is not in 1..K.
    """
    images = tf.convert_to_tensor(images)
    if method == "auto":  # only the shape is asked for: compiled, this pass is not executed
        method = "exact" if logits_fn(images[:1]).shape[-1] <= _CLASSES_PER_PAIR * k else "krylov"
    if method == "krylov":
        jacobian = linearize(logits_fn, images)
        return krylov_spectrum_from(logits_fn, jacobian, images, k=k, **krylov_options), jacobian.logits
    matrix, logits = factor(logits_fn, images)
    eigenvalues, directions = spectrum_of_factor(matrix, k)
    batch = tf.shape(images)[0]
    converged, num_steps = tf.ones((batch,), tf.bool), tf.zeros((batch,), tf.int32)
    return Spectrum(eigenvalues, in_image_shape(directions, images), converged, num_steps), logits


def spectrum_of_factor(matrix: tf.Tensor, k: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Largest eigenvalues and unit eigenvectors of ``BᵀB``, given B.

    Args:
        matrix: B, ``(batch, K, D)``.
        k: number of eigenpairs, from 1 to K.

    Returns:
        ``(eigenvalues, directions)``: ``(batch, k)`` and ``(batch, k, D)``.

    Raises:
        ValueError: if ``k`` is not in 1..K.
    """
    num_classes = matrix.shape[1]
    expect(1 <= k <= num_classes, "k", f"from 1 to the number of classes, {num_classes}", k)
    # B of a nearly saturated sample is tiny; its square would underflow
    scale = tf.reduce_max(tf.abs(matrix), axis=(1, 2), keepdims=True)
    scaled = tf.math.divide_no_nan(matrix, scale)
    values, vectors = largest_first(tf.matmul(scaled, scaled, transpose_b=True))
    values, vectors = values[:, :k], vectors[:, :, :k]
    tolerance = num_classes * float(np.finfo(matrix.dtype.as_numpy_dtype).eps)
    zero = tf.cast(0, values.dtype)
    absent = values <= tolerance * values[:, :1]  # not `~`: compiled, it would count NaN in
    directions = tf.matmul(vectors, scaled, transpose_a=True)
    norms = tf.norm(directions, axis=-1, keepdims=True)
    directions = tf.where(absent[..., None], zero, tf.math.divide_no_nan(directions, norms))
    return tf.where(absent, zero, values * scale[:, :, 0] ** 2), directions
