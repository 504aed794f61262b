"""The gradient of the loss in the input, penalised by a finite difference."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from keras_fim.attacks.losses import log_odds_against
from keras_fim.attacks.lp import unit
from keras_fim.defenses.base import Penalized
from keras_fim.defenses.batch import Batch
from keras_fim.defenses.spectral import check_step
from keras_fim.losses import mu_value

__all__ = ["GradientPenalty"]


@keras.saving.register_keras_serializable("keras_fim")
class GradientPenalty(Penalized):
    r"""Adds μ times the squared norm of the cross-entropy's gradient in the input to the loss.

    .. math:: L + \mu \|\nabla_x \mathrm{CE}(x, y)\|_2^2 = L + \mu (\partial_v \mathrm{CE})^2,
        \qquad v = \nabla_x \mathrm{CE} / \|\nabla_x \mathrm{CE}\|_2

    With v held constant it is a finite difference of the loss: one more forward pass instead of a double
    backpropagation. A training step of the ConvNet costs 2.6 times a plain one in CPU seconds
    (``results/benchmarks/defense_step_mnist.json``). `SpectralDefense` penalises the same for all classes, weighted by
    their probabilities.

    Args:
        model: a built Keras classifier, or another defence of one.
        mu: weight μ >= 0, or a ``keras.Variable``.
        step: length of the step in l2, on the scale of the images.
        seed: nothing is drawn here.
        name: of the Keras model.

    Logged in training: ``penalty`` (part of ``loss``) and ``squared_gradient``.

    Raises:
        ValueError: if an argument is not valid.

    Source:
        Ross & Doshi-Velez (AAAI 2018); the finite difference: Finlay & Oberman, Scaleable input gradient
        regularization for adversarial robustness (arXiv 1905.11468).
    """

    def __init__(
        self,
        model: keras.Model,
        mu: float | keras.Variable = 1.0,
        *,
        step: float = 0.1,
        seed: int = 0,
        name: str | None = None,
    ) -> None:
        check_step(step)
        super().__init__(model, mu, measure="squared_gradient", seed=seed, name=name or "gradient_penalty")
        self.step = float(step)

    def measure(self, batch: Batch) -> tf.Tensor:
        """Mean squared norm."""
        images, labels = batch.images, batch.labels
        with batch.tape:
            odds = log_odds_against(batch.logits, labels)  # the cross-entropy's direction, and never 0
        direction = tf.stop_gradient(unit(batch.tape.gradient(odds, images)))
        ahead = _cross_entropy(batch.again(images + self.step * direction), labels)
        return batch.mean(((ahead - _cross_entropy(batch.logits, labels)) / self.step) ** 2)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments; ``mu`` as the number that it is now."""
        return {**super().get_config(), "mu": mu_value(self.mu), "step": self.step}


def _cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
