"""What a detector looks at: the Fisher spectrum around an image, how sure the prediction is, and how near its end."""

import tensorflow as tf

from keras_fim.geometry import boundary_distance, linearize
from keras_fim.geometry.spectrum import spectrum_and_logits
from keras_fim.typing import LogitsCallable

FEATURES = ("log_lambda_1", "log_lambda_2", "log_trace", "log_unsure", "log_radius")
TINY = 1e-30
"""The logarithm of an eigenvalue that is 0 stays finite."""


def spectral_features(
    logits_fn: LogitsCallable, images: tf.Tensor, *, pairs: int = 2, radius: bool = True
) -> tf.Tensor:
    r"""Logarithms of what the detector knows of each image.

    Of the two largest eigenvalues of :math:`G_x`, of the trace :math:`\sum_i 1/p_i` in the softmax output, of
    :math:`1 - p_y`, where y is the predicted class, and of the boundary radius (`keras_fim.boundary_radius`, l2).

    Args:
        logits_fn: A logits function.
        images: ``(batch, ...)``, floating, at least one.
        pairs: 2, or 1 to go without the second eigenvalue, at half the cost.
        radius: Whether to compute the boundary radius, from three gradients.

    Returns:
        ``(batch, 5)``, in the order of `FEATURES`. An eigenvalue or radius that is 0, undefined or not computed counts
        as 1e-30, so that an image of which nothing is known passes for one at the boundary.
    """
    pairs = min(pairs, logits_fn(images[:1]).shape[-1])  # compiled, this pass is not executed
    spectrum, logits = spectrum_and_logits(logits_fn, images, pairs)
    missing = tf.zeros_like(logits[:, : 2 - pairs])
    distance = boundary_distance(linearize(logits_fn, images))[0] if radius else tf.zeros_like(logits[:, 0])
    return features_of(logits, tf.concat([spectrum.eigenvalues, missing], axis=-1), distance)


def features_of(logits: tf.Tensor, eigenvalues: tf.Tensor, radius: tf.Tensor) -> tf.Tensor:
    """The features ``(batch, 5)`` of logits ``(batch, K)``, two eigenvalues ``(batch, 2)`` and radii ``(batch,)``."""
    log_p = tf.nn.log_softmax(logits)
    predicted = tf.one_hot(tf.argmax(logits, axis=-1), logits.shape[-1], on_value=True, off_value=False)
    log_others = tf.where(predicted, tf.cast(-float("inf"), log_p.dtype), log_p)
    of_prediction = [tf.reduce_logsumexp(-log_p, axis=-1), tf.reduce_logsumexp(log_others, axis=-1)]
    radius = tf.where(tf.math.is_nan(radius), tf.zeros_like(radius), radius)
    floored = (tf.where(v < TINY, tf.cast(TINY, v.dtype), v) for v in (eigenvalues, radius))  # NaN stays NaN
    log_eigenvalues, log_radius = map(tf.math.log, floored)
    return tf.concat([log_eigenvalues, tf.stack([*of_prediction, log_radius], axis=-1)], axis=-1)
