"""Defenses that add a penalty to the loss."""

import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_fim.defenses.base import Defense
from keras_fim.defenses.batch import Batch
from keras_fim.losses import mu_value, mu_variable


class Penalized(Defense):
    """A defense whose penalty is μ times a mean over the batch, as Keras' losses take it unless told otherwise.

    With another ``reduction`` of the loss, μ is relative to that. Logs ``penalty`` and the mean; around another such
    defense ``..._penalty`` with the name of the mean.

    Args:
        model: As in `Defense`.
        mu: The weight μ >= 0: a number, or a ``keras.Variable`` that others may change; the optimizer does not, so its
            ``trainable`` is set to False.
        measure: The name by which the mean is logged.
        **options: ``bounds``, ``seed`` and ``name``, as in `Defense`.
    """

    def __init__(self, model: keras.Model, mu: float | keras.Variable, *, measure: str, **options: Any) -> None:
        mu = mu_variable(mu)
        mu.trainable = False
        super().__init__(model, **options)
        self.mu = mu
        taken = [tracker.name for part in (self.inner._parts() if self.inner else []) for tracker in part.trackers()]
        self._penalty = keras.metrics.Mean(name=f"{measure}_penalty" if "penalty" in taken else "penalty")
        self._measure = keras.metrics.Mean(name=measure)

    def measure(self, batch: Batch) -> tf.Tensor:
        """What is penalized, a scalar."""
        raise NotImplementedError

    def penalty(self, batch: Batch) -> tf.Tensor:
        """μ times `measure`."""
        value = self.measure(batch)
        penalty = tf.cast(self.mu, value.dtype) * value
        count = tf.shape(batch.images)[0]
        self._measure.update_state(value, sample_weight=count)
        self._penalty.update_state(penalty, sample_weight=count)
        return penalty

    def trackers(self) -> list[keras.metrics.Metric]:
        """The penalty and what it penalizes."""
        return [self._penalty, self._measure] if hasattr(self, "_measure") else []

    def watches(self) -> list[keras.callbacks.Callback]:
        """A warning of a penalty that is too small to matter."""
        return [_WeakPenalty(self)]


class _WeakPenalty(keras.callbacks.Callback):
    """Warns once of a penalty that is below 1e-4 of the loss over a whole epoch."""

    def __init__(self, defense: Penalized) -> None:
        super().__init__()
        self._defense, self._warned = defense, False

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Compare."""
        logs, defense = logs or {}, self._defense
        share = logs.get(defense._penalty.name, np.inf) / max(abs(logs.get("loss", 0.0)), 1e-30)
        mu = mu_value(defense.mu)
        if share < 1e-4 and mu > 0 and not self._warned:
            self._warned = True
            warnings.warn(
                f"The penalty of {defense.name} is {share:.1e} of the loss over epoch {epoch + 1}, which is as good as "
                f"plain training. Are the images on the scale {defense.bounds}, and is μ = {mu:g} large enough?",
                stacklevel=2,
            )
