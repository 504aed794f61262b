"""Layers that add a Fisher penalty to whatever loss a model is trained with."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from keras_fim.geometry.penalty import penalized_cross_entropy
from keras_fim.losses import mu_value, mu_variable

__all__ = ["FisherTraceRegularization"]


@keras.saving.register_keras_serializable("keras_fim")
class FisherTraceRegularization(keras.layers.Layer):
    r"""Passes logits on and adds :math:`\mu \sum_i 1/p_i`, averaged over the batch, to the training loss.

    For models whose loss one does not own: put it behind the layer that returns the logits, before the softmax. It is
    the term of `keras_fim.FisherTraceLoss`, with the same continuation beyond ``1/p = 1e6``.

    Args:
        mu: weight μ >= 0, a number or a ``keras.Variable``; a non-trainable weight of the layer.
        gradient_limit: largest l2 norm of each sample's gradient of the term in its logits; ``None`` for no limit.
        **kwargs: of `keras.layers.Layer`.

    Raises:
        ValueError: if ``mu`` is negative or not finite, or the inputs have fewer than 2 classes.

    Example:
        >>> logits = keras.layers.Dense(10)
        >>> model = keras.Sequential([keras.Input((4,)), logits, FisherTraceRegularization(0.02)])
        >>> _ = model(tf.zeros((1, 4)))
        >>> [float(loss) for loss in model.losses]
        [2.0]
    """

    def __init__(self, mu: float | keras.Variable = 0.02, *, gradient_limit: float | None = 1.0, **kwargs: Any) -> None:
        super().__init__(**{"autocast": False, **kwargs})  # logits stay float32 under a mixed policy
        if gradient_limit is not None and not 0 < gradient_limit < math.inf:
            raise ValueError(
                f"`gradient_limit` should be a positive number or None. Received: gradient_limit={gradient_limit}"
            )
        self.mu = mu_variable(mu)
        self.gradient_limit = gradient_limit
        self.supports_masking = True

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Check the number of classes."""
        if len(input_shape) < 2 or input_shape[-1] is None or input_shape[-1] < 2:
            raise ValueError(f"inputs should be logits (batch, ..., classes >= 2). Received: shape={input_shape}")

    def call(self, inputs: tf.Tensor, mask: tf.Tensor | None = None) -> tf.Tensor:
        """Add the loss, of positions that are not masked; return ``inputs``, logits ``(batch, ..., K)``, unchanged."""
        logits = tf.cast(inputs, tf.float64 if inputs.dtype == tf.float64 else tf.float32)
        trace = penalized_cross_entropy(
            tf.zeros_like(logits), logits, tf.cast(self.mu, logits.dtype), gradient_limit=self.gradient_limit
        )
        weights = tf.ones_like(trace) if mask is None else tf.cast(mask, trace.dtype)
        self.add_loss(tf.math.divide_no_nan(tf.reduce_sum(trace * weights), tf.reduce_sum(weights)))
        return inputs

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The shape of the inputs."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments; ``mu`` as the number that it is now."""
        return {**super().get_config(), "mu": mu_value(self.mu), "gradient_limit": self.gradient_limit}
