"""The One Step Spectral Attack."""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from keras_fim.attacks.base import FixedBudgetAttack, clip, log_odds_against, unit
from keras_fim.geometry.eigen import spectrum_of_factor
from keras_fim.geometry.jacobian import factor
from keras_fim.logits import LogitsFunction

__all__ = ["OSSA"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OSSA(FixedBudgetAttack):
    r"""One Step Spectral Attack: a step of l2 length ε along the top eigenvector of the Fisher information matrix.

    .. math:: \max_\eta\; \eta^\top G_x \eta \quad \text{s.t.} \quad \|\eta\|_2 = \varepsilon,\; J(y, x+\eta) > J(y, x)

    The eigenvector η of the D x D matrix comes from the K x K matrix of the same spectrum. Its sign is free: the one
    with the larger loss at ``x ± ε η``, after clipping to the pixel bounds, is taken. Where the matrix vanishes in
    float32 (a saturated sample), η is the gradient of the logit margin ``max_{j≠y} z_j - z_y``.

    ε is the norm itself; the paper's section 3.1 uses ε for its square, its section 4 and figures for the norm.

    Example:
        >>> import numpy as np
        >>> from keras_fim import models
        >>> result = OSSA()(models.convnet(), np.full((2, 28, 28, 1), 0.4), [3, 7], epsilon=0.5)
        >>> result.distances.round(3)
        array([0.5, 0.5])

    Source:
        Zhao et al., The adversarial attack and detection under the Fisher information metric (AAAI 2019); the paper's
        section 3.1.
    """

    name = "ossa"
    norm = 2.0

    def prepare(self, logits_fn: LogitsFunction, images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Logits and unit directions."""
        matrix, logits = factor(logits_fn, images)
        eigenvalues, directions = spectrum_of_factor(matrix, k=1)
        directions = tf.reshape(directions, tf.shape(images))
        vanished = tf.reshape(eigenvalues <= 0, (-1, *[1] * (images.shape.rank - 1)))
        margins = tf.cond(
            tf.reduce_any(vanished),
            lambda: unit(_margin_gradient(logits_fn, images, labels)),
            lambda: tf.zeros_like(images),
        )
        return logits, tf.where(vanished, margins, directions)

    def perturb(
        self, logits_fn: LogitsFunction, images: tf.Tensor, labels: tf.Tensor, epsilon: tf.Tensor, *state: Any
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The better of the two steps."""
        forward, backward = (clip(images + s * epsilon * state[0], self.bounds) for s in (1, -1))
        logits, other = logits_fn(forward), logits_fn(backward)
        better = log_odds_against(logits, labels) >= log_odds_against(other, labels)
        by_image = tf.reshape(better, (-1, *[1] * (images.shape.rank - 1)))
        return tf.where(by_image, forward, backward), tf.where(better[:, None], logits, other)


def _margin_gradient(logits_fn: LogitsFunction, images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(images)
        margin = log_odds_against(logits_fn(images), labels)
    return tape.gradient(margin, images, unconnected_gradients=tf.UnconnectedGradients.ZERO)
