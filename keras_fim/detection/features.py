"""What a detector looks at: the Fisher spectrum around an image, and how sure the prediction is."""

from __future__ import annotations

import tensorflow as tf

from keras_fim.geometry.spectrum import spectrum_and_logits
from keras_fim.typing import LogitsCallable

FEATURES = ("log_lambda_1", "log_lambda_2", "log_trace", "log_unsure")
TINY = 1e-30
"""The logarithm of an eigenvalue that is 0 stays finite."""


def spectral_features(logits_fn: LogitsCallable, images: tf.Tensor, *, pairs: int = 2) -> tf.Tensor:
    r"""Logarithms of what the detector knows of each image.

    Of the two largest eigenvalues of :math:`G_x`, of the trace :math:`\sum_i 1/p_i` in the softmax output, and of
    :math:`1 - p_y`, where y is the predicted class.

    Args:
        logits_fn: a logits function.
        images: ``(batch, ...)``, floating, at least one.
        pairs: 2, or 1 to go without the second eigenvalue, at half the cost.

    Returns:
        ``(batch, 4)``, in the order of `FEATURES`; an eigenvalue of 0 or not computed counts as 1e-30.
    """
    pairs = min(pairs, logits_fn(images[:1]).shape[-1])  # compiled, this pass is not executed
    spectrum, logits = spectrum_and_logits(logits_fn, images, pairs)
    missing = tf.zeros_like(spectrum.eigenvalues[:, : 2 - pairs])
    return features_of(logits, tf.concat([spectrum.eigenvalues, missing], axis=-1))


def features_of(logits: tf.Tensor, eigenvalues: tf.Tensor) -> tf.Tensor:
    """The features of given logits ``(batch, K)`` and two largest eigenvalues ``(batch, 2)``: ``(batch, 4)``."""
    log_p = tf.nn.log_softmax(logits)
    predicted = tf.one_hot(tf.argmax(logits, axis=-1), logits.shape[-1], on_value=True, off_value=False)
    log_others = tf.where(predicted, tf.cast(-float("inf"), log_p.dtype), log_p)
    of_prediction = [tf.reduce_logsumexp(-log_p, axis=-1), tf.reduce_logsumexp(log_others, axis=-1)]
    log_eigenvalues = tf.math.log(tf.maximum(eigenvalues, tf.cast(TINY, eigenvalues.dtype)))
    return tf.concat([log_eigenvalues, tf.stack(of_prediction, axis=-1)], axis=-1)
