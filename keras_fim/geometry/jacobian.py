r"""The factor B of the Fisher information matrix in the input, :math:`G_x = B^\top B`, and products with the Jacobian.

Row k of ``B`` (K x D) is :math:`\sqrt{p_k}\,\nabla_x \log p_k`, where D is the number of pixels. With the Jacobian J of
the logits, :math:`B = \operatorname{diag}(\sqrt p)(J - 1 p^\top J)`: no division, so it is stable for any ``p``.

A logits function maps images ``(batch, ...)`` to logits ``(batch, K)``, sample by sample. Vectors in the input have
the shape of the images, vectors in the output that of the logits.

This is also the one place that takes gradients in the images: a missing one is an error, and never zero.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_fim.typing import LogitsCallable

_UNROLLED_CLASSES = 64  # up to here one gradient per class, unrolled, beats `batch_jacobian` (1.5 times slower)


class NoGradientError(ValueError):
    """The logits do not depend on the images through operations that have a gradient."""

    __init__ = Exception.__init__  # so that AutoGraph passes it on as what it is


@contextlib.contextmanager
def watched(images: tf.Tensor, *, persistent: bool = False) -> Iterator[tf.GradientTape]:
    """A tape that records what is computed from images, and watches nothing else: no weights of a model.

    Args:
        images: What to differentiate by.
        persistent: Whether several gradients are taken.
    """
    with tf.GradientTape(persistent=persistent, watch_accessed_variables=False) as tape:
        tape.watch(images)
        yield tape


def gradient(tape: tf.GradientTape, values: tf.Tensor, images: tf.Tensor, upstream: Any = None) -> tf.Tensor:
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


def usable_gradient(tape: tf.GradientTape, values: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
    """`gradient` for a step of an attack, with finite entries only.

    A square root or a norm has an infinite slope at 0, or NaN, and one such pixel would make the whole image NaN. NaN
    counts as zero, and an infinite slope as the largest finite one of its image.

    Args:
        tape: As of `gradient`.
        values: As of `gradient`.
        images: As of `gradient`.

    Returns:
        In the shape of ``images``.

    Raises:
        NoGradientError: As `gradient`.
    """
    slope = gradient(tape, values, images)

    def mended() -> tf.Tensor:
        finite = tf.where(tf.math.is_finite(slope), slope, tf.zeros_like(slope))
        largest = tf.reduce_max(tf.abs(finite), axis=tuple(range(1, slope.shape.rank)), keepdims=True)
        return tf.where(tf.math.is_inf(slope), tf.sign(slope) * tf.where(largest > 0, largest, 1), finite)

    return tf.cond(tf.reduce_all(tf.math.is_finite(slope)), lambda: slope, mended)


def factor(logits_fn: LogitsCallable, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The whole factor B, at the price of one forward pass and K gradients.

    Args:
        logits_fn: a logits function.
        images: ``(batch, ...)``, floating.

    Returns:
        ``(B, logits)``: ``(batch, K, D)`` and ``(batch, K)``.

    Example:
        >>> weights = tf.constant([[1.0, -1.0]])  # one pixel, two classes
        >>> factor(lambda x: x @ weights, tf.zeros((1, 1)))[0].numpy().round(3)
        array([[[ 0.707],
                [-0.707]]], dtype=float32)
    """
    slopes, logits = class_slopes(logits_fn, images)
    return factor_of(slopes, logits), logits


