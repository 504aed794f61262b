"""The contract of attacks: options in the constructor, data in the call, one result type.

An attack is a frozen dataclass. There are two kinds: with a budget ε, the lp norm of its perturbation on the scale of
the images (`fixed_budget.py`), and those that look for the nearest adversarial and need no ε (`nearest.py`).
"""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral
from typing import Any, ClassVar, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_fim.logits import LogitsFunction, logits_function
from keras_fim.typing import AttackResult, Images, Labels, Model
from keras_fim.validation import check_bounds, check_images, check_labels

__all__ = ["Attack", "Problem", "check_epsilons", "concatenate", "predict_logits"]


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
        self._check_counts("batch_size")

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

    def _check_counts(self, *options: str) -> None:
        for option in options:
            value = getattr(self, option)
            self._check(isinstance(value, Integral) and int(value) >= 1, option, "a positive integer")

    def _check(self, valid: bool, option: str, expected: str) -> None:
        if not valid:
            raise ValueError(f"`{option}` should be {expected}. Received: {option}={getattr(self, option)!r}")

    def _problem(self, model: Model, images: Images, labels: Labels) -> Problem:
        images = check_images(images, self.bounds)
        logits_fn = logits_function(model, images)
        images = logits_fn.cast(images)
        num_classes = logits_fn.compiled(predict_logits)(images[:1]).shape[-1]
        indices = tf.constant(check_labels(labels, len(images), num_classes))
        return Problem(logits_fn, images, indices, num_classes)

    def _batches(self, count: int) -> Iterator[tuple[slice, tf.Tensor]]:
        """Slices of ``batch_size`` samples and a seed for each."""
        bar = keras.utils.Progbar(count, unit_name="image") if self.progress else None
        for index, start in enumerate(range(0, count, self.batch_size)):
            yield slice(start, start + self.batch_size), tf.constant(self.seed + 1_000_003 * index, tf.int32)
            if bar:
                bar.update(min(start + self.batch_size, count))


def check_epsilons(epsilons: Sequence[float], *, infinite: bool = False) -> None:
    """Check budgets.

    Raises:
        ValueError: if one is negative, NaN or (unless allowed) infinite.
    """
    for epsilon in epsilons:
        if not (0 <= epsilon < np.inf or (infinite and epsilon == np.inf)):
            raise ValueError(f"`epsilon` should be a finite number >= 0. Received: epsilon={epsilon}")


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


def predict_logits(logits_fn: LogitsFunction, images: tf.Tensor) -> tf.Tensor:
    """The forward pass alone, to be compiled."""
    return logits_fn(images)
