"""An attack of another library as one of ours: what the library sees of the classifier, and what becomes of its answer.

A library's part is a frozen dataclass derived from `Method`; `wrapped` makes an attack of it.
"""

import abc
import dataclasses
import importlib
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow as tf

from keras_fim.attacks import kinds, lp
from keras_fim.attacks.samples import Task, choose, put, take
from keras_fim.geometry.jacobian import gradient as gradient_of
from keras_fim.logits import LogitsFunction, predict_logits


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


@dataclasses.dataclass(frozen=True)
class Method(abc.ABC):
    """An attack of another library, on images in [0, 1]: the lengths among its own options are in these units, too.

    Attributes:
        name: The library, the attack and the norm.
        norm: The p of the lp norm that ε and the distances are in.
        call: The call that makes it, without the options of every attack and the last bracket.
    """

    name: str
    norm: float
    call: str

    @abc.abstractmethod
    def generate(self, classifier: Classifier, task: Task, epsilon: float | None, seed: int) -> Any:
        """The library's answer for float32 images: points ``(batch, ...)``; ε is None for the smallest distance."""

    def points(self, logits_fn: LogitsFunction, task: Task, epsilon: float | None) -> tf.Tensor:
        """What it generates, in the dtype and the range of the images, which stay where it has no finite answer."""
        classifier, seed = Classifier(logits_fn, task.images.dtype), int(task.keys[0]) % 2**31
        answer = self.generate(classifier, task._replace(images=tf.cast(task.images, tf.float32)), epsilon, seed)
        points = tf.cast(tf.convert_to_tensor(np.asarray(answer)), task.images.dtype)
        finite = tf.reduce_all(tf.math.is_finite(points), axis=tuple(range(1, points.shape.rank)))
        return tf.clip_by_value(choose(finite, points, task.images), 0, 1)


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class _Wrapped:
    """What both kinds have; made by `wrapped`."""

    method: Method

    compiled: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """That of the method."""
        return self.method.name

    @property
    def norm(self) -> float:
        """That of the method."""
        return self.method.norm

    def __repr__(self) -> str:
        options = ", ".join(f"{option}={getattr(self, option)!r}" for option in ("bounds", "batch_size", "seed"))
        return f"{self.method.call}, {options})"


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class ForeignAttack(_Wrapped, kinds.FixedBudgetAttack):
    """A fixed-budget attack of another library, which knows one ε at a time.

    The detail ``projected`` of a result marks samples for which the library left the ball by more than rounding, so
    that they were projected.
    """

    def prepare(self, logits_fn: LogitsFunction, task: Task) -> tuple[tf.Tensor, ...]:
        """Logits."""
        return (logits_fn.compiled(predict_logits)(task.images),)

    def perturb(self, logits_fn: LogitsFunction, task: Task, state: tuple[Any, ...]) -> kinds.Perturbed:
        """The method's answer for each ε that occurs, in the ball and the unit cube; an ε of 0 returns the image."""
        points, budgets = tf.identity(task.images), task.epsilon.numpy()
        for budget in np.unique(budgets[budgets > 0]):
            rows = tf.constant(np.flatnonzero(budgets == budget))
            points = put(points, rows, self.method.points(logits_fn, take(task, rows), float(budget)))
        slack = 1e-6 * np.maximum(budgets, 1.0)
        outside = lp.norms(points.numpy().astype(np.float64) - task.images.numpy(), self.norm) > budgets + slack
        points = choose(tf.constant(outside), lp.project_inside(points, task.images, task.epsilon, self.norm), points)
        return kinds.Perturbed(points, logits_fn.compiled(predict_logits)(points), {"projected": tf.constant(outside)})


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class ForeignSearch(_Wrapped, kinds.SearchAttack):
    """A minimal-distance attack of another library."""

    def search(self, logits_fn: LogitsFunction, task: Task) -> kinds.Found:
        """The method's answer."""
        return kinds.Found(self.method.points(logits_fn, task, None))


def wrapped(method: Method, minimal: bool, **options: Any) -> ForeignAttack | ForeignSearch:
    """A method as one of our attacks.

    Args:
        method: the method.
        minimal: whether it looks for the smallest distance, and takes no ε.
        **options: ``bounds``, ``batch_size``, ``seed`` and ``progress``, as with every attack.
    """
    return (ForeignSearch if minimal else ForeignAttack)(method=method, **options)


def _logits(dtype: tf.DType, logits_fn: LogitsFunction, images: tf.Tensor) -> tf.Tensor:
    return tf.cast(logits_fn(tf.cast(images, dtype)), tf.float32)


def _gradient(
    dtype: tf.DType, loss_fn: Callable[..., tf.Tensor], logits_fn: LogitsFunction, images: tf.Tensor, labels: tf.Tensor
) -> tf.Tensor:
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(images)
        loss = loss_fn(labels=labels, logits=_logits(dtype, logits_fn, images))
    return gradient_of(tape, loss, images)
