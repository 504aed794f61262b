"""Cross-entropy with a Fisher penalty, as a function of logits: the paper's eq. (3) and (4), sample by sample.

The penalty ``1/p = exp(-log p)`` is exact up to ``1/p = 1e6`` and continued linearly in ``-log p`` beyond, with the
slope it has there. Loss and gradient so stay finite, and the gradient keeps pushing, however small ``p`` is.
"""

import math
from typing import Any

import tensorflow as tf

INVERSE_PROBABILITY_CAP = 1e6
"""Largest ``1/p`` up to which the penalties are exact; see the module's docstring."""


def penalized_cross_entropy(
    targets: tf.Tensor,
    logits: tf.Tensor,
    mu: tf.Tensor | float,
    *,
    penalty: str = "trace",
    gradient_limit: float | None = 1.0,
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
    if penalty not in ("trace", "eigenvalue"):
        raise ValueError(f'`penalty` should be "trace" or "eigenvalue". Received: penalty={penalty!r}')
    mu = tf.convert_to_tensor(mu, logits.dtype)
    if gradient_limit is None:
        return _value_and_slopes(targets, logits, mu, penalty)[0]

    @tf.custom_gradient
    def limited(z: tf.Tensor) -> tuple[tf.Tensor, Any]:
        value, slopes = _value_and_slopes(targets, z, mu, penalty)

        def grad(upstream: tf.Tensor) -> tf.Tensor:
            gradient = tf.nn.softmax(z) * tf.reduce_sum(slopes, axis=-1, keepdims=True) - slopes
            limit = tf.cast(gradient_limit, z.dtype)
            norm = tf.norm(gradient, axis=-1, keepdims=True)
            return upstream[..., None] * gradient * (limit / tf.maximum(norm, limit))

        return value, grad

    return limited(logits)


def _value_and_slopes(
    targets: tf.Tensor, logits: tf.Tensor, mu: tf.Tensor, penalty: str
) -> tuple[tf.Tensor, tf.Tensor]:
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
