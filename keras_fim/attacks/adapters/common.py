"""What the adapters share: the classifier that the libraries see, and their answers brought into ball and bounds."""

from __future__ import annotations

import abc
import importlib
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow as tf

from keras_fim.attacks.fixed_budget import FixedBudgetAttack, Perturbed
from keras_fim.attacks.lp import norms, project
from keras_fim.attacks.nearest import Found, SearchAttack
from keras_fim.logits import LogitsFunction

__all__ = ["Classifier", "ForeignAttack", "ForeignSearch", "library"]


def library(module: str, adapter: str, install: str) -> Any:
    """A module of another library.

    Args:
        module: its name.
        adapter: who needs it.
        install: what to pass to ``pip install``.

    Returns:
        The module.

    Raises:
        ImportError: if it is not installed; says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"attacks.{adapter} needs the module {module}: pip install '{install}'") from error


class Classifier(NamedTuple):
    """A logits function as the libraries want it: float32 in, float32 out, compiled; lives no longer than the model.

    Attributes:
        logits_fn: the classifier.
        dtype: what it works on.
    """

    logits_fn: LogitsFunction
    dtype: tf.DType

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        """Logits ``(batch, K)`` of float32 images."""
        return self.logits_fn.compiled(_logits, self.dtype)(images)

    def gradient(self, loss_fn: Callable[..., tf.Tensor], images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """Gradient in the images of ``loss_fn(labels=, logits=)``, as ``images``."""
        return self.logits_fn.compiled(_gradient, self.dtype, loss_fn)(images, labels)


class ForeignAttack(FixedBudgetAttack):
    """A fixed-budget attack of another library, which knows one ε at a time."""

    compiled: ClassVar[bool] = False

    def prepare(
        self, logits_fn: LogitsFunction, images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        """Logits."""
        return (_predict(logits_fn, images),)

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
        """`generate` for each ε that occurs, in the ball and the bounds; an ε of 0 returns the image."""
        found = images.numpy().copy()
        budgets = epsilon.numpy()
        for budget in np.unique(budgets[budgets > 0]):
            (chosen,) = np.nonzero(budgets == budget)
            part = [tf.gather(each, chosen) for each in (images, labels)]
            found[chosen] = _ask(self, logits_fn, *part, float(budget), int(seed))
        adversarials, projected = self._into_ball(images, tf.constant(found), epsilon)
        return Perturbed(adversarials, _predict(logits_fn, adversarials), {"projected": projected})

    def _into_ball(self, images: tf.Tensor, points: tf.Tensor, epsilon: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Points within the bounds and, but for rounding, ε; and which had to be projected."""
        points = tf.clip_by_value(points, *self.bounds)
        slack = 1e-6 * np.maximum(epsilon.numpy(), max(1.0, *map(abs, self.bounds)))
        outside = norms(points.numpy() - images.numpy(), self.norm) > epsilon.numpy() + slack
        if outside.any():
            inside = images + project(points - images, epsilon, self.norm)
            points = tf.where(_by_image(outside, images), tf.clip_by_value(inside, *self.bounds), points)
        return points, tf.constant(outside)

    @abc.abstractmethod
    def generate(self, classifier: Classifier, images: tf.Tensor, labels: tf.Tensor, epsilon: float, seed: int) -> Any:
        """The library's answer for float32 images: points ``(batch, ...)``."""


class ForeignSearch(SearchAttack):
    """A minimal-distance attack of another library."""

    compiled: ClassVar[bool] = False

    def search(self, logits_fn: LogitsFunction, images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor) -> Found:
        """`generate`, in the bounds."""
        points = _ask(self, logits_fn, images, labels, None, int(seed))
        return Found(tf.clip_by_value(tf.constant(points), *self.bounds))

    @abc.abstractmethod
    def generate(self, classifier: Classifier, images: tf.Tensor, labels: tf.Tensor, epsilon: None, seed: int) -> Any:
        """The library's answer for float32 images: points ``(batch, ...)``."""


def _ask(
    attack: ForeignAttack | ForeignSearch, logits_fn: LogitsFunction, images: tf.Tensor, labels: tf.Tensor, *rest: Any
) -> np.ndarray:
    """What ``attack`` generates, in the dtype of the images, which stay where it has no finite answer."""
    classifier = Classifier(logits_fn, images.dtype)
    points = np.asarray(attack.generate(classifier, tf.cast(images, tf.float32), labels, *rest))
    finite = np.isfinite(points).reshape(len(points), -1).all(axis=-1)
    return np.where(_by_image(finite, images), points, images.numpy()).astype(images.dtype.as_numpy_dtype)


def _by_image(values: np.ndarray, images: tf.Tensor) -> np.ndarray:
    return values.reshape(-1, *[1] * (images.shape.rank - 1))


def _predict(logits_fn: LogitsFunction, images: tf.Tensor) -> tf.Tensor:
    return logits_fn.compiled(LogitsFunction.__call__)(images)


def _logits(dtype: tf.DType, logits_fn: LogitsFunction, images: tf.Tensor) -> tf.Tensor:
    return tf.cast(logits_fn(tf.cast(images, dtype)), tf.float32)


def _gradient(
    dtype: tf.DType,
    loss_fn: Callable[..., tf.Tensor],
    logits_fn: LogitsFunction,
    images: tf.Tensor,
    labels: tf.Tensor,
) -> tf.Tensor:
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(images)
        loss = loss_fn(labels=labels, logits=_logits(dtype, logits_fn, images))
    return tape.gradient(loss, images, unconnected_gradients=tf.UnconnectedGradients.ZERO)
