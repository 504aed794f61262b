r"""Eigenpairs of :math:`G_x = B^\top B` from a few products with B and its transpose: the cost does not grow with K.

A block Krylov method. It starts from the rows of B of the k most probable classes; the first, the gradient of the
cross-entropy at the predicted class, is nearly the top eigenvector. A step takes the newest vectors q to
:math:`B^\top B q`, makes them orthonormal to all before, and solves the eigenproblem of :math:`G_x` in the span of all
(Rayleigh-Ritz in the right vectors). One step is enough for most images; only the others are worked on further.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_fim.arguments import expect
from keras_fim.geometry.jacobian import Linearization, ScaledFactor, linearize, scaled_factor, scaled_to_one
from keras_fim.typing import LogitsCallable, Spectrum

METHODS = ("auto", "exact", "krylov")
RTOL = 0.1
MAX_STEPS = 10


class _Space(NamedTuple):
    """Krylov spaces of some images.

    Attributes:
        images: their indices ``(active,)``.
        basis: orthonormal vectors q ``(active, m, D)``; zero where the space has no more dimensions.
        products: ``B q``, scaled, ``(active, m, K)``.
    """

    images: tf.Tensor
    basis: tf.Tensor
    products: tf.Tensor


def krylov_spectrum_from(
    logits_fn: LogitsCallable,
    jacobian: Linearization,
    images: tf.Tensor,
    start: tf.Tensor | None = None,
    *,
    k: int = 1,
    rtol: float = RTOL,
    max_steps: int = MAX_STEPS,
) -> Spectrum:
    """The k largest eigenpairs as `krylov_spectrum` has them, from a forward pass that is at hand.

    Args:
        logits_fn: A function from images ``(batch, ...)`` to logits ``(batch, K)``, sample by sample.
        jacobian: Of the logits at the images.
        images: ``(batch, ...)``, floating.
        start: ``(batch, D)``, the first vector of the space, of any length; the closer to the eigenvector the better.
            ``None`` for the rows of B of the k most probable classes.
        k: The number of eigenpairs, from 1 to K; 1 with a ``start``.
        rtol: The tolerance on the estimated sine, > 0.
        max_steps: The largest number of steps, >= 1.

    Returns:
        `Spectrum`, as `krylov_spectrum`.

    Raises:
        ValueError: If ``k`` is not in 1..K, ``rtol <= 0`` or ``max_steps < 1``.
    """
    expect(rtol > 0, "rtol", "a positive number", rtol)
    expect(max_steps >= 1, "max_steps", "a positive integer", max_steps)
    classes = jacobian.logits.shape[-1]
    expect(1 <= k <= classes, "k", f"from 1 to the number of classes, {classes}", k)
    scaled = scaled_factor(jacobian)
    space = _start(scaled, images, k) if start is None else _with_vector(scaled, _empty(scaled, images), images, start)
    space = _advanced(scaled, space, images, k)
    spectrum = Spectrum(*_ritz(scaled, space, k, rtol), tf.ones_like(space.images))

    def body(spectrum: Spectrum, space: _Space) -> tuple[Spectrum, _Space]:
        """A further step for the images that have not converged, gathered into a smaller batch before it."""
        active, where = tf.gather(images, space.images), space.images[:, None]
        scaled = scaled_factor(linearize(logits_fn, active))
        space = _advanced(scaled, space, active, k)
        news = Spectrum(*_ritz(scaled, space, k, rtol), tf.gather(spectrum.num_steps, space.images) + 1)
        updated = [tf.tensor_scatter_nd_update(old, where, new) for old, new in zip(spectrum, news, strict=True)]
        return Spectrum(*updated), _only(space, ~news.converged)

    def going(_: Spectrum, space: _Space) -> tf.Tensor:
        return tf.size(space.images) > 0

    if max_steps > 1:
        start = spectrum, _only(space, ~spectrum.converged)
        spaces = [tf.TensorShape([None, None, part.shape[-1]]) for part in space[1:]]  # of any number of vectors
        shapes = Spectrum(*(part.shape for part in spectrum)), _Space(tf.TensorShape([None]), *spaces)
        spectrum, _ = tf.while_loop(going, body, start, shapes, maximum_iterations=max_steps - 1)
    return spectrum._replace(directions=in_image_shape(spectrum.directions, images))


def krylov_direction(jacobian: Linearization, images: tf.Tensor, steps: int) -> tf.Tensor:
    """The top eigenvector of ``G_x`` after so many steps for all images, on one forward pass.

    Args:
        jacobian: of the logits at ``images``.
        images: ``(batch, ...)``, floating.
        steps: number of steps >= 0; without any it is the gradient of the cross-entropy at the predicted class.

    Returns:
        In the shape of ``images``, of norm 1 (zero where G_x is), with the sign that takes from the predicted class.
    """
    scaled = scaled_factor(jacobian)
    if not steps:
        return -tf.reshape(_unit(_flat(scaled.transpose_product(scaled.predicted))), tf.shape(images))
    space = _start(scaled, images, 1)
    for _ in range(steps):
        space = _advanced(scaled, space, images, 1)
    direction = _ritz(scaled, space, 1, RTOL)[1][:, 0]
    gain = tf.reduce_sum(direction * space.basis[:, 0], axis=-1, keepdims=True)  # the start, towards that class
    return tf.reshape(tf.where(gain > 0, -direction, direction), tf.shape(images))


def largest_first(matrices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Eigenvalues ``(batch, n)`` and vectors ``(batch, n, n)`` of symmetric matrices; NaN where one is not finite.

    `tf.linalg.eigh` would fail for the whole batch.
    """
    finite = tf.reduce_all(tf.math.is_finite(matrices), axis=(1, 2))[:, None]
    values, vectors = tf.linalg.eigh(tf.where(finite[..., None], matrices, tf.zeros_like(matrices)))
    nan = tf.cast(np.nan, values.dtype)
    return tf.reverse(tf.where(finite, values, nan), axis=[-1]), tf.reverse(vectors, axis=[-1])


