"""Layers: a Fisher penalty for whatever loss a model is trained with, and the thermometer encoding of pixels."""

from typing import Any

import keras
import tensorflow as tf

from keras_fim.arguments import AtLeastTwo, PositiveOrNone, checked
from keras_fim.geometry.simplex import penalized_cross_entropy
from keras_fim.losses import Mu, mu_value, mu_variable


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

    @checked
    def __init__(self, mu: Mu = 0.02, *, gradient_limit: PositiveOrNone = 1.0, **kwargs: Any) -> None:
        super().__init__(**{"autocast": False, **kwargs})  # logits stay float32 under a mixed policy
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
        zero, mu = tf.zeros_like(logits), tf.cast(self.mu, logits.dtype)
        trace = penalized_cross_entropy(zero, logits, mu, gradient_limit=self.gradient_limit)
        weights = tf.ones_like(trace) if mask is None else tf.cast(mask, trace.dtype)
        self.add_loss(tf.math.divide_no_nan(tf.reduce_sum(trace * weights), tf.reduce_sum(weights)))
        return inputs

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The shape of the inputs."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments; ``mu`` as the number that it is now."""
        return {**super().get_config(), "mu": mu_value(self.mu), "gradient_limit": self.gradient_limit}


@keras.saving.register_keras_serializable("keras_fim")
class ThermometerEncoding(keras.layers.Layer):
    r"""Writes each value x of [0, 1] as k entries, of which entry l is 1 where :math:`x \le l / k` and 0 elsewhere.

    It was proposed as a defense, because attacks by gradients find nothing where there is no gradient; this package
    refuses to run them there. Through a smooth twin of the layer (`smooth`) they fool the model all the same::

        twin = keras.models.clone_model(
            model, clone_function=lambda layer: layer.smooth() if isinstance(layer, ThermometerEncoding) else layer
        )
        robust = keras_fim.logits.logits_function(model, backward=twin)  # for attacks, evaluate, spectra

    Args:
        levels: The number k of levels, an integer >= 2.
        temperature: ``None`` for the steps; a number T > 0 for :math:`\sigma((l / k - x) / T)` in their place, which
            has a gradient.
        **kwargs: Of `keras.layers.Layer`.

    Call:
        ``inputs`` floating ``(..., channels)`` to ``(..., channels * levels)`` of the layer's compute dtype.

    Raises:
        ValueError: If ``levels`` or ``temperature`` is out of range, or the number of channels is not known.

    Example:
        >>> ThermometerEncoding(4)(tf.constant([[0.1, 0.6]])).numpy()
        array([[1., 1., 1., 1., 0., 0., 1., 1.]], dtype=float32)

    Source:
        Buckman, Roy, Raffel, Goodfellow, Thermometer encoding: one hot way to resist adversarial examples (ICLR 2018);
        Athalye, Carlini, Wagner, Obfuscated gradients give a false sense of security (ICML 2018).
    """

    @checked
    def __init__(self, levels: AtLeastTwo = 16, *, temperature: PositiveOrNone = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.levels, self.temperature = int(levels), temperature

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Encode values ``(..., channels)``."""
        inputs = tf.convert_to_tensor(inputs)
        margins = tf.range(1, self.levels + 1, dtype=inputs.dtype) / self.levels - inputs[..., None]
        smooth = self.temperature is not None
        entries = tf.sigmoid(margins / self.temperature) if smooth else tf.cast(margins >= 0, inputs.dtype)
        return tf.reshape(entries, tf.concat([tf.shape(inputs)[:-1], [inputs.shape[-1] * self.levels]], axis=0))

    def smooth(self, temperature: float = 0.1) -> "ThermometerEncoding":
        """The layer of the same name with a gradient, for a twin of the model."""
        return ThermometerEncoding(**{**self.get_config(), "temperature": temperature})

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """``levels`` entries for every channel."""
        if not input_shape or input_shape[-1] is None:
            raise ValueError(f"inputs should have a known number of channels. Received: shape={input_shape}")
        return (*input_shape[:-1], input_shape[-1] * self.levels)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "levels": self.levels, "temperature": self.temperature}
