"""The contract of attacks: options in the constructor, data in the call, one result type.

An attack is a frozen dataclass. There are two kinds: with a budget ε, the lp norm of its perturbation on the scale of
the images, and those that look for the nearest adversarial and need no ε (`keras_fim.attacks.kinds`). Here is what both
share: from what the user passes in to a `Task` in unit coordinates, and from points there to the result.
"""

import abc
import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral, Real
from typing import Annotated, Any, ClassVar, overload

import keras
import numpy as np
import tensorflow as tf

from keras_fim.arguments import Count, Valid, check_fields, require
from keras_fim.attacks import draws, losses, lp, samples
from keras_fim.attacks.problem import Problem, Units, check_targets
from keras_fim.logits import LogitsFunction, classes_of, logits_function, predict_logits
from keras_fim.typing import AttackResult, Bounds, Images, Labels, Model
from keras_fim.validation import check_bounds, check_images, check_labels

_FLAT = "{} fooled no image: the gradient of the margin is zero or NaN at all of them, and attacks.Square needs none"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attack(abc.ABC):
    """What every attack has.

    All lengths among the options of an attack are shares of the range of the pixels: attacks run in unit coordinates.

    Args:
        bounds: The smallest and the largest pixel value; adversarials stay inside exactly. Or two tuples with one
            value for each channel: ε and distances are then in units of ``(x - low) / (high - low)``.
        batch_size: The number of images worked on at a time, which bounds the memory.
        seed: The seed of all random draws. They depend on it, on the index of a sample in its data set, and on
            nothing else: the same seed and data give the same adversarials.
        progress: Whether to show a progress bar of the images done.
    """

    bounds: Bounds = (0.0, 1.0)
    batch_size: Count = 128
    seed: Annotated[int, Valid(lambda seed: abs(seed) < 2**63, "an integer of 64 bits")] = 0
    base_name: ClassVar[str]
    """The name of the method, for `name`."""
    compiled: ClassVar[bool] = True
    """Whether `FixedBudgetAttack.perturb` and its like can be compiled; those of other libraries cannot."""
    by_gradients: ClassVar[bool] = True
    """Whether it follows gradients of the model, as far as we know."""
    revision: ClassVar[int] = 1
    """Grows whenever the attack's results change, so that figures that were kept are known to be out of date."""

    progress: bool = dataclasses.field(default=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bounds", check_bounds(self.bounds))
        check_fields(self)
        if any(field.name == "norm" for field in dataclasses.fields(self)):
            object.__setattr__(self, "norm", float(self.norm))

    @property
    def name(self) -> str:
        """Unique name, used in the CLI, log keys and files: that of the method and the norm, like ``fmn_l2``."""
        return f"{self.base_name}_{lp.norm_name(self.norm)}"

    @property
    def aimed(self) -> bool:
        """Whether only the prediction of a target is a success (`AimedAttack`)."""
        return False

    @property
    def confirmations(self) -> int:
        """How often a measurement calls the model on a success, which has to be another class in most of the calls.

        As many times as the attack itself draws (``eot_draws``) for a verdict, which then stands.
        """
        return int(getattr(self, "eot_draws", 1))

    @property
    def least_classes(self) -> int:
        """The smallest number of classes for which it is defined."""
        return 2

    @property
    @abc.abstractmethod
    def norm(self) -> float:
        """The p of the lp norm that ε and the distances are in: 0, 1, 2 or inf."""

    @overload
    def __call__(
        self, model: Model, images: tf.data.Dataset, *, epsilon: float | None = None
    ) -> Iterator[AttackResult]: ...

    @overload
    def __call__(
        self, model: Model, images: Images, labels: Labels, *, epsilon: float | None = None, **options: Any
    ) -> AttackResult: ...

    def __call__(
        self, model: Model, images: Images, labels: Labels = None, *, epsilon: float | None = None, **options: Any
    ) -> Any:
        """Attack each image.

        Args:
            model: Any classifier that `keras_fim.logits.logits_function` takes.
            images: ``(batch, ...)``, within `bounds`; or a ``tf.data.Dataset`` of batches of images and labels.
            labels: The true classes: indices ``(batch,)`` or one-hot rows ``(batch, K)``.
            epsilon: The budget >= 0 in the attack's norm, on the scale of the images. An attack that looks for the
                nearest adversarial counts those within it, and all of them without.
            **options: ``indices`` and ``targets`` as in `sweep`.

        Returns:
            `AttackResult`; of a data set, an iterator of one for each of its batches. A sample that was wrong before
            never counts as a success.

        Raises:
            ValueError: If an argument is not valid; see `keras_fim.validation`.

        Warns:
            RuntimeWarning: If it fooled no image and follows gradients, and the gradient of the margin is zero or NaN
                at all images.
        """
        if isinstance(images, tf.data.Dataset):
            return self._stream(model, images, epsilon)
        problem = self._problem(model, images, labels, **options)
        result = self._sweep(problem, [epsilon])[0]
        if getattr(self, "attack", self).by_gradients and result.was_correct.any() and not result.success.any():
            parts = (problem.images[i : i + self.batch_size] for i in range(0, len(problem.images), self.batch_size))
            if not any((problem.logits_fn.in_batches(losses.slope, part) > 0).any() for part in parts):
                warnings.warn(_FLAT.format(self.name), RuntimeWarning, stacklevel=2)
        return result

    def sweep(
        self,
        model: Model,
        images: Images,
        labels: Labels,
        epsilons: Sequence[float | None],
        *,
        indices: Any = None,
        targets: Labels | None = None,
    ) -> list[AttackResult]:
        """One result for each ε, paying what does not depend on it once.

        Args:
            model: As in the call.
            images: As in the call.
            labels: As in the call.
            epsilons: The budgets, each >= 0.
            indices: Each sample's index in its data set, integers ``(batch,)``, on which its random draws depend;
                ``None`` for 0, 1, 2, ...
            targets: The classes aimed at, as ``labels``, for an attack with ``target="given"`` and only then.

        Returns:
            `AttackResult` by ε.

        Raises:
            ValueError: As the call.
        """
        return self._sweep(self._problem(model, images, labels, indices, targets), epsilons)

    @abc.abstractmethod
    def _sweep(self, problem: Problem, epsilons: Sequence[float | None]) -> list[AttackResult]:
        """`sweep`, of what was checked."""

    def _stream(self, model: Model, dataset: tf.data.Dataset, epsilon: float | None) -> Iterator[AttackResult]:
        start = 0
        for images, labels in dataset:
            model, stop = logits_function(model, images), start + len(images)
            yield self(model, images, labels, epsilon=epsilon, indices=np.arange(start, stop))
            start = stop

    def _problem(
        self, model: Model, images: Images, labels: Labels, indices: Any = None, targets: Labels | None = None
    ) -> Problem:
        images = check_images(images, self.bounds)
        logits_fn, count, units = logits_function(model, images), len(images), Units(self.bounds)
        images = logits_fn.cast(images)
        num_classes = logits_fn.compiled(predict_logits)(images[:1]).shape[-1]
        expected = f"at least {self.least_classes} classes for {self.name}. Received: a model of {num_classes} classes"
        require(num_classes >= self.least_classes, f"`model` should have {expected}")
        classes = check_labels(labels, count, num_classes)
        aims = check_targets(targets, getattr(self, "target", ""), classes, num_classes, aimed=self.aimed)
        indices = np.arange(count) if indices is None else np.asarray(indices)
        if indices.shape != (count,) or not np.issubdtype(indices.dtype, np.integer):
            raise ValueError(f"`indices` should be {count} integers. Received: shape={indices.shape}, {indices.dtype}")
        keys = draws.keys_of(self.seed, tf.constant(indices, tf.int64))
        zero = tf.zeros([count], images.dtype)
        task = samples.Task(units.to_units(images), tf.constant(classes), zero, keys, tf.constant(aims))
        return Problem(logits_fn, images, units, task, self.aimed)

    def _function(self, method: Callable[..., Any], logits_fn: LogitsFunction) -> Callable[..., Any]:
        """``method(self, logits_fn, ...)`` as a function of tensors, compiled if the attack can be."""
        if not self.compiled:
            return functools.partial(method, self, logits_fn)
        return logits_fn.compiled(method, self._essence())

    def _essence(self) -> Any:
        """The attack without what its compiled functions do not depend on."""
        plain: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(Attack)}
        return dataclasses.replace(self, **plain)

    def _batches(self, count: int) -> Iterator[slice]:
        """Slices of ``batch_size`` samples."""
        bar = keras.utils.Progbar(count, verbose=int(self.progress), unit_name="image")
        for start in range(0, count, self.batch_size):
            yield slice(start, start + self.batch_size)
            bar.update(min(start + self.batch_size, count))

    def _predictions(self, logits_fn: LogitsFunction, images: tf.Tensor) -> np.ndarray:
        """The predicted classes of images, int64 ``(n,)``; -1 for an answer of NaN."""
        return classes_of(logits_fn.in_batches(predict_logits, images, batch_size=self.batch_size))

    def _in_pixels(self, problem: Problem, reached: tf.Tensor) -> tuple[tf.Tensor, np.ndarray]:
        """Points reached in unit coordinates as pixels, and the classes predicted there.

        Where the pixels that have not changed are restored to the last digit, a point next to the boundary may be on
        its other side. It comes back as the model has seen it then.
        """
        start = problem.task.images
        points = problem.units.returned(reached, start, problem.images)
        moved = tf.reduce_any(reached != start, axis=tuple(range(1, reached.shape.rank)))
        predictions = self._predictions(problem.logits_fn, points)
        standing = np.flatnonzero(~problem.fooled(predictions) & moved)
        if not problem.units.identity and len(standing):
            seen = problem.units.to_pixels(tf.gather(reached, standing))
            again = self._predictions(problem.logits_fn, seen)
            hit = problem.fooled(again, standing)
            points = samples.put(points, tf.constant(standing[hit]), tf.boolean_mask(seen, hit))
            predictions[standing] = again
        return points, predictions


