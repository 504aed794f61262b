"""How large the Fisher information is on a model's images."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from keras_fim.arguments import checked, expect
from keras_fim.evaluation import measurement, report
from keras_fim.geometry import boundary, krylov, linearize, logit_fim_largest_eigenvalue, simplex_fim_largest_eigenvalue
from keras_fim.geometry.jacobian import Linearization, class_slopes, factor_of
from keras_fim.geometry.spectrum import spectrum_of_factor
from keras_fim.logits import LogitsFunction, logits_function, predict_logits
from keras_fim.typing import Images, Model, Spectrum
from keras_fim.validation import check_images

EXACT_CLASSES = 64
"""Up to so many classes the spectrum is exact, from one gradient for each; beyond, a Krylov step and `PROBES`."""

PROBES = 8
"""Random signs from which the part of the trace beyond the largest eigenvalue is estimated."""

RADIUS = "boundary radius"
QUANTITIES = ("λ_max(G_x)", "tr G_x", "λ_max(G_s)", "λ_max(G_z)", RADIUS, "confidence")
"""What `information` tells about each image."""

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclasses.dataclass(frozen=True)
class SpectrumSummary(report.Report):
    r"""Quantiles of the Fisher information over images; prints as a table.

    Attributes:
        quantiles: The quantiles, in [0, 1]; each is the value of one of the images.
        values: For each quantity its quantiles: ``"λ_max(G_x)"`` and ``"tr G_x"`` in the input, ``"λ_max(G_s)"`` in the
            softmax output, ``"λ_max(G_z)"`` in the logits, and ``"boundary radius"``, the first-order l2 distance to
            the decision boundary (`keras_fim.boundary_radius`). A trace that was not measured is left out.
        num_samples: The number of images.
        num_without_radius: The number of images without a boundary radius, because their gradients are zero or not
            finite; its quantiles are those of the others.
    """

    quantiles: tuple[float, ...]
    values: dict[str, tuple[float, ...]]
    num_samples: int
    num_without_radius: int = 0

    @classmethod
    def of(cls, columns: Mapping[str, np.ndarray], quantiles: Sequence[float] = _QUANTILES) -> "SpectrumSummary":
        """The summary of what `information` returns, without a trace of NaN."""
        radius = columns[RADIUS]
        defined = radius[~np.isnan(radius)]
        columns = {**columns, RADIUS: defined if len(defined) else radius}
        keys = [key for key in QUANTITIES[:-1] if key != "tr G_x" or not np.isnan(columns[key]).all()]
        values = {key: tuple(np.quantile(columns[key], quantiles, method="inverted_cdf").tolist()) for key in keys}
        return cls(tuple(float(quantile) for quantile in quantiles), values, len(radius), len(radius) - len(defined))

    def tables(self) -> dict[str, list[report.Row]]:
        """A row for each quantity."""
        names = [f"{100 * quantile:g} %" for quantile in self.quantiles]
        return {"": [{"quantity": key, **dict(zip(names, row, strict=True))} for key, row in self.values.items()]}

    @property
    def flags(self) -> tuple[str, ...]:
        """A sentence about the images without a radius, if there are some."""
        some = f"no boundary radius: at {self.num_without_radius} of {self.num_samples} images no margin has a gradient"
        return (some,) if self.num_without_radius else ()

    def quantile(self, quantity: str, quantile: float) -> float:
        """One of the `values`."""
        return self.values[quantity][self.quantiles.index(quantile)]


@checked
def spectrum_summary(model: Model, images: Images, *, quantiles: tuple[float, ...] = _QUANTILES) -> SpectrumSummary:
    """Quantiles of the Fisher information over images.

    Args:
        model: Any classifier that `keras_fim.logits.logits_function` takes.
        images: ``(batch, ...)`` in the range that the model takes.
        quantiles: The quantiles, in [0, 1].

    Returns:
        `SpectrumSummary`; exact up to 64 classes, see `information`.

    Raises:
        ValueError: If images are empty or not finite, or a quantile is not in [0, 1].

    Example:
        >>> model = logits_function(lambda x: tf.concat([x, -x], axis=-1), from_logits=True)  # G_x = 4 p_1 p_2
        >>> print(spectrum_summary(model, [[0.0]], quantiles=(0.5,)))
        quantity             50 %
        λ_max(G_x)              1
        tr G_x                  1
        λ_max(G_s)              2
        λ_max(G_z)            0.5
        boundary radius         0
    """
    valid = len(quantiles) > 0 and all(0 <= quantile <= 1 for quantile in quantiles)
    expect(valid, "quantiles", "numbers in [0, 1], at least one", quantiles)
    images = check_images(images)
    return SpectrumSummary.of(information(logits_function(model, images), images), quantiles)


def information(
    logits_fn: LogitsFunction, images: Images, *, max_steps: int = 1, probes: int = PROBES
) -> dict[str, np.ndarray]:
    r"""The Fisher information of each image.

    Up to `EXACT_CLASSES` classes from the whole factor B, one gradient for each class. Beyond, the largest eigenvalue
    comes from the Krylov method, which starts from the gradients of the boundary radius, and the trace is
    :math:`\lambda + \frac1n \sum_i \|B (I - v v^\top) r_i\|^2` with the eigenvector v and n probes, vectors r of random
    signs, the same for all images: unbiased, and exact where v is all there is. A probe costs less than a gradient.
    Batches are as large as 1 GiB allows.

    Args:
        logits_fn: The classifier.
        images: ``(n, ...)``, finite, at least one.
        max_steps: The largest number of Krylov steps; one is enough for most images.
        probes: The number of probes; 0 leaves the trace out, whose column is then NaN.

    Returns:
        Float64 arrays ``(n,)`` by the names in `QUANTITIES`; see `SpectrumSummary.values`.
    """
    shape = tuple(images.shape[1:])
    classes = logits_fn.in_batches(predict_logits, images[:1]).shape[-1]
    size = measurement.fits_memory(shape)
    if classes > EXACT_CLASSES:
        return dict(logits_fn.in_batches(_estimated, images, max_steps, probes, batch_size=size))
    size = min(size, measurement.fits_memory(shape, copies=3 * classes))  # B and its copy in float64
    return dict(logits_fn.in_batches(_exact, images, batch_size=size))


def _exact(logits_fn: LogitsFunction, images: tf.Tensor) -> dict[str, tf.Tensor]:
    slopes, logits = class_slopes(logits_fn, images)
    matrix = tf.cast(factor_of(slopes, logits), tf.float64)
    rivals = tf.math.top_k(logits, min(boundary.RIVALS + 1, logits.shape[-1])).indices[:, 1:]
    radius = boundary.nearest_boundary(logits, tf.gather(slopes, rivals, batch_dims=1))[0]
    return _figures(logits, spectrum_of_factor(matrix, 1)[0][:, 0], tf.reduce_sum(matrix**2, axis=(1, 2)), radius)


def _estimated(max_steps: int, probes: int, logits_fn: LogitsFunction, images: tf.Tensor) -> dict[str, tf.Tensor]:
    jacobian = linearize(logits_fn, images)
    spectrum, radius = spectrum_and_radius(logits_fn, jacobian, images, max_steps)
    logits, largest = jacobian.logits, tf.cast(spectrum.eigenvalues[:, 0], tf.float64)
    axes, top = range(1, images.shape.rank), spectrum.directions[:, 0]
    if not probes:
        return _figures(logits, largest, tf.fill(tf.shape(largest), tf.constant(np.nan, tf.float64)), radius)
    jacobian.push(tf.zeros_like(images))  # not executed: what products share is built here, and not in each turn
    p = tf.nn.softmax(tf.cast(logits, tf.float64))
    predicted = tf.argmax(logits, axis=-1)

    def body(probe: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        draw = tf.random.stateless_uniform(tf.shape(images)[1:], tf.stack([0, probe]), 0, 2, tf.int32)
        signs = tf.cast(2 * draw - 1, images.dtype)
        along = tf.reduce_sum(signs * top, axis=list(axes), keepdims=True)
        slopes = tf.cast(jacobian.push(signs - along * top), tf.float64)
        slopes -= tf.gather(slopes, predicted, batch_dims=1)[:, None]  # p close to one-hot would cancel
        slopes -= tf.reduce_sum(p * slopes, axis=-1, keepdims=True)
        return probe + 1, total + tf.reduce_sum(p * slopes**2, axis=-1)

    start = tf.constant(0), tf.zeros_like(largest)
    _, total = tf.while_loop(lambda probe, _: probe < probes, body, start, parallel_iterations=1)
    return _figures(logits, largest, largest + total / probes, radius)


def spectrum_and_radius(
    logits_fn: LogitsFunction, jacobian: Linearization, images: tf.Tensor, max_steps: int = 1
) -> tuple[Spectrum, tf.Tensor]:
    """The largest eigenpair of G_x and the boundary radius from the same gradients: six of them after one step.

    Args:
        logits_fn: The classifier, of at least ``RIVALS + 1`` classes.
        jacobian: Of the logits at the images.
        images: ``(batch, ...)``, floating.
        max_steps: The largest number of Krylov steps; two products with the Jacobian each.

    Returns:
        `Spectrum`, and the radius ``(batch,)`` of `keras_fim.geometry.boundary_distance`.
    """
    logits, gradients = jacobian.logits, boundary.rival_gradients(jacobian, boundary.RIVALS)
    start = spectrum_of_factor(_factor_of_rivals(logits, gradients), 1)[1][:, 0]
    spectrum = krylov.krylov_spectrum_from(logits_fn, jacobian, images, start, max_steps=max_steps)
    return spectrum, boundary.nearest_boundary(logits, gradients)[0]


def _factor_of_rivals(logits: tf.Tensor, gradients: tf.Tensor) -> tf.Tensor:
    r"""The factor of G_x among the predicted class and its rivals alone, over :math:`\sqrt{1 - p_y}`."""
    top = tf.math.top_k(logits, gradients.shape[1] + 1).values
    root = tf.sqrt(tf.nn.softmax(top[:, 1:]))[..., None]
    sure = tf.sigmoid(top[:, 0] - tf.reduce_logsumexp(top[:, 1:], axis=-1))[:, None, None]
    rows = root * gradients
    return rows - (1 - tf.sqrt(sure)) * root * tf.reduce_sum(root * rows, axis=1, keepdims=True)


def _figures(logits: tf.Tensor, largest: tf.Tensor, trace: tf.Tensor, radius: tf.Tensor) -> dict[str, tf.Tensor]:
    logits = tf.cast(logits, tf.float64)  # float32 overflows at a logit gap of 88
    in_outputs = simplex_fim_largest_eigenvalue(logits), logit_fim_largest_eigenvalue(logits)
    confidence = tf.reduce_max(tf.nn.softmax(logits), axis=-1)
    return dict(zip(QUANTITIES, (largest, trace, *in_outputs, tf.cast(radius, tf.float64), confidence), strict=True))
