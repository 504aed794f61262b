"""How large the Fisher information is on a model's images."""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from keras_fim.evaluation.report import Report, Row
from keras_fim.geometry import (
    factor,
    logit_fim_largest_eigenvalue,
    simplex_fim_largest_eigenvalue,
)
from keras_fim.geometry.eigen import spectrum_of_factor
from keras_fim.logits import LogitsFunction, logits_function
from keras_fim.typing import Images, Model
from keras_fim.validation import check_images

__all__ = ["SpectrumSummary", "least_divergence_to_a_tie", "spectrum_summary"]

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclasses.dataclass(frozen=True)
class SpectrumSummary(Report):
    r"""Quantiles of the Fisher information over images; prints as a table.

    Attributes:
        quantiles: which quantiles, in [0, 1]; each is the value of one of the images.
        values: for each quantity its quantiles: ``"λ_max(G_x)"`` and ``"tr G_x"`` in the input, ``"λ_max(G_s)"`` in the
            softmax output, ``"λ_max(G_z)"`` in the logits, and ``"predicted KL radius"``, the l2 distance at which
            :math:`\tfrac12 \lambda_{\max}(G_x) r^2` reaches the smallest divergence that ties the two most probable
            classes (inf where the information is 0): where the quadratic form expects the nearest adversarial.
        num_samples: number of images.
    """

    quantiles: tuple[float, ...]
    values: dict[str, tuple[float, ...]]
    num_samples: int

    def tables(self) -> dict[str, list[Row]]:
        """A row for each quantity."""
        names = [f"{100 * quantile:g} %" for quantile in self.quantiles]
        return {"": [{"quantity": key, **dict(zip(names, row, strict=True))} for key, row in self.values.items()]}

    def quantile(self, quantity: str, quantile: float) -> float:
        """One of the `values`."""
        return self.values[quantity][self.quantiles.index(quantile)]


def spectrum_summary(
    model: Model, images: Images, *, quantiles: tuple[float, ...] = _QUANTILES, batch_size: int = 128
) -> SpectrumSummary:
    """Quantiles of the Fisher information over images, from the exact spectrum: K gradients for each image.

    Args:
        model: any classifier that `keras_fim.logits.logits_function` takes.
        images: ``(batch, ...)`` in the range that the model takes.
        quantiles: which ones, in [0, 1].
        batch_size: images worked on at a time; the memory is that of ``batch_size * K`` images.

    Returns:
        `SpectrumSummary`.

    Raises:
        ValueError: if images are empty or not finite, or a quantile is not in [0, 1].

    Example:
        >>> model = logits_function(lambda x: tf.concat([x, -x], axis=-1), from_logits=True)  # G_x = 4 p_1 p_2
        >>> print(spectrum_summary(model, [[0.0]], quantiles=(0.5,)))
        quantity             50 %
        λ_max(G_x)              1
        tr G_x                  1
        λ_max(G_s)              2
        λ_max(G_z)            0.5
        predicted KL radius     0
    """
    if not len(quantiles) or not all(0 <= quantile <= 1 for quantile in quantiles):
        raise ValueError(f"`quantiles` should be numbers in [0, 1], at least one. Received: quantiles={quantiles}")
    if batch_size < 1:
        raise ValueError(f"`batch_size` should be a positive integer. Received: batch_size={batch_size}")
    images = check_images(images)
    logits_fn = logits_function(model, images)
    images, information = logits_fn.cast(images), logits_fn.compiled(_information)
    parts = [information(images[i : i + batch_size]) for i in range(0, len(images), batch_size)]
    columns = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    ordered = ("λ_max(G_x)", "tr G_x", "λ_max(G_s)", "λ_max(G_z)", "predicted KL radius")
    values = {
        key: tuple(float(v) for v in np.quantile(columns[key], quantiles, method="inverted_cdf")) for key in ordered
    }
    return SpectrumSummary(tuple(float(quantile) for quantile in quantiles), values, len(images))


def least_divergence_to_a_tie(logits: tf.Tensor) -> tf.Tensor:
    r"""The smallest :math:`D_{KL}(p \| p')` over all p' in which the two most probable classes of p are equally so.

    It is taken where these two share their probability and the others keep theirs:
    :math:`p_a \log \frac{2 p_a}{p_a + p_b} + p_b \log \frac{2 p_b}{p_a + p_b}`, at most :math:`\log 2`.

    Args:
        logits: ``(batch, K)``.

    Returns:
        ``(batch,)``, in nats.

    Example:
        >>> least_divergence_to_a_tie(tf.constant([[2.0, 2.0, 0.0], [60.0, 0.0, 0.0]])).numpy().round(4)
        array([0.    , 0.6931], dtype=float32)
    """
    log_p = tf.nn.log_softmax(logits)
    top = tf.math.top_k(log_p, 2).values
    shared = tf.reduce_logsumexp(top, axis=-1, keepdims=True) - tf.math.log(tf.constant(2.0, log_p.dtype))
    return tf.maximum(tf.reduce_sum(tf.exp(top) * (top - shared), axis=-1), 0)


def _information(logits_fn: LogitsFunction, images: tf.Tensor) -> dict[str, tf.Tensor]:
    matrix, logits = factor(logits_fn, images)
    matrix, logits = tf.cast(matrix, tf.float64), tf.cast(logits, tf.float64)  # float32 overflows at a logit gap of 88
    largest = spectrum_of_factor(matrix, 1)[0][:, 0]
    return {
        "λ_max(G_x)": largest,
        "tr G_x": tf.reduce_sum(matrix**2, axis=(1, 2)),
        "λ_max(G_s)": simplex_fim_largest_eigenvalue(logits),
        "λ_max(G_z)": logit_fim_largest_eigenvalue(logits),
        "predicted KL radius": tf.sqrt(
            tf.where(largest > 0, 2 * least_divergence_to_a_tie(logits) / tf.where(largest > 0, largest, 1), np.inf)
        ),
    }
