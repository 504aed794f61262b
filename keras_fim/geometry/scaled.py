"""The factor B of the Fisher information, in the range of floating-point numbers however sure the model is."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_fim.geometry.jacobian import Linearization


class ScaledFactor(NamedTuple):
    r"""B divided by :math:`\sqrt{1 - p_y}`, y the predicted class: of the order of J however sure the model is.

    Attributes:
        jacobian: Of the logits.
        predicted: One-hot y ``(batch, K)``.
        rest: ``p_j / (1 - p_y)``, 0 at y; ``(batch, K)``.
        sure: ``p_y`` ``(batch, 1)``.
        unsure: ``1 - p_y`` without cancellation ``(batch, 1)``; G_x is ``unsure`` times what is computed here.
    """

    jacobian: Linearization
    predicted: tf.Tensor
    rest: tf.Tensor
    sure: tf.Tensor
    unsure: tf.Tensor

    def product(self, vectors: tf.Tensor) -> tf.Tensor:
        """``B v``, scaled: ``(batch, K)``."""
        slopes = self.jacobian.push(vectors)
        slopes -= tf.reduce_sum(self.predicted * slopes, axis=-1, keepdims=True)
        mean = tf.reduce_sum(self.rest * slopes, axis=-1, keepdims=True)
        return tf.sqrt(self.rest) * (slopes - self.unsure * mean) - self.predicted * (
            tf.sqrt(self.sure * self.unsure) * mean
        )

    def transpose_product(self, vectors: tf.Tensor) -> tf.Tensor:
        """``Bᵀ u`` up to a positive factor that keeps it in range, in the shape of the images."""
        weighted = tf.sqrt(self.rest) * vectors
        own = tf.reduce_sum(self.predicted * vectors, axis=-1, keepdims=True)
        total = self.unsure * tf.reduce_sum(weighted, axis=-1, keepdims=True) + tf.sqrt(self.sure * self.unsure) * own
        upstream = weighted - self.rest * total
        upstream -= self.predicted * tf.reduce_sum(upstream, axis=-1, keepdims=True)
        return self.jacobian.pull(scaled_to_one(upstream))


def scaled_factor(jacobian: Linearization) -> ScaledFactor:
    """The factor from the Jacobian of the logits."""
    log_p = tf.nn.log_softmax(jacobian.logits)
    mask = tf.one_hot(tf.argmax(log_p, axis=-1), log_p.shape[-1], on_value=True, off_value=False)
    log_others = tf.where(mask, tf.cast(-np.inf, log_p.dtype), log_p)
    log_unsure = tf.reduce_logsumexp(log_others, axis=-1, keepdims=True)
    sure = tf.exp(tf.reduce_max(log_p, axis=-1, keepdims=True))
    predicted = tf.cast(mask, log_p.dtype)
    return ScaledFactor(jacobian, predicted, tf.exp(log_others - log_unsure), sure, tf.exp(log_unsure))


def scaled_to_one(vectors: tf.Tensor) -> tf.Tensor:
    """Vectors whose largest entry is 1 in size, so that no square of it underflows; zero stays zero."""
    return tf.math.divide_no_nan(vectors, tf.reduce_max(tf.abs(vectors), axis=-1, keepdims=True))
