"""What an attack is called on, checked: pixels, the same images in unit coordinates, and the classes to aim at."""

import dataclasses
from numbers import Integral
from typing import Any

import numpy as np
import tensorflow as tf

from keras_fim.arguments import expect, require
from keras_fim.attacks import draws, losses, lp, samples
from keras_fim.logits import LogitsFunction
from keras_fim.typing import Bounds, Labels
from keras_fim.validation import check_labels


class Units:
    """The affine map between pixels within bounds and unit coordinates; for bounds (0, 1) it returns what it is given.

    Attributes:
        bounds: The smallest and the largest pixel value, or a pair of tuples with one value for each channel.
        scale: How long a unit of ε is in unit coordinates: the range of the pixels; 1 with bounds for each channel,
            because ε is in unit coordinates then.
    """

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.identity = bounds == (0.0, 1.0)
        self.scale = 1.0 if isinstance(bounds[0], tuple) else float(np.subtract(bounds[1], bounds[0]))

    def to_units(self, pixels: tf.Tensor) -> tf.Tensor:
        """Pixels ``(batch, ...)`` in unit coordinates."""
        if self.identity:
            return pixels
        low, high = self._ends(pixels.dtype)
        return tf.clip_by_value((pixels - low) / (high - low), 0, 1)

    def to_pixels(self, points: tf.Tensor) -> tf.Tensor:
        """Points ``(batch, ...)`` in unit coordinates as pixels, inside the bounds exactly."""
        return points if self.identity else tf.clip_by_value(self.spread(points), *self._ends(points.dtype))

    def spread(self, points: tf.Tensor) -> tf.Tensor:
        """`to_pixels` up to rounding, and with a gradient at the bounds, too."""
        low, high = self._ends(points.dtype)
        return low + (high - low) * points

    def returned(self, points: tf.Tensor, start: tf.Tensor, pixels: tf.Tensor) -> tf.Tensor:
        """`to_pixels`, but exactly the ``pixels`` where ``points`` are still where they started."""
        return points if self.identity else tf.where(points == start, pixels, self.to_pixels(points))

    def logits_fn(self, logits_fn: LogitsFunction) -> LogitsFunction:
        """The classifier as a function of unit coordinates; the same one each time, kept with the classifier."""
        if self.identity:
            return logits_fn
        if self.bounds not in logits_fn.views:
            logits_fn.views[self.bounds] = _InUnits(logits_fn, self)
        return logits_fn.views[self.bounds]

    def span(self, dtype: tf.DType) -> tf.Tensor:
        """The length of a unit in pixels: a scalar, or one value for each channel."""
        low, high = self._ends(dtype)
        return high - low

    def _ends(self, dtype: tf.DType) -> list[tf.Tensor]:
        return [tf.constant(np.asarray(end, np.float64), dtype) for end in self.bounds]


class _InUnits(LogitsFunction):
    """A classifier as a function of unit coordinates."""

    def __init__(self, logits_fn: LogitsFunction, units: Units) -> None:
        super().__init__(logits_fn.model, logits_fn.form)
        self.pixels_fn, self.units = logits_fn, units

    def __call__(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Logits of points in unit coordinates."""
        return self.pixels_fn(self.units.spread(images), training=training)


def in_pixels(logits_fn: LogitsFunction, points: tf.Tensor) -> tuple[LogitsFunction, tf.Tensor]:
    """What an attack is given, in the coordinates of the model: the classifier, and points as pixels."""
    if isinstance(logits_fn, _InUnits):
        return logits_fn.pixels_fn, logits_fn.units.spread(points)
    return logits_fn, points


TARGETS = ("least_likely", "second", "random", "given")
"""Ways to choose it: the least probable wrong class, the most probable one, any, or one given with each call."""


def choose_targets(target: str, task: samples.Task, logits: tf.Tensor) -> tf.Tensor:
    """Wrong classes to aim at.

    Args:
        target: One of `TARGETS`.
        task: What the attack is called on.
        logits: ``(batch, K)`` of its images.

    Returns:
        int64 ``(batch,)``.
    """
    if target == "given":
        return task.target
    if target == "random":
        num_classes = logits.shape[-1]
        return (task.labels + 1 + draws.integers(task.keys, (), num_classes - 1)) % num_classes
    return tf.argmax(losses.others(-logits if target == "least_likely" else logits, task.labels), axis=-1)


def check_targets(
    targets: Labels | None, target: int | str | None, labels: np.ndarray, num_classes: int, *, aimed: bool = False
) -> np.ndarray:
    """The targets of a call.

    Args:
        targets: Classes, as labels, or ``None``.
        target: How the attack chooses them: ``"given"`` if they come with the call, or the one class.
        labels: The true classes, int64 ``(batch,)``.
        num_classes: K.
        aimed: Whether samples whose label is their target are left out, so that there may be some.

    Returns:
        int64 ``(batch,)``; the labels if no targets come with the call.

    Raises:
        ValueError: if they are missing, superfluous, no classes, or the true labels.
    """
    expect((targets is not None) == (target == "given"), "targets", "passed with target='given' and only then", targets)
    if isinstance(target, Integral):
        expect(int(target) < num_classes, "target", f"a class from 0 to {num_classes - 1}", target)
        return np.full_like(labels, int(target))
    if targets is None:
        return labels
    classes = check_labels(targets, len(labels), num_classes)
    require(aimed or not np.any(classes == labels), "`targets` should differ from the true labels. Received: a label")
    return classes


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
    task: samples.Task
    aimed: bool = False

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
        labels, targets = self.task.labels.numpy()[rows], self.task.target.numpy()[rows]
        return np.asarray(predictions == targets if self.aimed else predictions != labels)

    def details(self, more: dict[str, Any]) -> dict[str, np.ndarray]:
        """Details of a result, with the targets if there are any."""
        aims = {"target": self.task.target} if self.aimed else {}
        return {key: np.asarray(value) for key, value in {**more, **aims}.items()}

    def distances(self, points: tf.Tensor, pixels: np.ndarray, norm: float) -> np.ndarray:
        """Norms of the perturbations in pixels, float64 ``(n,)``; in unit coordinates with bounds for each channel."""
        if norm and isinstance(self.units.bounds[0], tuple):
            return lp.norms(np.asarray(points, np.float64) - self.task.images.numpy(), norm)
        return lp.norms(pixels.astype(np.float64) - self.images.numpy(), norm)
