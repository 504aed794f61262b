"""Fisher information of a categorical distribution, as functions of its logits.

With ``p = softmax(z)`` over K classes, the Fisher information matrix (FIM) is ``G_s = diag(1/p)`` in the coordinates
``s = p`` (the paper's section 3.2) and ``G_z = diag(p) - p pᵀ`` in the coordinates ``z``. All functions take logits of
shape ``(..., K)`` in any floating dtype and compute in it; none forms ``1/p`` from rounded probabilities.
"""

import tensorflow as tf


def simplex_fim_trace(logits: tf.Tensor) -> tf.Tensor:
    r"""Trace of the FIM in the softmax output, :math:`\operatorname{tr} G_s = \sum_i 1/p_i \ge K^2` (eq. 4).

    Args:
        logits: ``(..., K)``.

    Returns:
        ``(...)``, in the dtype of ``logits``. Float32 overflows to inf where a logit gap exceeds 88.

    Example:
        >>> simplex_fim_trace(tf.zeros((1, 10))).numpy().round(3)
        array([100.], dtype=float32)
    """
    return tf.reduce_sum(tf.exp(-tf.nn.log_softmax(logits)), axis=-1)


def simplex_fim_largest_eigenvalue(logits: tf.Tensor) -> tf.Tensor:
    r"""Largest eigenvalue of the FIM in the softmax output, :math:`\lambda_{\max}(G_s) = 1/\min_i p_i` (eq. 3).

    The paper says that it has no explicit expression; ``G_s`` is diagonal, so it has this one.

    Args:
        logits: ``(..., K)``.

    Returns:
        ``(...)``, in the dtype of ``logits``, between K and the trace.

    Example:
        >>> simplex_fim_largest_eigenvalue(tf.math.log([[0.75, 0.25]])).numpy().round(3)
        array([4.], dtype=float32)
    """
    return tf.exp(-tf.reduce_min(tf.nn.log_softmax(logits), axis=-1))


def logit_fim(logits: tf.Tensor) -> tf.Tensor:
    r"""The FIM in the logits, :math:`G_z = \operatorname{diag}(p) - p p^\top`.

    Args:
        logits: ``(..., K)``.

    Returns:
        ``(..., K, K)``, positive semi-definite with rank at most K-1.

    Example:
        >>> logit_fim(tf.zeros((2,))).numpy()
        array([[ 0.25, -0.25],
               [-0.25,  0.25]], dtype=float32)
    """
    p = tf.nn.softmax(logits)
    return tf.linalg.diag(p) - p[..., :, None] * p[..., None, :]


def logit_fim_form(logits: tf.Tensor, vectors: tf.Tensor) -> tf.Tensor:
    r"""The quadratic form of the FIM in the logits, :math:`w^\top G_z w = \operatorname{Var}_{k \sim p}(w_k)`.

    For :math:`w = \partial_v z` it is :math:`v^\top G_x v`.

    Args:
        logits: ``(..., K)``.
        vectors: the w, ``(..., K)``.

    Returns:
        ``(...)``, >= 0, in the dtype of ``logits``.

    Example:
        >>> logit_fim_form(tf.zeros((1, 2)), tf.constant([[1.0, 3.0]])).numpy()
        array([1.], dtype=float32)
    """
    p = tf.nn.softmax(logits)
    # relative to the predicted class: with p close to one-hot, w - pᵀw would cancel
    vectors = vectors - tf.gather(vectors, tf.argmax(logits, axis=-1), batch_dims=vectors.shape.rank - 1)[..., None]
    return tf.reduce_sum(p * (vectors - tf.reduce_sum(p * vectors, axis=-1, keepdims=True)) ** 2, axis=-1)


def logit_fim_largest_eigenvalue(logits: tf.Tensor) -> tf.Tensor:
    r"""Largest eigenvalue of the FIM in the logits, :math:`\lambda_{\max}(G_z) \le 1/2`.

    Args:
        logits: ``(..., K)``.

    Returns:
        ``(...)``, in the dtype of ``logits``. For K = 2 it is ``2 p_1 p_2``; beyond there is no simple closed form,
        and it is taken from the K x K matrix.

    Example:
        >>> logit_fim_largest_eigenvalue(tf.zeros((1, 2))).numpy().round(3)
        array([0.5], dtype=float32)
    """
    return tf.maximum(tf.linalg.eigvalsh(logit_fim(logits))[..., -1], 0)


def kl_divergence(logits: tf.Tensor, other_logits: tf.Tensor) -> tf.Tensor:
    r"""Kullback-Leibler divergence :math:`D_{KL}(p \| p')` of two categorical distributions, in nats (eq. 1).

    Args:
        logits: ``(..., K)``, of ``p``.
        other_logits: ``(..., K)``, of ``p'``, same dtype.

    Returns:
        ``(...)``, non-negative up to rounding.

    Example:
        >>> kl_divergence(tf.zeros((1, 3)), tf.zeros((1, 3))).numpy()
        array([0.], dtype=float32)
    """
    log_p = tf.nn.log_softmax(logits)
    return tf.reduce_sum(tf.exp(log_p) * (log_p - tf.nn.log_softmax(other_logits)), axis=-1)


def two_classes(logit: tf.Tensor) -> tf.Tensor:
    """The logits (0, z) of the two classes that one sigmoid unit with logit z tells apart.

    Args:
        logit: z, ``(..., 1)``.

    Returns:
        ``(..., 2)``.
    """
    return tf.concat([tf.zeros_like(logit), logit], axis=-1)