def in_image_shape(directions: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
    """Directions ``(batch, k, D)`` as ``(batch, k, *image shape)``."""
    k = directions.shape[1]
    directions = tf.reshape(directions, tf.concat([[tf.shape(images)[0], k], tf.shape(images)[1:]], axis=0))
    directions.set_shape([images.shape[0], k, *images.shape[1:]])
    return directions


def _empty(scaled: ScaledFactor, images: tf.Tensor) -> _Space:
    return _Space(tf.range(tf.shape(images)[0]), _flat(images)[:, None][:, :0], scaled.jacobian.logits[:, None][:, :0])


def _start(scaled: ScaledFactor, images: tf.Tensor, k: int) -> _Space:
    """The rows of B of the k most probable classes, as a space."""
    logits = scaled.jacobian.logits
    rows = tf.one_hot(tf.math.top_k(logits, k).indices, logits.shape[-1], dtype=logits.dtype)
    return _extended(scaled, _empty(scaled, images), images, [rows[:, i] for i in range(k)])


def _advanced(scaled: ScaledFactor, space: _Space, images: tf.Tensor, k: int) -> _Space:
    """One Krylov step: the space with ``BᵀB q`` of its last k vectors q."""
    return _extended(scaled, space, images, [space.products[:, i - k] for i in range(k)])


def _extended(scaled: ScaledFactor, space: _Space, images: tf.Tensor, vectors: list[tf.Tensor]) -> _Space:
    """The space with ``Bᵀ u`` of some u ``(active, K)``."""
    for vector in vectors:
        space = _with_vector(scaled, space, images, _flat(scaled.transpose_product(vector)))
    return space


def _with_vector(scaled: ScaledFactor, space: _Space, images: tf.Tensor, vector: tf.Tensor) -> _Space:
    """The space with one more vector ``(active, D)`` and its product with B."""
    new = _orthonormal(vector, space.basis)
    product = scaled.product(tf.reshape(new, tf.shape(images)))
    basis = tf.concat([space.basis, new[:, None]], axis=1)
    return space._replace(basis=basis, products=tf.concat([space.products, product[:, None]], axis=1))


def _orthonormal(vectors: tf.Tensor, basis: tf.Tensor) -> tf.Tensor:
    """Part of each vector ``(active, D)`` outside of the span of its basis, of norm 1; zero if there is none."""
    vectors = _unit(vectors)
    inside = vectors
    for _ in range(2):  # once leaves rounding errors
        inside = inside - tf.linalg.matvec(basis, tf.linalg.matvec(basis, inside), transpose_a=True)
    noise = 10 * float(np.finfo(vectors.dtype.as_numpy_dtype).eps)
    return tf.where(tf.norm(inside, axis=-1, keepdims=True) <= noise, tf.zeros_like(inside), _unit(inside))


def _ritz(scaled: ScaledFactor, space: _Space, k: int, rtol: float) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Eigenvalues ``(active, k)`` and directions ``(active, k, D)`` in the space, and whether they have converged."""
    scale = tf.reduce_max(tf.abs(space.products), axis=(1, 2), keepdims=True)
    products = tf.math.divide_no_nan(space.products, scale)  # of a nearly constant model squares would underflow
    small = tf.matmul(products, products, transpose_b=True)
    values, vectors = largest_first(small)
    newest = tf.matmul(small[:, -k:, -k:], vectors[:, -k:, :k])
    noise = space.products.shape[-1] * float(np.finfo(values.dtype.as_numpy_dtype).eps) * values[:, :1]
    gaps = values[:, :k] - values[:, 1 : k + 1]
    gaps = tf.minimum(gaps, tf.concat([gaps[:, :1], gaps[:, :-1]], axis=-1))
    converged = tf.reduce_all(tf.norm(newest, axis=1) <= rtol * gaps + noise, axis=-1)
    eigenvalues = scaled.unsure * scale[:, 0] ** 2 * values[:, :k]
    eigenvalues = tf.where(values[:, :k] <= noise, tf.cast(0, values.dtype), eigenvalues)
    directions = _unit(tf.matmul(vectors[:, :, :k], space.basis, transpose_a=True))
    return eigenvalues, tf.where(eigenvalues[..., None] <= 0, tf.zeros_like(directions), directions), converged


def _flat(images: tf.Tensor) -> tf.Tensor:
    """Images as vectors ``(batch, D)``."""
    size = images.shape[1:].num_elements()
    if size is None:
        size = tf.math.reduce_prod(tf.shape(images)[1:])
    return tf.reshape(images, (tf.shape(images)[0], size))


def _only(space: _Space, mask: tf.Tensor) -> _Space:
    return _Space(*(tf.boolean_mask(value, mask) for value in space))


def _unit(vectors: tf.Tensor) -> tf.Tensor:
    vectors = scaled_to_one(vectors)
    return tf.math.divide_no_nan(vectors, tf.norm(vectors, axis=-1, keepdims=True))