def class_slopes(logits_fn: LogitsCallable, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    r"""The gradient of each logit relative to that of the predicted class, :math:`\nabla_x (z_k - z_y)`.

    The differences are what B is made of: with p close to one-hot, J - 1 pᵀJ would cancel.

    Args:
        logits_fn: A logits function.
        images: ``(batch, ...)``, floating.

    Returns:
        ``(slopes, logits)``: ``(batch, K, D)`` and ``(batch, K)``, at the price of one forward pass and K gradients.
    """
    images = tf.convert_to_tensor(images)
    with watched(images, persistent=True) as tape:
        logits = logits_fn(images)
        num_classes = logits.shape[-1]
        columns = tf.unstack(logits, axis=-1) if num_classes <= _UNROLLED_CLASSES else None
    if columns is None:
        gradient(tape, logits, images)  # is there one? `batch_jacobian` would return zeros
        jacobian = tape.batch_jacobian(logits, images, experimental_use_pfor=False)
    else:
        jacobian = tf.stack([gradient(tape, column, images) for column in columns], axis=1)
    jacobian = tf.reshape(jacobian, (tf.shape(images)[0], num_classes, tf.math.reduce_prod(tf.shape(images)[1:])))
    return jacobian - tf.gather(jacobian, tf.argmax(logits, axis=-1), batch_dims=1)[:, None], logits


def factor_of(slopes: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """The factor B from `class_slopes`: ``(batch, K, D)``."""
    p = tf.nn.softmax(logits)[..., None]
    return tf.sqrt(p) * (slopes - tf.reduce_sum(p * slopes, axis=1, keepdims=True))


class Linearization(NamedTuple):
    """A logits function at some images, with the products of its Jacobian J that share one forward pass.

    Attributes:
        logits: ``(batch, K)``.
        push: ``J v`` ``(batch, K)`` from vectors in the shape and dtype of the images.
        pull: ``Jᵀ w`` in the shape of the images, from vectors in the shape and dtype of the logits.
    """

    logits: tf.Tensor
    push: Callable[[tf.Tensor], tf.Tensor]
    pull: Callable[[tf.Tensor], tf.Tensor]


def linearize(logits_fn: LogitsCallable, images: tf.Tensor) -> Linearization:
    """One forward pass, and the products with J and with its transpose as often as wanted.

    ``J v`` is the derivative of the linear ``w -> Jᵀ w``: exact, at the price of a pass through the layers, and not
    a second forward pass as with `tf.autodiff.ForwardAccumulator`. (A finite difference of the logits costs as much
    and is wrong by per cents: at a step that rounding allows it crosses the kinks of ReLU and max-pooling.)

    Args:
        logits_fn: a logits function.
        images: ``(batch, ...)``, floating.

    Returns:
        `Linearization`. Compiled, it executes only what the products used need.
    """
    images = tf.convert_to_tensor(images)
    with watched(images, persistent=True) as tape:
        logits = logits_fn(images)
    return linearized(tape, images, logits)


def linearized(tape: tf.GradientTape, images: tf.Tensor, logits: tf.Tensor) -> Linearization:
    """`linearize` of a forward pass that has been made already.

    Args:
        tape: persistent; it recorded the way from ``images`` to ``logits``.
        images: ``(batch, ...)``, floating.
        logits: ``(batch, K)``.

    Returns:
        `Linearization`.
    """

    @functools.cache  # made for the first product, and only if there is one
    def transposed() -> tuple[tf.GradientTape, tf.Tensor, tf.Tensor]:
        seed = tf.zeros_like(logits)
        with watched(seed, persistent=True) as outer:
            pulled = gradient(tape, logits, images, seed)
        return outer, seed, pulled

    def push(vectors: tf.Tensor) -> tf.Tensor:
        outer, seed, pulled = transposed()
        zero = tf.UnconnectedGradients.ZERO  # of `pulled`, which exists: a gradient that is constantly zero
        return outer.gradient(pulled, seed, output_gradients=vectors, unconnected_gradients=zero)

    return Linearization(logits, push, functools.partial(gradient, tape, logits, images))


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
        own = self.predicted * (tf.sqrt(self.sure * self.unsure) * mean)
        return tf.sqrt(self.rest) * (slopes - self.unsure * mean) - own

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
    return ScaledFactor(jacobian, tf.cast(mask, log_p.dtype), tf.exp(log_others - log_unsure), sure, tf.exp(log_unsure))


def scaled_to_one(vectors: tf.Tensor) -> tf.Tensor:
    """Vectors whose largest entry is 1 in size, so that no square of it underflows; zero stays zero."""
    return tf.math.divide_no_nan(vectors, tf.reduce_max(tf.abs(vectors), axis=-1, keepdims=True))
