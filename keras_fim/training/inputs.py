"""A dataset as a model takes it: image shape, range of the pixels, classes, and what it was trained on."""

import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_fim import models
from keras_fim.arguments import require
from keras_fim.data import DatasetInfo, Source, evaluated, load, names, open_source, splits
from keras_fim.evaluation import samples
from keras_fim.logits import LogitsFunction
from keras_fim.pixels import PixelRange, find_range, range_by_accuracy, range_of_model
from keras_fim.training import config, trained
from keras_fim.typing import Bounds

_PROBED = 512  # images that tell the range of the pixels


class DataOptions(NamedTuple):
    """A dataset, and how a model takes its images.

    Attributes:
        name: As in `keras_fim.data.open_source`; "" for the one that a model was trained on, where that will do.
        data_dir: The folder in which TensorFlow Datasets keeps its data.
        image_size: Height and width of the images, for a model that takes any.
        bounds: The smallest and the largest pixel value that the model takes; ``None`` to find out.
    """

    name: str
    data_dir: str | None = None
    image_size: int | None = None
    bounds: Sequence[float] | None = None


def image_shape(model: Any, size: int | None = None, dataset: Sequence[int] | None = None) -> tuple[int, ...] | None:
    """The shape of the images that a model takes.

    Args:
        model: A Keras model, or any callable, which says nothing.
        size: Height and width for a model that takes any.
        dataset: The shape of a dataset's images, for what neither of the two says.

    Returns:
        ``(height, width, channels)``; None where it is not known, or the model takes no images of one or three
        channels.

    Raises:
        ValueError: If ``size`` contradicts the model.
    """
    stated = getattr(model, "input_shape", None)
    taken = stated if isinstance(stated, tuple) else (None, None, None, None)
    if len(taken) != 4 or taken[3] not in (None, 1, 3):
        return None
    given = (size, size, None) if size else (None, None, None)
    if any(own is not None and other is not None and own != other for own, other in zip(taken[1:], given, strict=True)):
        raise ValueError(f"`--image-size` should be that of the model, {taken[1]}x{taken[2]}. Received: {size}")
    sides = zip(taken[1:], given, dataset or (None, None, None), strict=True)
    shape = tuple(int(own or other or last or 0) for own, other, last in sides)
    return shape if all(shape) else None


def open_for(model: Any, options: DataOptions, record: dict[str, Any] | None = None) -> Source:
    """Open a dataset in the shape that a model takes, with its classes in the order of the model's, if on record.

    Args:
        model: As in `image_shape`.
        options: The dataset.
        record: The record of the model's run, or None.

    Returns:
        The dataset.

    Raises:
        ValueError: As `keras_fim.data.open_source`, or if it has more classes than the model.
    """
    names = (record or {}).get("config", {}).get("class_names")
    shape = image_shape(model, options.image_size)
    source = open_source(options.name, options.data_dir, image_shape=shape, class_names=names)
    if shape is None and (complete := image_shape(model, options.image_size, source.info.image_shape)):
        source = source._replace(info=source.info._replace(image_shape=complete))
    check_outputs(model, source.info)
    return source


def model_for(source: str | Path, options: DataOptions) -> keras.Model:
    """`load_model`, in which what builds a model gets the image shape and the number of classes of a dataset.

    Args:
        source: As in `load_model`.
        options: The dataset, if there is one.

    Returns:
        The model.

    Raises:
        ValueError: As `load_model` and `keras_fim.data.open_source`.
    """
    if not options.name or not trained.builds(source):
        return trained.load_model(source)
    facts = open_for(None, options).info
    return trained.load_model(source, image_shape=facts.image_shape, num_classes=facts.num_classes)


def described_recipe(options: DataOptions, **changes: Any) -> config.TrainingConfig:
    """`recipe` for any dataset and any model: looks at both, and tells image shape, classes and range of the pixels.

    Args:
        options: The dataset; its bounds are needed for a model that does not begin with a rescaling.
        **changes: Attributes of `TrainingConfig` that replace those of the recipe; ``model`` is a source of
            `load_model`.

    Returns:
        `TrainingConfig`.

    Raises:
        ValueError: As `load_model`, `open_for` and `model_range`.
    """
    name, data, bounds = changes.get("model"), options.name, options.bounds
    if name is None or name in models.MODELS:
        changes["bounds"] = bounds and [float(end) for end in bounds]
        if data in names() and options.image_size is None:
            return config.recipe(data, **changes)
        facts = open_for(None, options).info
        return config.recipe(data, facts=facts, image_shape=list(facts.image_shape), **changes)
    record = trained.record_of(name)
    model = None if trained.builds(name) else trained.load_model(name)
    facts = open_for(model, options, record).info
    if model is None:
        model = trained.load_model(name, image_shape=facts.image_shape, num_classes=facts.num_classes)
        pixels = find_range(model, bounds=(bounds[0], bounds[1])) if bounds else range_of_model(model)
    else:
        images = load(data, 64, data_dir=options.data_dir, image_shape=facts.image_shape)[1]
        pixels = model_range(model, images, bounds, record)
    ends = pixels.bounds if pixels else (0.0, 1.0)
    if any(isinstance(end, tuple) for end in ends):
        raise ValueError(f"`--model` should take one range of pixels for all channels. Received: {pixels}")
    settings = {"image_shape": list(facts.image_shape), "bounds": [float(np.max(end)) for end in ends]}
    return config.recipe(data, facts=facts, trained=not trained.builds(name), **{**settings, **changes})


