r"""Eigenpairs of the Fisher information matrix in the input, through the K x K matrix of the same spectrum.

:math:`G_x = B^\top B` is D x D but of rank at most K-1, and :math:`B B^\top u = \lambda u` gives
:math:`G_x \eta = \lambda \eta` with :math:`\eta = B^\top u / \|B^\top u\|` (the paper's reduction in section 3.2).
"""

import numpy as np
import tensorflow as tf

from keras_fim.geometry.jacobian import factor
from keras_fim.typing import LogitsCallable, Spectrum


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
    return exact_spectrum_and_logits(logits_fn, images, k)[0]


def exact_spectrum_and_logits(logits_fn: LogitsCallable, images: tf.Tensor, k: int = 1) -> tuple[Spectrum, tf.Tensor]:
    """`exact_spectrum`, and the logits ``(batch, K)``, which it has anyway."""
    images = tf.convert_to_tensor(images)
    matrix, logits = factor(logits_fn, images)
    eigenvalues, directions = spectrum_of_factor(matrix, k)
    batch = tf.shape(images)[0]
    directions = tf.reshape(directions, tf.concat([[batch, k], tf.shape(images)[1:]], axis=0))
    directions.set_shape([images.shape[0], k, *images.shape[1:]])
    return Spectrum(eigenvalues, directions, tf.ones((batch,), tf.bool), tf.zeros((batch,), tf.int32)), logits


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
    if not 1 <= k <= num_classes:
        raise ValueError(f"`k` should be from 1 to the number of classes, {num_classes}. Received: k={k}")
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


def largest_first(matrices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Eigenvalues ``(batch, n)`` and vectors ``(batch, n, n)`` of symmetric matrices; NaN where one is not finite.

    `tf.linalg.eigh` would fail for the whole batch.
    """
    finite = tf.reduce_all(tf.math.is_finite(matrices), axis=(1, 2))[:, None]
    values, vectors = tf.linalg.eigh(tf.where(finite[..., None], matrices, tf.zeros_like(matrices)))
    nan = tf.cast(np.nan, values.dtype)
    return tf.reverse(tf.where(finite, values, nan), axis=[-1]), tf.reverse(vectors, axis=[-1])
