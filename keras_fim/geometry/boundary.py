"""How far the decision boundary is, to first order, from the gradients of a few differences of logits."""

import numpy as np
import tensorflow as tf

from keras_fim.arguments import expect
from keras_fim.geometry.jacobian import Linearization

DUAL = {1.0: np.inf, 2.0: 2.0, np.inf: 1.0}
"""The dual of each norm."""

RIVALS = 3
"""The number of the most probable wrong classes that a boundary is looked for at, unless told otherwise."""


def boundary_distance(jacobian: Linearization, norm: float = 2.0, rivals: int = RIVALS) -> tuple[tf.Tensor, tf.Tensor]:
    r"""The first-order distance to the boundary between the predicted class y and its most probable rivals.

    .. math:: \min_j \frac{z_y - z_j}{\|\nabla_x (z_y - z_j)\|_q}, \qquad 1/p + 1/q = 1

    Exact for a linear model without bounds on the pixels. It takes one gradient for each rival. A rival whose gradient
    is zero or not finite is left out.

    Args:
        jacobian: Of the logits at the images.
        norm: The p of the distance: 1, 2 or inf.
        rivals: The number of rivals j, at most; there are K - 1.

    Returns:
        The distance ``(batch,)`` in the dtype of the logits, NaN where no rival is left, and the class of the nearest
        rival, int32 ``(batch,)``.

    Raises:
        ValueError: If the norm is another, or ``rivals < 1``.

    Example:
        >>> from keras_fim.geometry import linearize
        >>> weights = tf.constant([[3.0, 0.0], [4.0, 0.0]])  # z_0 = 3 a + 4 b, z_1 = 0
        >>> distance, rival = boundary_distance(linearize(lambda x: x @ weights, tf.constant([[1.0, 0.5]])))
        >>> distance.numpy(), rival.numpy()
        (array([1.], dtype=float32), array([1], dtype=int32))

    Source:
        Moosavi-Dezfooli, Fawzi, Frossard, DeepFool: a simple and accurate method to fool deep neural networks
        (CVPR 2016), whose first step has this length.
    """
    expect(norm in DUAL, "norm", "one of 1, 2, np.inf", norm)
    expect(rivals >= 1, "rivals", "a positive integer", rivals)
    return nearest_boundary(jacobian.logits, rival_gradients(jacobian, rivals), norm)


def rival_gradients(jacobian: Linearization, rivals: int = RIVALS) -> tf.Tensor:
    r"""The gradients :math:`\nabla_x (z_y - z_j)` of the predicted class y against its most probable rivals.

    Args:
        jacobian: Of the logits at the images.
        rivals: The number of rivals j, at most; there are K - 1.

    Returns:
        ``(batch, rivals, D)``, the most probable rival first.
    """
    classes = jacobian.logits.shape[-1]
    order = tf.math.top_k(jacobian.logits, min(rivals, classes - 1) + 1).indices
    signs = tf.one_hot(order, classes, dtype=jacobian.logits.dtype)
    pulled = [jacobian.pull(signs[:, 0] - signs[:, j]) for j in range(1, signs.shape[1])]
    return tf.stack([tf.reshape(gradient, [tf.shape(order)[0], -1]) for gradient in pulled], axis=1)


def nearest_boundary(logits: tf.Tensor, gradients: tf.Tensor, norm: float = 2.0) -> tuple[tf.Tensor, tf.Tensor]:
    """`boundary_distance` where the gradients are at hand.

    Args:
        logits: ``(batch, K)``.
        gradients: ``(batch, rivals, D)`` of `rival_gradients`.
        norm: The p of the distance: 1, 2 or inf.

    Returns:
        The distance and the class of the nearest rival, as `boundary_distance`.
    """
    largest, order = tf.math.top_k(logits, gradients.shape[1] + 1)
    scale = tf.reduce_max(tf.abs(gradients), axis=-1, keepdims=True)  # so that squares do not underflow
    lengths = scale[..., 0] * tf.norm(tf.math.divide_no_nan(gradients, scale), ord=DUAL[norm], axis=-1)
    distances = tf.cast(largest[:, :1] - largest[:, 1:], lengths.dtype) / lengths
    infinite = tf.cast(np.inf, distances.dtype)
    distances = tf.where((lengths > 0) & tf.math.is_finite(distances), distances, infinite)
    nearest = tf.argmin(distances, axis=-1)
    smallest = tf.gather(distances, nearest, batch_dims=1)
    distance = tf.where(smallest < infinite, smallest, tf.cast(np.nan, distances.dtype))
    return tf.cast(distance, logits.dtype), tf.gather(order[:, 1:], nearest, batch_dims=1)
