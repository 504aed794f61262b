"""What an attack is called on, checked: pixels, and the same images in unit coordinates."""

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from keras_fim.attacks.lp import norms
from keras_fim.attacks.samples import Task
from keras_fim.attacks.units import Units
from keras_fim.logits import LogitsFunction


@dataclasses.dataclass(frozen=True)
class Problem:
    """What an attack is called on, checked.

    Attributes:
        logits_fn: The classifier, on pixels.
        images: The pixels ``(n, ...)``, in the dtype that it works in and within the bounds.
        units: From pixels to unit coordinates and back.
        task: The same images in unit coordinates, with labels and keys; its ε is 0.
        aimed: Whether only the target's prediction is a success.
    """

    logits_fn: LogitsFunction
    images: tf.Tensor
    units: Units
    task: Task
    aimed: bool = False

    @property
    def labels(self) -> tf.Tensor:
        """The true classes, int64 ``(n,)``."""
        return self.task.labels

    @property
    def unit_fn(self) -> LogitsFunction:
        """The classifier, on unit coordinates."""
        return self.units.logits_fn(self.logits_fn)

    def budgets(self, epsilon: float) -> tf.Tensor:
        """ε in unit coordinates for each sample, ``(n,)``; 0 for those that are left out."""
        return tf.constant(np.where(self.left_out, 0, epsilon / self.units.scale), self.images.dtype)

    @property
    def left_out(self) -> np.ndarray:
        """Which samples have their target as their label, bool ``(n,)``."""
        return np.asarray((self.task.target == self.task.labels) & self.aimed)

    def fooled(self, predictions: np.ndarray, rows: Any = slice(None)) -> np.ndarray:
        """Which predictions, of all samples or of some ``rows``, are a success, bool."""
        labels, targets = self.labels.numpy()[rows], self.task.target.numpy()[rows]
        return np.asarray(predictions == targets if self.aimed else predictions != labels)

    def details(self, more: dict[str, Any]) -> dict[str, np.ndarray]:
        """Details of a result, with the targets if there are any."""
        aims = {"target": self.task.target} if self.aimed else {}
        return {key: np.asarray(value) for key, value in {**more, **aims}.items()}

    def distances(self, points: tf.Tensor, pixels: np.ndarray, norm: float) -> np.ndarray:
        """Norms of the perturbations in pixels, float64 ``(n,)``; in unit coordinates with bounds for each channel."""
        if norm and isinstance(self.units.bounds[0], tuple):
            return norms(np.asarray(points, np.float64) - self.task.images.numpy(), norm)
        return norms(pixels.astype(np.float64) - self.images.numpy(), norm)
