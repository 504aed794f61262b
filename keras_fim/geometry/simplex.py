"""Fisher information of a categorical distribution as functions of its logits, and the paper's penalties on it.

With ``p = softmax(z)`` over K classes, the Fisher information matrix (FIM) is ``G_s = diag(1/p)`` in the coordinates
``s = p`` (the paper's section 3.2) and ``G_z = diag(p) - p pᵀ`` in the coordinates ``z``. All functions take logits of
shape ``(..., K)`` in any floating dtype and compute in it; none forms ``1/p`` from rounded probabilities.

The penalty ``1/p = exp(-log p)`` of eq. (3) and (4) is exact up to ``1/p = 1e6`` and continued linearly in ``-log p``
beyond, with the slope it has there. Loss and gradient so stay finite, and the gradient keeps pushing, however small
``p`` is.

On one sample eq. (4) meets label smoothing: both have their minimum at ``q = α/K`` for each other class and
``t = 1 - (K-1) q`` for the true one. Setting the derivative of ``-log t + μ (1/t + (K-1)/q)`` in ``q`` to zero gives
exactly ``μ = t q² / (t² - q²)``.
"""

import math
from typing import Any

import tensorflow as tf

from keras_fim.arguments import AtLeastTwo, NotNegative, ShareBelowOne, checked, expect

