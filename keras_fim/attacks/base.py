"""The contract of attacks: options in the constructor, data in the call, one result type.

An attack is a frozen dataclass. A fixed-budget attack takes ε, the lp norm of its perturbation on the scale of the
images, and implements two compiled halves: `FixedBudgetAttack.prepare`, what does not depend on ε (one gradient, say),
and `FixedBudgetAttack.perturb`, what does. A sweep over many ε pays the first half once.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from keras_fim.logits import LogitsFunction, logits_function
from keras_fim.typing import AttackResult, Images, Labels, Model
from keras_fim.validation import check_bounds, check_images, check_labels

__all__ = ["Attack", "FixedBudgetAttack", "clip", "log_odds_against", "norms", "unit"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attack(abc.ABC):
    """What every attack has.

    Args:
        bounds: smallest and largest pixel value; adversarials stay inside exactly.
        batch_size: images worked on at a time; bounds the memory.
    """

    bounds: tuple[float, float] = (0.0, 1.0)
    batch_size: int = 128

    name: ClassVar[str]
    """Unique name, used in the CLI, log keys and files."""
    norm: ClassVar[float]
    """The p of the lp norm that ε and the distances are in: 0, 1, 2 or inf."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "bounds", check_bounds(self.bounds))
        if self.batch_size < 1:
            raise ValueError(f"`batch_size` should be a positive integer. Received: batch_size={self.batch_size}")

    @abc.abstractmethod
    def __call__(self, model: Model, images: Images, labels: Labels, *, epsilon: float) -> AttackResult:
        """Attack a batch of images."""


class FixedBudgetAttack(Attack):
    """An attack that perturbs each image by at most ε."""

    def __call__(self, model: Model, images: Images, labels: Labels, *, epsilon: float) -> AttackResult:
        """Perturb each image by at most ``epsilon``.

        Args:
            model: any classifier that `keras_fim.logits.logits_function` takes.
            images: ``(batch, ...)``, within `bounds`.
            labels: the true classes: indices ``(batch,)`` or one-hot rows ``(batch, K)``.
            epsilon: budget >= 0 in the attack's norm, on the scale of the images.

        Returns:
            `AttackResult`. Samples that were wrong before are perturbed like the others but never count as success.

        Raises:
            ValueError: if an argument is not valid; see `keras_fim.validation`.
        """
        return self.sweep(model, images, labels, [epsilon])[0]

    def sweep(self, model: Model, images: Images, labels: Labels, epsilons: Sequence[float]) -> list[AttackResult]:
        """One result for each ε, paying what does not depend on it once.

        Args:
            model: as in the call.
            images: as in the call.
            labels: as in the call.
            epsilons: budgets, each >= 0.

        Returns:
            `AttackResult` by ε.

        Raises:
            ValueError: as the call.
        """
        for epsilon in epsilons:
            if not 0 <= epsilon < np.inf:
                raise ValueError(f"`epsilon` should be a finite number >= 0. Received: epsilon={epsilon}")
        images = check_images(images, self.bounds)
        logits_fn = logits_function(model, images)
        images = logits_fn.cast(images)
        num_classes = logits_fn.compiled(_logits)(images[:1]).shape[-1]
        indices = tf.constant(check_labels(labels, len(images), num_classes))
        batches = [slice(start, start + self.batch_size) for start in range(0, len(images), self.batch_size)]
        parts = [self._sweep_batch(logits_fn, images[batch], indices[batch], epsilons) for batch in batches]
        return [AttackResult(*map(np.concatenate, zip(*column, strict=True))) for column in zip(*parts, strict=True)]

    def _sweep_batch(
        self, logits_fn: LogitsFunction, images: tf.Tensor, labels: tf.Tensor, epsilons: Sequence[float]
    ) -> list[AttackResult]:
        logits, *state = logits_fn.compiled(type(self).prepare, self)(images, labels)
        perturb = logits_fn.compiled(type(self).perturb, self)
        budgets = (tf.constant(epsilon, images.dtype) for epsilon in epsilons)
        return [self._result(images, labels, logits, *perturb(images, labels, e, *state)) for e in budgets]

    def _result(
        self, images: tf.Tensor, labels: tf.Tensor, logits: tf.Tensor, adversarials: tf.Tensor, attacked: tf.Tensor
    ) -> AttackResult:
        was_correct = np.argmax(logits, axis=-1) == labels.numpy()
        predictions = np.argmax(attacked, axis=-1).astype(np.int64)
        distances = norms(adversarials.numpy().astype(np.float64) - images.numpy(), self.norm)
        success = was_correct & (predictions != labels.numpy())
        return AttackResult(adversarials.numpy(), success, distances, predictions, was_correct)

    @abc.abstractmethod
    def prepare(self, logits_fn: LogitsFunction, images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """What does not depend on ε: the logits of ``images``, then whatever `perturb` wants. Compiled."""

    @abc.abstractmethod
    def perturb(
        self, logits_fn: LogitsFunction, images: tf.Tensor, labels: tf.Tensor, epsilon: tf.Tensor, *state: Any
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Adversarials within ε and the bounds, and their logits. Compiled; ``epsilon`` is a scalar tensor."""


def norms(perturbations: np.ndarray, p: float) -> np.ndarray:
    """The lp norm of each perturbation; for p = 0 the number of changed values.

    Args:
        perturbations: ``(batch, ...)``.
        p: 0, 1, 2 or inf.

    Returns:
        float64 ``(batch,)``.
    """
    flat = np.asarray(perturbations, np.float64).reshape(len(perturbations), -1)
    return np.asarray(np.linalg.norm(flat, ord=p, axis=-1))


def unit(vectors: tf.Tensor) -> tf.Tensor:
    """Each of ``(batch, ...)`` divided by its l2 norm; zero stays zero. No overflow or underflow on the way."""
    axes = tuple(range(1, vectors.shape.rank))
    vectors = tf.math.divide_no_nan(vectors, tf.reduce_max(tf.abs(vectors), axis=axes, keepdims=True))
    return tf.math.divide_no_nan(vectors, tf.sqrt(tf.reduce_sum(vectors**2, axis=axes, keepdims=True)))


def clip(images: tf.Tensor, bounds: tuple[float, float]) -> tf.Tensor:
    """Images clipped to the pixel bounds."""
    return tf.clip_by_value(images, *bounds)


def log_odds_against(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """``log((1 - p_y) / p_y)``: grows with the cross-entropy, and does not saturate where p_y rounds to 1.

    Args:
        logits: ``(batch, K)``.
        labels: ``(batch,)``, class indices.

    Returns:
        ``(batch,)``.
    """
    own = tf.one_hot(labels, logits.shape[-1], on_value=True, off_value=False)
    others = tf.where(own, tf.cast(-np.inf, logits.dtype), logits)
    return tf.reduce_logsumexp(others, axis=-1) - tf.gather(logits, labels, batch_dims=1)


def _logits(logits_fn: LogitsFunction, images: tf.Tensor) -> tf.Tensor:
    return logits_fn(images)
