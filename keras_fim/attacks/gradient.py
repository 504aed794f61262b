"""Attacks along the gradient of the loss."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from keras_fim.attacks.base import FixedBudgetAttack, clip
from keras_fim.logits import LogitsFunction

__all__ = ["FGSM", "loss_gradient"]


def loss_gradient(logits_fn: LogitsFunction, images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Gradient of each image's cross-entropy in the image, and the logits.

    Args:
        logits_fn: the classifier.
        images: ``(batch, ...)``.
        labels: ``(batch,)``, class indices.

    Returns:
        ``(gradients, logits)``; zero where the loss does not depend on the image.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(images)
        logits = logits_fn(images)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    return tape.gradient(loss, images, unconnected_gradients=tf.UnconnectedGradients.ZERO), logits


@dataclasses.dataclass(frozen=True, kw_only=True)
class FGSM(FixedBudgetAttack):
    r"""Fast Gradient Sign Method: :math:`x + \varepsilon \operatorname{sign} \nabla_x J(x, y)`, ε in l∞.

    Example:
        >>> from keras_fim import models
        >>> result = FGSM()(models.convnet(), np.full((2, 28, 28, 1), 0.4), [3, 7], epsilon=0.1)
        >>> result.distances.round(3)
        array([0.1, 0.1])

    Source:
        Goodfellow, Shlens, Szegedy, Explaining and harnessing adversarial examples (ICLR 2015).
    """

    name = "fgsm"
    norm = np.inf

    def prepare(self, logits_fn: LogitsFunction, images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Logits and the signs of the gradient."""
        gradients, logits = loss_gradient(logits_fn, images, labels)
        return logits, tf.sign(gradients)

    def perturb(
        self, logits_fn: LogitsFunction, images: tf.Tensor, labels: tf.Tensor, epsilon: tf.Tensor, *state: Any
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """One step of ε."""
        adversarials = clip(images + epsilon * state[0], self.bounds)
        return adversarials, logits_fn(adversarials)
