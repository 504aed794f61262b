"""Which pixel values a model takes, and how that is known."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_fim import inspection, validation
from keras_fim.arguments import checked, expect
from keras_fim.logits import LogitsFunction, classes_of, logits_function, predict_logits
from keras_fim.typing import Bounds, Images, Labels, Model

_USUAL = ((0.0, 1.0), (0.0, 255.0), (-1.0, 1.0))
_CLOSE = 0.01  # of the range: 255/256 is 1
_SCALINGS = {"Rescaling", "TrueDivide", "Divide", "Multiply", "Add", "Subtract"}
_UNSCALED = (
    keras.layers.InputLayer, keras.layers.Resizing, keras.layers.CenterCrop, keras.layers.RandomCrop,
    keras.layers.RandomFlip, keras.layers.RandomRotation, keras.layers.RandomTranslation, keras.layers.RandomZoom,
    keras.layers.RandomContrast, keras.layers.RandomBrightness, keras.layers.Dropout, keras.layers.GaussianNoise,
    keras.layers.Reshape, keras.layers.Cropping2D,
)  # fmt: skip
_MAX_CHECKED = 512  # images whose accuracy is measured


@dataclasses.dataclass(frozen=True)
class PixelRange:
    """The smallest and the largest pixel value that a model takes; prints as ``pixels 0..255, found from ...``.

    Attributes:
        low: A number, or one for each channel.
        high: As ``low``.
        origin: How it is known, in words; ``"as given"`` for what the caller said.
        doubt: A flag for `keras_fim.evaluation.Evaluation.flags` where another range is about as likely; or nothing.
    """

    low: float | tuple[float, ...]
    high: float | tuple[float, ...]
    origin: str = "as given"
    doubt: str = ""

    @property
    def bounds(self) -> Bounds:
        """Both ends, as attacks take them."""
        return self.low, self.high

    @property
    def given(self) -> bool:
        """Whether the caller said so."""
        return self.origin == "as given"

    def clip(self, images: Images) -> tuple[tf.Tensor, int]:
        """Images within the range, and how many were outside by a rounding error.

        Args:
            images: ``(batch, ...)``.

        Returns:
            The images, clipped, and the number of those that were changed.

        Raises:
            ValueError: If one is outside by more than 0.5/255 of the range, or as `keras_fim.validation.check_images`.
        """
        return validation.clipped(validation.check_images(images), self.bounds)

    def __str__(self) -> str:
        return f"pixels {_text(self.low)}..{_text(self.high)}, {self.origin}"


@checked
def find_range(
    model: Model, images: Images | None = None, labels: Labels | None = None, bounds: Bounds | PixelRange | None = None
) -> PixelRange:
    """The range of pixel values that a model takes: what is given, or what the model or its accuracy says.

    A model says it by a leading ``Rescaling`` or ``Normalization``, or by leading arithmetic like that of
    ``preprocess_input``, also inside of a nested application. Of another one the images themselves decide, if the
    accuracy on them is above chance and no smaller than on the same images scaled to the other usual ranges.

    Args:
        model: Any classifier that `keras_fim.logits.logits_function` takes.
        images: ``(batch, ...)``, as the model takes them.
        labels: Their classes.
        bounds: What the caller says: the smallest and the largest value, or a tuple of them for each channel.

    Returns:
        `PixelRange`.

    Raises:
        ValueError: If the range cannot be told, or images contradict it.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Rescaling(1 / 255), keras.layers.Dense(3)])
        >>> print(find_range(model))
        pixels 0..255, found from Rescaling(1/255)
    """
    if isinstance(bounds, PixelRange):
        return bounds
    if bounds is not None:
        return PixelRange(*validation.check_bounds(bounds))
    told = range_of_model(model, images)
    if told is not None:
        high = float(np.max(images)) if images is not None and np.size(images) else 0.0
        received = f"values up to {high:g}, as of images scaled to 0..1; pass bounds if they are meant so"
        fits = np.max(told.high) <= 2 or not 0 < high <= 1
        expect(fits, "images", f"in the range that the model takes: {told}", received=received)
        return told
    silent = "the model does not begin with a rescaling that tells it, and images without labels do not"
    expected = f"(lowest, highest) pixel value: {silent}; pass them (--bounds LOW HIGH)"
    expect(images is not None and labels is not None, "bounds", expected, received="bounds=None")
    return range_by_accuracy(model, images, labels)


def range_of_model(model: Any, images: Images | None = None) -> PixelRange | None:
    """What the leading layers of a model say.

    Args:
        model: Anything.
        images: Any; where a ``Normalization`` leaves a doubt, negative values tell -1..1 from 0..1.

    Returns:
        `PixelRange`, or None where they say nothing.
    """
    model = getattr(model, "_logits_fn", model)  # of a defense
    model = model.model if isinstance(model, LogitsFunction) else model
    if inspection.single_input(model) is None:
        return None
    scale, offset, names = 1.0, 0.0, ""
    for operation in _operations(model):
        name = type(operation).__name__
        if isinstance(operation, keras.layers.Normalization):
            return None if names else _range_of_normalization(operation, images)
        if name in _SCALINGS:
            factor, shift = _affine(operation)
            scale, offset = scale * factor, offset * factor + shift
            names = f"{names}, {name}" if names else name
            if usual := _usual_input(scale, offset):
                return PixelRange(*usual, f"found from {_formula(names, scale, offset)}")
        elif not isinstance(operation, _UNSCALED):
            break
    if names and np.ndim(scale) == 0 and not np.any(offset) and scale > 0:  # such as of 16 bits
        return PixelRange(0.0, float(1 / scale), f"found from {_formula(names, scale, offset)}")
    return None


def check_contradiction(model: Model, images: Images, bounds: Bounds) -> None:
    """Raise a ValueError if a model says that it takes another range of pixel values than ``bounds``."""
    told = range_of_model(model, images)
    expect(told is None or np.allclose(bounds, told.bounds, rtol=0.01), "bounds", f"those of the model: {told}", bounds)


def images_in_range(model: Model, images: Images, bounds: Bounds | PixelRange | None = None) -> tf.Tensor:
    """Checked images for what needs no range itself, such as a spectrum.

    Args:
        model: Any classifier that `keras_fim.logits.logits_function` takes.
        images: ``(batch, ...)``.
        bounds: As of `find_range`.

    Returns:
        The images, within the range if it is given or the model says it.

    Raises:
        ValueError: If they are outside, or look as if they were scaled to 0..255 and nothing says that the model takes
            that, or the model has no gradient to such images, or as `keras_fim.validation.check_images`.
    """
    checked = validation.check_images(images)
    if bounds is not None or range_of_model(model, images) is not None:
        return find_range(model, images, bounds=bounds).clip(checked)[0]
    low, high = float(tf.reduce_min(checked)), float(tf.reduce_max(checked))
    if tf.convert_to_tensor(images).dtype.is_integer or (low >= 0 and 1.5 < high <= 255.5):
        logits_function(model, checked).check_gradient(checked[:1])  # token ids have no range
        raise ValueError(
            "`images` should be in the range that the model takes, and nothing says that it takes these: pass "
            f"bounds=(0, 255) if it does, or scale them. Received: values from {low:g} to {high:g}"
        )
    return checked


def range_by_accuracy(model: Model, images: Images, labels: Labels, *, scale: bool = False) -> PixelRange:
    """The usual range in which a model classifies images well.

    Args:
        model: As in `find_range`.
        images: ``(batch, ...)``; the first 512 are looked at.
        labels: Their classes.
        scale: Whether the images, which are in [0, 1], may be scaled to the range in which the model classifies them
            best; otherwise the range is that of the images, which no other one may beat by more than chance.

    Returns:
        `PixelRange`.

    Raises:
        ValueError: If the range cannot be told.
    """
    images = validation.check_images(images[:_MAX_CHECKED])
    low, high = float(tf.reduce_min(images)), float(tf.reduce_max(images))
    ranges = (_USUAL[0], (-0.5, 0.5), _USUAL[2], _USUAL[1])[: 4 if high > 10 else 3]  # 0..255 needs more than 10
    own = next((usual for usual in ranges if bool(tf.reduce_all(validation.inside_or_not(images, usual)[1]))), None)
    if own is None:
        received = f"bounds=None, with images from {low:g} to {high:g}, which is no usual range"
        raise ValueError(f"`bounds` should be (lowest, highest) pixel value. Received: {received}")
    logits_fn = logits_function(model, images)
    units = (logits_fn.cast(images) - own[0]) / (own[1] - own[0])
    scaled = {usual: usual[0] + (usual[1] - usual[0]) * units for usual in dict.fromkeys((*_USUAL, own))}
    logits = {usual: logits_fn.in_batches(predict_logits, points, batch_size=64) for usual, points in scaled.items()}
    classes = validation.check_labels(np.asarray(labels)[: len(images)], len(images), logits[own].shape[-1])
    right = {usual: classes_of(rows) == classes for usual, rows in logits.items()}
    best = max(right, key=lambda usual: int(right[usual].sum()))
    own = best if scale else own
    beaten = {
        usual: right[best].sum() - mask.sum() > 2 * np.sqrt(np.count_nonzero(right[best] != mask))
        for usual, mask in right.items()
    }
    shares = {usual: f"{100 * mask.mean():.0f} %" for usual, mask in right.items()}
    others = ", ".join(f"{share} at {_text(u[0])}..{_text(u[1])}" for u, share in shares.items() if u != own)
    chance = _chance(logits[own], classes)
    if beaten[own] or right[own].mean() <= chance:
        raise ValueError(
            f"`bounds` should be (lowest, highest) pixel value, because the accuracy does not confirm that the model "
            f"takes these images: it is {shares[own]} on them, at {_text(own[0])}..{_text(own[1])}, and {others} "
            f"(chance: up to {100 * chance:.0f} %). Scale the images or pass bounds. Received: bounds=None"
        )
    likely = [f"{_text(low)}..{_text(high)}" for low, high in right if scale and not beaten[low, high]]
    doubt = f"range of the pixels: accuracy does not tell {' from '.join(likely)}; give bounds (--bounds LOW HIGH)"
    origin = f"found from the images: accuracy {shares[own]} there, {others}"
    return PixelRange(*own, origin, doubt if len(likely) > 1 else "")


def _chance(logits: np.ndarray, classes: np.ndarray) -> float:
    """The accuracy that predictions with these frequencies of the classes could have by chance (two deviations)."""
    count = logits.shape[-1]
    shares = [np.bincount(values, minlength=count) / len(classes) for values in (logits.argmax(axis=-1), classes)]
    expected = float(shares[0] @ shares[1])
    return min(1.0, expected + 2 * float(np.sqrt(expected * (1 - expected) / len(classes))))


def _operations(model: keras.Model) -> Iterator[Any]:
    """The operations of a model in their order, those of nested models in place of these."""
    for operation in getattr(getattr(model, "_functional", model), "operations", [model]):  # of a subclass itself
        nested = hasattr(getattr(operation, "_functional", operation), "operations")
        yield from _operations(operation) if nested else [operation]


def _affine(operation: Any) -> tuple[Any, Any]:
    """The factor and the shift of an operation of `_SCALINGS`."""
    if isinstance(operation, keras.layers.Rescaling):
        return np.asarray(operation.scale, np.float64)[()], np.asarray(operation.offset, np.float64)[()]
    values = [value for value in operation._inbound_nodes[0].arguments.args if not isinstance(value, keras.KerasTensor)]
    value = np.asarray(values[0], np.float64)[()] if len(values) == 1 else np.nan
    name = type(operation).__name__
    factor = {"TrueDivide": 1 / value, "Divide": 1 / value, "Multiply": value}.get(name, 1.0)
    return factor, {"Add": value, "Subtract": -value}.get(name, 0.0)


def _usual_input(scale: Any, offset: Any) -> tuple[float, float] | None:
    """The usual range that a scaling takes to a usual one."""
    for low, high in _USUAL[1:] + _USUAL[:1]:
        ends = np.asarray(low * scale + offset), np.asarray(high * scale + offset)
        for goal in (*_USUAL, (-0.5, 0.5)):
            slack = _CLOSE * (goal[1] - goal[0])
            if all(np.allclose(end, value, rtol=0, atol=slack) for end, value in zip(ends, goal, strict=True)):
                return low, high
    return None


def _range_of_normalization(layer: Any, images: Images | None) -> PixelRange | None:
    mean, variance = (np.asarray(keras.ops.convert_to_numpy(value)) for value in (layer.mean, layer.variance))
    deviation = np.sqrt(variance)
    if layer.invert or not np.all(deviation > 0):
        return None
    negative = images is not None and float(np.min(images)) < 0
    for low, high in (*((_USUAL[2],) if negative else ()), *_USUAL[:2]):
        share = deviation / (high - low)
        if np.all((low <= mean) & (mean <= high) & (share > 0.02) & (share < 0.6)):
            values = f"mean {_text(tuple(mean.ravel()[:3]))}, deviation {_text(tuple(deviation.ravel()[:3]))}"
            return PixelRange(low, high, f"found from Normalization({values})")
    return None


def _formula(names: str, scale: Any, offset: Any) -> str:
    factor = f"1/{1 / scale:g}" if np.ndim(scale) == 0 and 0 < scale < 1 else _text(scale)
    label = "Rescaling" if names == "Rescaling" else "preprocessing"
    return f"{label}({factor}{f', {_text(offset)}' if np.any(offset) else ''})"


def _text(value: Any) -> str:
    return "(" + ", ".join(f"{float(part):g}" for part in np.ravel(value)) + ")" if np.ndim(value) else f"{value:g}"
