"""Labels smoothed towards the least likely class."""

from typing import Any

import keras
import tensorflow as tf

from keras_fim.arguments import checked
from keras_fim.defenses.batch import Batch
from keras_fim.defenses.penalized import Penalized
from keras_fim.losses import mu_value


@keras.saving.register_keras_serializable("keras_fim")
class AdversarialLabelSmoothing(Penalized):
    r"""Moves a share α of each label to the class that is least likely now.

    .. math:: (1 - \alpha) L(x, y) + \alpha L(x, \arg\min_k p_k) = L(x, y) + \alpha (z_y - \min_k z_k)

    So it is a penalty on the largest gap of the logits, and goes with any compiled loss. Ordinary label smoothing,
    ``FisherTraceLoss(mu=0, label_smoothing=α)``, spreads the share over all classes.

    Args:
        model: A built Keras classifier, or another defense of one.
        alpha: The share α in [0, 1), or a ``keras.Variable``, which is then also the attribute ``mu``.
        **options: ``bounds`` and ``name``, as in `Defense`.

    Logged in training: ``penalty`` (part of ``loss``) and ``logit_gap``.

    Raises:
        ValueError: If ``alpha`` is not in [0, 1).

    Source:
        Goibert & Dohmatob, Adversarial robustness via label-smoothing (arXiv 1906.11567), ALS.
    """

    @checked
    def __init__(self, model: keras.Model, alpha: float | keras.Variable = 0.3, **options: Any) -> None:
        value = mu_value(alpha) if isinstance(alpha, keras.Variable) else alpha
        if not 0 <= value < 1:
            raise ValueError(f"`alpha` should be in [0, 1). Received: alpha={value}")
        super().__init__(model, alpha, measure="logit_gap", **{"name": "adversarial_label_smoothing", **options})

    def measure(self, batch: Batch) -> tf.Tensor:
        """Mean of the label's logit over the smallest."""
        own = tf.gather(batch.logits, batch.labels, batch_dims=1)
        return batch.mean(own - tf.reduce_min(batch.logits, axis=-1))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments; ``alpha`` as the number that it is now."""
        return {**super().get_config(), "alpha": mu_value(self.mu)}
