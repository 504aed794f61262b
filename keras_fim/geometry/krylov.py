r"""Eigenpairs of :math:`G_x = B^\top B` from a few products with B and its transpose: the cost does not grow with K.

A block Krylov method. It starts from the rows of B of the k most probable classes; the first, the gradient of the
cross-entropy at the predicted class, is nearly the top eigenvector. A step takes the newest vectors q to
:math:`B^\top B q`, makes them orthonormal to all before, and solves the eigenproblem of :math:`G_x` in the span of all
(Rayleigh-Ritz in the right vectors). One step is enough for most images; only the others are worked on further.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_fim.geometry.eigen import largest_first
from keras_fim.geometry.jacobian import Linearization, linearize
from keras_fim.geometry.scaled import ScaledFactor, scaled_factor, scaled_to_one
from keras_fim.typing import LogitsCallable, Spectrum

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


def krylov_spectrum(
    logits_fn: LogitsCallable, images: tf.Tensor, k: int = 1, *, rtol: float = RTOL, max_steps: int = MAX_STEPS
) -> Spectrum:
    r"""The k largest eigenpairs of ``G_x``, from a few products with B and its transpose; B itself is never formed.

    A pair :math:`(\lambda, v)` has converged when the estimated residual, relative to the gap to the next eigenvalues,
    is small: :math:`\|G_x v - \lambda v\| \le \mathrm{rtol}\,(\lambda - \lambda')`, which bounds the sine of the angle
    between v and the eigenvector. The residual is estimated from what is at hand: it is the newest vectors' share in v
    times their block of the small matrix (exact would be their coupling to vectors not yet computed, which costs one
    more gradient). k pairs take k products with B and with its transpose in each step.

    Args:
        logits_fn: a function from images ``(batch, ...)`` to logits ``(batch, K)``, sample by sample.
        images: ``(batch, ...)``, floating.
        k: number of eigenpairs, from 1 to K.
        rtol: tolerance on the estimated sine, > 0. The eigenvalue's relative error is about its square.
        max_steps: largest number of steps, >= 1.

    Returns:
        `Spectrum` with ``directions`` of shape ``(batch, k, *image shape)``. What has not converged is marked so, and
        is the best of the space so far: the eigenvalue is one from below.

    Raises:
        ValueError: if ``k`` is not in 1..K, ``rtol <= 0`` or ``max_steps < 1``.

    Example:
        >>> weights = tf.constant([[1.0, -1.0]])  # one pixel, two classes: G_x = 4 p_1 p_2
        >>> krylov_spectrum(lambda x: x @ weights, tf.zeros((1, 1))).eigenvalues.numpy().round(3)
        array([[1.]], dtype=float32)
    """
    return krylov_spectrum_and_logits(logits_fn, images, k, rtol=rtol, max_steps=max_steps)[0]


def krylov_spectrum_and_logits(
    logits_fn: LogitsCallable, images: tf.Tensor, k: int = 1, *, rtol: float = RTOL, max_steps: int = MAX_STEPS
) -> tuple[Spectrum, tf.Tensor]:
    """`krylov_spectrum`, and the logits ``(batch, K)``, which it has anyway."""
    check_tolerance(rtol, max_steps)
    images = tf.convert_to_tensor(images)
    jacobian = linearize(logits_fn, images)
    if not 1 <= k <= jacobian.logits.shape[-1]:
        raise ValueError(f"`k` should be from 1 to the number of classes, {jacobian.logits.shape[-1]}. Received: k={k}")
    start = _start(scaled_factor(jacobian), images, k)
    return _spectrum(logits_fn, jacobian, images, start, k, rtol, max_steps), jacobian.logits


def krylov_spectrum_from(
    logits_fn: LogitsCallable,
    jacobian: Linearization,
    images: tf.Tensor,
    start: tf.Tensor,
    *,
    rtol: float = RTOL,
    max_steps: int = MAX_STEPS,
) -> Spectrum:
    """The largest eigenpair as `krylov_spectrum` has it, from a forward pass and a first vector that are at hand.

    Args:
        logits_fn: A function from images ``(batch, ...)`` to logits ``(batch, K)``, sample by sample.
        jacobian: Of the logits at the images.
        images: ``(batch, ...)``, floating.
        start: ``(batch, D)``, the first vector of the space, of any length; the closer to the eigenvector the better.
        rtol: The tolerance on the estimated sine, > 0.
        max_steps: The largest number of steps, >= 1.

    Returns:
        `Spectrum`, as `krylov_spectrum`.

    Raises:
        ValueError: If ``rtol <= 0`` or ``max_steps < 1``.
    """
    check_tolerance(rtol, max_steps)
    scaled = scaled_factor(jacobian)
    space = _with_vector(scaled, _empty(scaled, images), images, start)
    return _spectrum(logits_fn, jacobian, images, space, 1, rtol, max_steps)


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
    direction = _ritz(scaled, space, 1, RTOL)[0][1][:, 0]
    gain = tf.reduce_sum(direction * space.basis[:, 0], axis=-1, keepdims=True)  # the start, towards that class
    return tf.reshape(tf.where(gain > 0, -direction, direction), tf.shape(images))


def check_tolerance(rtol: float, max_steps: int) -> None:
    """Check the options of `krylov_spectrum`.

    Raises:
        ValueError: if ``rtol <= 0`` or ``max_steps < 1``.
    """
    if not rtol > 0:
        raise ValueError(f"`rtol` should be positive. Received: rtol={rtol}")
    if max_steps < 1:
        raise ValueError(f"`max_steps` should be a positive integer. Received: max_steps={max_steps}")


def _spectrum(
    logits_fn: LogitsCallable,
    jacobian: Linearization,
    images: tf.Tensor,
    start: _Space,
    k: int,
    rtol: float,
    max_steps: int,
) -> Spectrum:
    """At least one step from a space, and up to ``max_steps`` for images that need them."""
    scaled = scaled_factor(jacobian)
    space = _advanced(scaled, start, images, k)
    pairs, converged = _ritz(scaled, space, k, rtol)
    count = tf.shape(images)[0]
    spectrum = Spectrum(*pairs, converged, tf.ones((count,), tf.int32))
    if max_steps > 1:
        spectrum = _refined(logits_fn, images, spectrum, space, k, rtol, max_steps)
    directions = tf.reshape(spectrum.directions, tf.concat([[count, k], tf.shape(images)[1:]], axis=0))
    directions.set_shape([images.shape[0], k, *images.shape[1:]])
    return spectrum._replace(directions=directions)


def _refined(
    logits_fn: LogitsCallable, images: tf.Tensor, spectrum: Spectrum, space: _Space, k: int, rtol: float, max_steps: int
) -> Spectrum:
    """Further steps for the images that have not converged, gathered into a smaller batch before each."""

    def body(spectrum: Spectrum, space: _Space) -> tuple[Spectrum, _Space]:
        active = tf.gather(images, space.images)
        scaled = scaled_factor(linearize(logits_fn, active))
        space = _advanced(scaled, space, active, k)
        pairs, converged = _ritz(scaled, space, k, rtol)
        steps = tf.gather(spectrum.num_steps, space.images) + 1
        where = space.images[:, None]
        updates = (*pairs, converged, steps)
        updated = [tf.tensor_scatter_nd_update(old, where, new) for old, new in zip(spectrum, updates, strict=True)]
        return Spectrum(*updated), _only(space, ~converged)

    size, classes = space.basis.shape[-1], space.products.shape[-1]
    shapes = _Space(tf.TensorShape([None]), tf.TensorShape([None, None, size]), tf.TensorShape([None, None, classes]))
    refined, _ = tf.while_loop(
        lambda spectrum, space: tf.size(space.images) > 0,
        body,
        (spectrum, _only(space, ~spectrum.converged)),
        shape_invariants=(Spectrum(*(value.shape for value in spectrum)), shapes),
        maximum_iterations=max_steps - 1,
    )
    return Spectrum(*refined)


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


def _ritz(scaled: ScaledFactor, space: _Space, k: int, rtol: float) -> tuple[tuple[tf.Tensor, tf.Tensor], tf.Tensor]:
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
    eigenvalues = tf.where(
        values[:, :k] <= noise, tf.cast(0, values.dtype), scaled.unsure * scale[:, 0] ** 2 * values[:, :k]
    )
    directions = _unit(tf.matmul(vectors[:, :, :k], space.basis, transpose_a=True))
    return (eigenvalues, tf.where(eigenvalues[..., None] <= 0, tf.zeros_like(directions), directions)), converged


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
