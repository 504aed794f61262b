"""The one place that takes gradients in the images: a missing one is an error, and never zero."""

import tensorflow as tf


class NoGradientError(ValueError):
    """The logits do not depend on the images through operations that have a gradient."""

    __init__ = Exception.__init__  # so that AutoGraph passes it on as what it is


def gradient(
    tape: tf.GradientTape, values: tf.Tensor, images: tf.Tensor, upstream: tf.Tensor | None = None
) -> tf.Tensor:
    """The gradient of values in the images.

    Args:
        tape: It recorded the way from ``images`` to ``values``.
        values: What is differentiated, summed over its entries.
        images: ``(batch, ...)``, floating.
        upstream: Weights of the values, in their shape; ``None`` for ones.

    Returns:
        In the shape of ``images``.

    Raises:
        NoGradientError: If no differentiable operations lead from the images to the values.
    """
    slope = tape.gradient(values, images, output_gradients=upstream)
    if slope is None:
        raise NoGradientError("`model` has no gradient from its logits to its images")
    return tf.convert_to_tensor(slope)