INVERSE_PROBABILITY_CAP = 1e6
"""Largest ``1/p`` up to which the penalties are exact; see the module's docstring."""
_PAPER_ALPHA = 0.765  # what the paper's μ = 0.02 is at K = 10


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
        ``(...)``, in the dtype of ``logits``; NaN where a logit is. For K = 2 it is ``2 p_1 p_2``; beyond there is no
        simple closed form, and it is taken from the K x K matrix.

    Example:
        >>> logit_fim_largest_eigenvalue(tf.zeros((1, 2))).numpy().round(3)
        array([0.5], dtype=float32)
    """
    matrix = logit_fim(logits)
    largest = tf.linalg.eigvalsh(tf.where(tf.math.is_finite(matrix), matrix, tf.zeros_like(matrix)))[..., -1]
    return tf.maximum(largest, 0) + 0 * tf.reduce_sum(matrix, axis=(-2, -1))  # NaN of NaN, which fails in `eigvalsh`


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


def penalized_cross_entropy(
    targets: tf.Tensor, logits: tf.Tensor, mu: Any, *, penalty: str = "trace", gradient_limit: float | None = 1.0
) -> tf.Tensor:
    r"""Cross-entropy plus a Fisher penalty, sample by sample: :math:`-\sum_i y_i \log p_i + \mu\,\phi(p)`.

    With :math:`D_i = y_i + \mu\,\partial\phi/\partial(-\log p_i)` the gradient in the logits is
    :math:`p_j \sum_i D_i - D_j`; it is computed in this closed form.

    Args:
        targets: ``(..., K)``, class probabilities.
        logits: ``(..., K)``, float32 or float64.
        mu: weight of the penalty, a scalar.
        penalty: ``"trace"`` for :math:`\phi = \sum_i 1/p_i` (eq. 4), ``"eigenvalue"`` for :math:`\max_i 1/p_i` (eq. 3).
        gradient_limit: largest l2 norm of each sample's gradient in its logits; longer ones are scaled down to it.
            ``None`` gives the plain derivative.

    Returns:
        ``(...)``, one loss per sample, in nats.

    Raises:
        ValueError: if ``penalty`` is neither.

    Example:
        >>> penalized_cross_entropy(tf.constant([[1.0, 0.0]]), tf.zeros((1, 2)), 0.0).numpy().round(4)
        array([0.6931], dtype=float32)
    """
    expect(penalty in ("trace", "eigenvalue"), "penalty", '"trace" or "eigenvalue"', penalty)
    mu = tf.convert_to_tensor(mu, logits.dtype)
    if gradient_limit is None:
        return _with_slopes(targets, logits, mu, penalty)[0]

    @tf.custom_gradient
    def limited(z: tf.Tensor) -> tuple[tf.Tensor, Any]:
        value, slopes = _with_slopes(targets, z, mu, penalty)

        def grad(upstream: tf.Tensor) -> tf.Tensor:
            gradient = tf.nn.softmax(z) * tf.reduce_sum(slopes, axis=-1, keepdims=True) - slopes
            limit = tf.cast(gradient_limit, z.dtype)
            norm = tf.norm(gradient, axis=-1, keepdims=True)
            return upstream[..., None] * gradient * (limit / tf.maximum(norm, limit))

        return value, grad

    return limited(logits)


def _with_slopes(targets: tf.Tensor, logits: tf.Tensor, mu: tf.Tensor, penalty: str) -> tuple[tf.Tensor, tf.Tensor]:
    """The loss per sample and its derivative in ``-log p_i``, the ``D_i`` of `penalized_cross_entropy`."""
    surprisal = -tf.nn.log_softmax(logits)
    inverse = tf.exp(tf.minimum(surprisal, math.log(INVERSE_PROBABILITY_CAP)))
    extended = inverse + INVERSE_PROBABILITY_CAP * tf.nn.relu(surprisal - math.log(INVERSE_PROBABILITY_CAP))
    if penalty == "trace":
        value, slopes = tf.reduce_sum(extended, axis=-1), inverse
    else:
        value = tf.reduce_max(extended, axis=-1)
        largest = tf.cast(tf.equal(extended, value[..., None]), logits.dtype)
        slopes = inverse * largest / tf.reduce_sum(largest, axis=-1, keepdims=True)
    return tf.reduce_sum(targets * surprisal, axis=-1) + mu * value, targets + mu * slopes


@checked
def mu_from_label_smoothing(alpha: ShareBelowOne, num_classes: AtLeastTwo) -> float:
    r"""The μ of eq. (4) whose optimum on one sample is that of label smoothing with strength α.

    .. math:: \mu = \frac{t q^2}{t^2 - q^2}, \quad q = \frac{\alpha}{K}, \quad t = 1 - (K-1) q

    Args:
        alpha: strength of label smoothing in [0, 1): ``y (1 - α) + α/K``.
        num_classes: number of classes K >= 2.

    Returns:
        μ >= 0, growing with α without bound.

    Raises:
        ValueError: if ``alpha`` is not in [0, 1) or ``num_classes < 2``.

    Example:
        >>> round(mu_from_label_smoothing(0.765, 10), 4), round(mu_from_label_smoothing(0.765, 43), 5)
        (0.02, 0.00126)
    """
    q = alpha / num_classes
    t = 1 - (num_classes - 1) * q
    # t - q = 1 - alpha exactly; the difference of squares would cancel
    return t * q * q / ((t + q) * (1 - alpha))


@checked
def label_smoothing_from_mu(mu: NotNegative, num_classes: AtLeastTwo) -> float:
    """The strength α of label smoothing that has the optimum of eq. (4) with μ; inverse of `mu_from_label_smoothing`.

    Args:
        mu: weight μ >= 0 of the trace.
        num_classes: number of classes K >= 2.

    Returns:
        α in [0, 1), to the last bits (by bisection; the relation is monotone).

    Raises:
        ValueError: if ``mu`` is negative or not finite, or ``num_classes < 2``.

    Example:
        >>> round(label_smoothing_from_mu(0.02, 10), 3)
        0.765
    """
    if mu == 0:
        return 0.0
    low, high = 0.0, math.nextafter(1.0, 0.0)
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if mu_from_label_smoothing(middle, num_classes) < mu else (low, middle)
    return low


@checked
def default_mu(num_classes: AtLeastTwo) -> float:
    """A μ for eq. (4) that smooths K classes as strongly as the paper's μ = 0.02 smooths ten.

    It is `mu_from_label_smoothing` at α = 0.765: 0.02 at K = 10, 0.0013 at K = 43, where 0.02 itself would leave the
    true class a probability of 0.039, next to chance.

    Args:
        num_classes: number of classes K >= 2.

    Returns:
        μ, rounded to two digits.

    Raises:
        ValueError: if ``num_classes < 2``.

    Example:
        >>> default_mu(10), default_mu(43)
        (0.02, 0.0013)
    """
    return float(f"{mu_from_label_smoothing(_PAPER_ALPHA, num_classes):.1e}")