class EvaluatedImages(NamedTuple):
    """Test images as a model takes them.

    Attributes:
        dataset: Batches of images, in the range and the shape that the model takes, and labels.
        pixels: The range.
        facts: What the dataset is.
        part: Which of the images these are, in words; "" where there is a test part.
        file_names: The names of the images' files in the folder; empty where they come from elsewhere.
        flags: For `keras_fim.evaluation.Evaluation.flags`: that the model was trained on some of the images.
    """

    dataset: tf.data.Dataset
    pixels: PixelRange
    facts: DatasetInfo
    part: str
    file_names: tuple[str, ...]
    flags: tuple[str, ...]


def evaluated_images(
    source: str | Path, model: Any, options: DataOptions, max_samples: int, *, only: str | None = None
) -> EvaluatedImages:
    """The images of a dataset on which a model is evaluated; a warning counts those that it was trained on.

    Args:
        source: The source of the model, for its record.
        model: The model, or its `keras_fim.logits.LogitsFunction`.
        options: The dataset.
        max_samples: The number of images of a dataset that is not in memory, the same number per class as far as
            possible; one that is in memory is left whole.
        only: The name of the class whose images are taken; ``None`` for all.

    Returns:
        `EvaluatedImages`.

    Raises:
        ValueError: As `open_for` and `model_range`, or if the images do not fit the model.
    """
    keras_model = model.model if isinstance(model, LogitsFunction) else model
    record = None if (Path(source) / "saved_model.pb").is_file() else trained.record_of(source)
    opened, data = open_for(keras_model, options, record), options.name
    own = record is not None and record["config"]["data"] == data
    dataset, split = evaluated(opened, max_samples, unseen=own, only=None if only is None else opened.info.label(only))
    flags = trained.warn_of_seen(source, dataset, max_samples)
    which = "the 20 % that the run of the model did not train on" if own else "all images are taken"
    part = "" if opened.whole is None else f"{data} has no test part: {which}, {len(split.labels)} images"
    part += "; if the model was trained on some of them, its figures are too good" if part and not own else ""
    shape = _written(keras_model, opened.info.image_shape)
    enough = only is None and max_samples >= _PROBED
    probed = dataset if enough or options.bounds else evaluated(opened, _PROBED, unseen=own)[0]
    pixels = model_range(model, in_range(probed, (0.0, 1.0), shape), options.bounds, record)
    paths = split.paths.tolist() if isinstance(split, splits.Files) else []
    names = tuple(os.path.relpath(path, Path(data).expanduser()) for path in paths)
    return EvaluatedImages(in_range(dataset, pixels.bounds, shape), pixels, opened.info, part, names, flags)


def _written(model: Any, shape: Sequence[int]) -> tuple[int, ...] | None:
    """The shape in which a model takes the values of an image; None for that of the image."""
    taken = getattr(model, "input_shape", None)
    if not isinstance(taken, tuple) or None in taken[1:] or taken[1:] == tuple(shape):
        return None
    if math.prod(taken[1:]) != math.prod(shape):
        raise ValueError(f"`--model` should take images {tuple(shape)}. Received: a model for {taken[1:]}")
    return tuple(taken[1:])


def check_outputs(model: Any, facts: DatasetInfo) -> None:
    """Raise a ValueError if a dataset has more classes than a model."""
    shape = getattr(model, "output_shape", None)
    if not isinstance(shape, tuple) or not shape[-1]:
        return
    count = 2 if shape[-1] == 1 else shape[-1]
    names = ", ".join(facts.class_names[:10]) + (", ..." if facts.num_classes > 10 else "")
    expected = f"The dataset {facts.name} should have at most the {count} classes of the model"
    require(facts.num_classes <= count, f"{expected}. Received: {facts.num_classes} classes ({names})")


def model_range(
    model: Any, dataset: tf.data.Dataset, bounds: Sequence[float] | None = None, record: dict[str, Any] | None = None
) -> PixelRange:
    """The range of pixel values that a model takes, given images that are at hand in [0, 1].

    Args:
        model: The classifier, or its `keras_fim.logits.LogitsFunction`.
        dataset: Images in [0, 1], in the shape that the model takes, and their labels.
        bounds: What the caller says.
        record: The record of the model's run, if there is one.

    Returns:
        What is given, what the model begins with, what is on record, or the usual range in which it classifies best; a
        warning says if another one is about as likely.

    Raises:
        ValueError: If none can be told.
    """
    if bounds is not None:
        return find_range(model, bounds=(bounds[0], bounds[1]))
    if told := range_of_model(model):
        return told
    if record is not None:
        return recorded_range(record)
    images, labels = samples(dataset, 512)
    pixels = range_by_accuracy(model, images, labels, scale=True)
    if pixels.doubt:
        warnings.warn(f"{pixels}; {pixels.doubt}", stacklevel=2)
    return pixels


def recorded_range(record: dict[str, Any]) -> PixelRange:
    """The range of the pixels in the record of a run."""
    low, high = record["config"].get("bounds") or (0.0, 1.0)
    return PixelRange(float(low), float(high), "found from the record of its run")


def in_range(dataset: tf.data.Dataset, bounds: Bounds, shape: Sequence[int] | None = None) -> tf.data.Dataset:
    """Batches of images in [0, 1] in another range, and in another shape if one is given."""
    low, high = (tf.constant(np.asarray(end), tf.float32) for end in bounds)
    if shape is not None:
        dataset = dataset.map(lambda images, labels: (tf.reshape(images, (-1, *shape)), labels))
    if bounds == (0.0, 1.0):
        return dataset
    return dataset.map(lambda images, labels: (low + (high - low) * images, labels))