def _is_target(target: Any) -> bool:
    number = isinstance(target, Integral) and not isinstance(target, bool)
    return target in (None, "given") or (number and int(target) >= 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AimedAttack(Attack):
    """An attack with the option ``target``: only the prediction of that class is then a success.

    It raises the negative of its loss for the target in place of the loss for the label. Images whose label is their
    target are left out: they come back unchanged and count as neither correct nor fooled. A result's
    ``details["target"]``, int64 ``(batch,)``, holds the targets.

    Args:
        target: The class that should be predicted, an integer; ``"given"`` for one class per sample, passed with each
            call as ``targets``; ``None`` for any wrong class.
    """

    target: Annotated[int | str | None, Valid(_is_target, "a class >= 0, 'given' or None")] = None

    @property
    def aimed(self) -> bool:
        """Whether there is a target."""
        return self.target is not None

    @property
    def name(self) -> str:
        """Unique name, with the target if there is one, like ``pgd_linf`` or ``pgd_linf_to_3``."""
        return f"{super().name}{self._suffix}"

    @property
    def _suffix(self) -> str:
        return "" if self.target is None else f"_to_{self.target}"

    def _aims(self, task: samples.Task, loss: str = "") -> tf.Tensor | None:
        """The task's targets, if there is a target, or if a loss that is raised has one; ``None`` otherwise."""
        return task.target if self.aimed or loss in losses.TARGETED_LOSSES else None

    def _essence(self) -> Any:
        """The class is an argument of the compiled functions, not part of them."""
        plain = super()._essence()
        return plain if self.target is None else dataclasses.replace(plain, target="given")


def check_epsilons(epsilons: Sequence[float | None], *, infinite: bool = False) -> list[float]:
    """Budgets as floats.

    Raises:
        ValueError: if one is missing, negative, NaN or (unless allowed) infinite.
    """
    for epsilon in epsilons:
        if not isinstance(epsilon, Real) or not (0 <= epsilon < np.inf or (infinite and epsilon == np.inf)):
            raise ValueError(f"`epsilon` should be a finite number >= 0. Received: epsilon={epsilon!r}")
    return [float(epsilon) for epsilon in epsilons]  # type: ignore[arg-type]
