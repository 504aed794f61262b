"""The contract of attacks: options in the constructor, data in the call, one result type.

An attack is a frozen dataclass. There are two kinds. A `FixedBudgetAttack` takes ε, the lp norm of its perturbation on
the scale of the images, and implements two compiled halves: `FixedBudgetAttack.prepare`, what does not depend on ε (one
gradient, say), and `FixedBudgetAttack.perturb`, what does. A sweep over many ε pays the first half once. A
`MinimalDistanceAttack` looks for the nearest adversarial and needs no ε.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_fim.attacks.lp import norms
from keras_fim.logits import LogitsFunction, logits_function
from keras_fim.typing import AttackResult, Images, Labels, Model
from keras_fim.validation import check_bounds, check_images, check_labels

__all__ = ["Attack", "FixedBudgetAttack", "Found", "MinimalDistanceAttack", "Perturbed", "Problem", "SearchAttack"]


class Problem(NamedTuple):
    """What an attack is called on, checked.

    Attributes:
        logits_fn: the classifier.
        images: ``(n, ...)`` in the dtype that it works in, within the bounds.
        labels: int64 ``(n,)``.
        num_classes: K.
    """

    logits_fn: LogitsFunction
    images: tf.Tensor
    labels: tf.Tensor
    num_classes: int


class Perturbed(NamedTuple):
    """What `FixedBudgetAttack.perturb` returns.

    Attributes:
        adversarials: ``(batch, ...)``, within ε and the bounds.
        logits: ``(batch, K)``, theirs.
        details: tensors ``(batch, ...)`` for `AttackResult.details`.
    """

    adversarials: tf.Tensor
    logits: tf.Tensor
    details: dict[str, tf.Tensor] = {}  # noqa: RUF012 - never written to


class Found(NamedTuple):
    """What `SearchAttack.search` returns.

    Attributes:
        adversarials: ``(batch, ...)``, within the bounds; of samples that were not fooled, anything.
        details: tensors ``(batch, ...)`` for `AttackResult.details`.
    """

    adversarials: tf.Tensor
    details: dict[str, tf.Tensor] = {}  # noqa: RUF012 - never written to


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attack(abc.ABC):
    """What every attack has.

    Args:
        bounds: smallest and largest pixel value; adversarials stay inside exactly.
        batch_size: images worked on at a time; bounds the memory.
        seed: of whatever the attack draws at random; the same seed and data give the same adversarials.
        progress: show a progress bar of the images done.
    """

    bounds: tuple[float, float] = (0.0, 1.0)
    batch_size: int = 128
    seed: int = 0
    compiled: ClassVar[bool] = True
    """Whether `FixedBudgetAttack.perturb` and its like can be compiled; those of other libraries cannot."""

    progress: bool = dataclasses.field(default=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bounds", check_bounds(self.bounds))
        self._check(self.batch_size >= 1, "batch_size", "a positive integer")

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """Unique name, used in the CLI, log keys and files."""

    @property
    @abc.abstractmethod
    def norm(self) -> float:
        """The p of the lp norm that ε and the distances are in: 0, 1, 2 or inf."""

    @abc.abstractmethod
    def sweep(self, model: Model, images: Images, labels: Labels, epsilons: Sequence[float]) -> list[AttackResult]:
        """One `AttackResult` for each ε."""

    def _run(self, logits_fn: LogitsFunction, method: str) -> Callable[..., Any]:
        """One of the attack's methods as a function of tensors, compiled if the attack can be."""
        function = getattr(type(self), method)
        return logits_fn.compiled(function, self) if self.compiled else functools.partial(function, self, logits_fn)

    def _check(self, valid: bool, option: str, expected: str) -> None:
        if not valid:
            raise ValueError(f"`{option}` should be {expected}. Received: {option}={getattr(self, option)!r}")

    def _problem(self, model: Model, images: Images, labels: Labels) -> Problem:
        images = check_images(images, self.bounds)
        logits_fn = logits_function(model, images)
        images = logits_fn.cast(images)
        num_classes = logits_fn.compiled(_logits)(images[:1]).shape[-1]
        indices = tf.constant(check_labels(labels, len(images), num_classes))
        return Problem(logits_fn, images, indices, num_classes)

    def _batches(self, count: int) -> Iterator[tuple[slice, tf.Tensor]]:
        """Slices of ``batch_size`` samples and a seed for each."""
        bar = keras.utils.Progbar(count, unit_name="image") if self.progress else None
        for index, start in enumerate(range(0, count, self.batch_size)):
            yield slice(start, start + self.batch_size), tf.constant(self.seed + 1_000_003 * index, tf.int32)
            if bar:
                bar.update(min(start + self.batch_size, count))


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
        return self._sweep(self._problem(model, images, labels), epsilons)

    def _sweep(self, problem: Problem, epsilons: Sequence[float], *extras: tf.Tensor) -> list[AttackResult]:
        """`sweep` with further arguments of `prepare`, one entry per image."""
        check_epsilons(epsilons)
        parts = []
        for batch, seed in self._batches(len(problem.images)):
            images, labels = problem.images[batch], problem.labels[batch]
            arguments = (images, labels, seed, *(extra[batch] for extra in extras))
            logits, *state = self._run(problem.logits_fn, "prepare")(*arguments)
            perturb = self._run(problem.logits_fn, "perturb")
            budgets = [tf.fill([len(images)], tf.constant(epsilon, images.dtype)) for epsilon in epsilons]
            found = (perturb(images, labels, budget, seed, logits, *state) for budget in budgets)
            parts.append([result(images, labels, logits, *each, norm=self.norm) for each in found])
        return [concatenate(column) for column in zip(*parts, strict=True)]

    @property
    def one_step(self) -> bool:
        """Whether it goes straight in a direction that does not depend on ε, at hardly any cost for another ε."""
        return False

    def fooling_only(self) -> FixedBudgetAttack:
        """The same attack, as fast as it can be where only fooled-or-not is asked."""
        return self

    @abc.abstractmethod
    def prepare(
        self, logits_fn: LogitsFunction, images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        """What does not depend on ε: the logits of ``images``, then whatever `perturb` wants, by sample. Compiled."""

    @abc.abstractmethod
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
        """Adversarials within ε and the bounds. Compiled; ``epsilon`` is ``(batch,)``, what follows is of `prepare`."""


class MinimalDistanceAttack(Attack):
    """An attack that looks for the nearest adversarial of each image."""

    def __call__(self, model: Model, images: Images, labels: Labels, *, epsilon: float | None = None) -> AttackResult:
        """Look for the nearest adversarial of each image.

        Args:
            model: any classifier that `keras_fim.logits.logits_function` takes.
            images: ``(batch, ...)``, within `bounds`.
            labels: the true classes: indices ``(batch,)`` or one-hot rows ``(batch, K)``.
            epsilon: if given, success means an adversarial within this distance.

        Returns:
            `AttackResult`. A sample that could not be fooled (within ``epsilon``) comes back unchanged with distance
            inf; one that was wrong before comes back unchanged with distance 0. Neither is a success.

        Raises:
            ValueError: if an argument is not valid; see `keras_fim.validation`.
        """
        return self.sweep(model, images, labels, [np.inf if epsilon is None else epsilon])[0]

    def sweep(self, model: Model, images: Images, labels: Labels, epsilons: Sequence[float]) -> list[AttackResult]:
        """One result for each ε, of one search.

        Args:
            model: as in the call.
            images: as in the call.
            labels: as in the call.
            epsilons: distances >= 0, inf for any.

        Returns:
            `AttackResult` by ε.

        Raises:
            ValueError: as the call.
        """
        return self._sweep(self._problem(model, images, labels), epsilons)

    def _sweep(self, problem: Problem, epsilons: Sequence[float], *extras: tf.Tensor) -> list[AttackResult]:
        check_epsilons(epsilons, infinite=True)
        nearest = self.nearest(problem, *extras)
        return [_within(nearest, problem, epsilon) for epsilon in epsilons]

    @abc.abstractmethod
    def nearest(self, problem: Problem, *extras: tf.Tensor) -> AttackResult:
        """The nearest adversarials at any distance; samples that were wrong before, or stand, come back unchanged."""


class SearchAttack(MinimalDistanceAttack):
    """A minimal-distance attack that searches batch by batch, in `search`."""

    def nearest(self, problem: Problem, *extras: tf.Tensor) -> AttackResult:
        """`search` in batches, of the samples that are correct, and another look at what it returns."""
        parts = []
        for batch, seed in self._batches(len(problem.images)):
            part = problem._replace(images=problem.images[batch], labels=problem.labels[batch])
            parts.append(self._search(part, seed, *(extra[batch] for extra in extras)))
        return concatenate(parts)

    def _search(self, problem: Problem, seed: tf.Tensor, *extras: tf.Tensor) -> AttackResult:
        logits_fn, images, labels, _ = problem
        predict = logits_fn.compiled(_logits)
        predictions = np.argmax(predict(images), axis=-1).astype(np.int64)
        correct = predictions == labels.numpy()
        adversarials, success, details = images.numpy().copy(), np.zeros_like(correct), {}
        if correct.any():
            chosen = [tf.boolean_mask(each, correct) for each in (images, labels, *extras)]
            found = self._run(logits_fn, "search")(*chosen[:2], seed, *chosen[2:])
            predictions[correct] = np.argmax(predict(found.adversarials), axis=-1)
            success = correct & (predictions != labels.numpy())
            adversarials[correct] = found.adversarials.numpy()
            details = {key: _spread(value.numpy(), correct) for key, value in found.details.items()}
        distances = norms(adversarials.astype(np.float64) - images.numpy(), self.norm)
        return AttackResult(adversarials, success, distances, predictions, correct, details)

    @abc.abstractmethod
    def search(self, logits_fn: LogitsFunction, images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor) -> Found:
        """The nearest adversarials that can be found. Compiled; ``seed`` is an int32 scalar."""


def check_epsilons(epsilons: Sequence[float], *, infinite: bool = False) -> None:
    """Check budgets.

    Raises:
        ValueError: if one is negative, NaN or (unless allowed) infinite.
    """
    for epsilon in epsilons:
        if not (0 <= epsilon < np.inf or (infinite and epsilon == np.inf)):
            raise ValueError(f"`epsilon` should be a finite number >= 0. Received: epsilon={epsilon}")


def result(
    images: tf.Tensor,
    labels: tf.Tensor,
    logits: tf.Tensor,
    adversarials: tf.Tensor,
    attacked: tf.Tensor,
    details: dict[str, tf.Tensor],
    *,
    norm: float,
) -> AttackResult:
    """An `AttackResult` from tensors: images, labels, logits, adversarials and their logits."""
    was_correct = np.argmax(logits, axis=-1) == labels.numpy()
    predictions = np.argmax(attacked, axis=-1).astype(np.int64)
    distances = norms(adversarials.numpy().astype(np.float64) - images.numpy(), norm)
    success = was_correct & (predictions != labels.numpy())
    arrays = {key: value.numpy() for key, value in details.items()}
    return AttackResult(adversarials.numpy(), success, distances, predictions, was_correct, arrays)


def concatenate(parts: Sequence[AttackResult]) -> AttackResult:
    """Results of several batches as one."""
    *columns, details = zip(*parts, strict=True)
    known = {key: value[:0] for each in details for key, value in each.items()}  # a batch nobody searched in has none
    joined = {
        key: np.concatenate(
            [part.details.get(key, np.zeros((len(part.success), *empty.shape[1:]), empty.dtype)) for part in parts]
        )
        for key, empty in known.items()
    }
    arrays = [np.concatenate(column) for column in columns]
    return AttackResult(arrays[0], arrays[1], arrays[2], arrays[3], arrays[4], joined)


def _within(nearest: AttackResult, problem: Problem, epsilon: float) -> AttackResult:
    """What remains of a result if only adversarials within ε count."""
    images, success = problem.images.numpy(), nearest.success & (nearest.distances <= epsilon)
    return nearest._replace(
        adversarials=np.where(success.reshape(-1, *[1] * (images.ndim - 1)), nearest.adversarials, images),
        success=success,
        distances=np.where(success, nearest.distances, np.where(nearest.was_correct, np.inf, 0.0)),
        predictions=np.where(nearest.was_correct & ~success, problem.labels.numpy(), nearest.predictions),
    )


def _spread(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """``values`` of the samples that ``where`` marks, zero for the others."""
    spread = np.zeros((len(where), *values.shape[1:]), values.dtype)
    spread[where] = values
    return spread


def _logits(logits_fn: LogitsFunction, images: tf.Tensor) -> tf.Tensor:
    return logits_fn(images)
