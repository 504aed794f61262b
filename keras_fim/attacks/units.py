"""Unit coordinates, in which every attack runs: the smallest pixel value is 0 and the largest is 1.

So no option of an attack depends on the range of the pixels, and the same model behind a rescaling is attacked in the
same way.
"""

import numpy as np
import tensorflow as tf

from keras_fim.logits import LogitsFunction
from keras_fim.typing import Bounds


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
