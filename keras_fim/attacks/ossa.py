"""The One Step Spectral Attack."""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from keras_fim.attacks.base import FixedBudgetAttack, Perturbed
from keras_fim.attacks.losses import log_odds_against, loss_gradient
from keras_fim.attacks.lp import by_image, unit
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

    `AttackResult.details` has ``saturated``, bool ``(batch,)``: which samples took that way out.

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

    @property
    def one_step(self) -> bool:
        """True."""
        return True

    def prepare(
        self, logits_fn: LogitsFunction, images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        """Logits, unit directions, and which samples are saturated."""
        matrix, logits = factor(logits_fn, images)
        eigenvalues, directions = spectrum_of_factor(matrix, k=1)
        saturated = eigenvalues[:, 0] <= 0
        margins = tf.cond(
            tf.reduce_any(saturated),
            lambda: unit(loss_gradient(logits_fn, images, labels)[0]),
            lambda: tf.zeros_like(images),
        )
        directions = tf.where(by_image(saturated, images), margins, tf.reshape(directions, tf.shape(images)))
        return logits, directions, saturated

    def perturb(
        self,
        logits_fn: LogitsFunction,
        images: tf.Tensor,
        labels: tf.Tensor,
        epsilon: tf.Tensor,
        seed: tf.Tensor,
        logits: tf.Tensor,
        *state: Any,
    ) -> Perturbed:
        """The better of the two steps."""
        directions, saturated = state
        step = by_image(epsilon, images) * directions
        forward, backward = (tf.clip_by_value(images + s * step, *self.bounds) for s in (1, -1))
        attacked, other = logits_fn(forward), logits_fn(backward)
        better = log_odds_against(attacked, labels) >= log_odds_against(other, labels)
        adversarials = tf.where(by_image(better, images), forward, backward)
        return Perturbed(adversarials, tf.where(better[:, None], attacked, other), {"saturated": saturated})
