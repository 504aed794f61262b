"""From any classifier to a function that returns its logits."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_fim.typing import Images, Model

__all__ = ["LogitsFunction", "logits_function"]

_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
_WEIGHTED = (keras.layers.Dense, keras.layers.EinsumDense, *_CONVOLUTIONS)
_PASSED_THROUGH = (keras.layers.Dropout, keras.layers.ActivityRegularization)
_ATTRIBUTE = "_keras_fim_logits_function"
_HELP = "pass keras_fim.logits.logits_function(model, from_logits=True) in its place if the model returns logits"


class LogitsFunction:
    """A classifier as a function from images to logits; made by `logits_function`, accepted wherever a model is.

    Attributes:
        model: what it calls.
        form: what ``model`` returns: ``"logits"``, ``"softmax"`` (a Keras softmax, whose logits Keras keeps),
            ``"probabilities"`` (of which the logarithm is taken) or ``"method"`` (it has a method ``logits``).
    """

    def __init__(self, model: Any, form: str) -> None:
        self.model, self.form = model, form
        self.outputs = getattr(model, "outputs", None)  # a Sequential that changes gets others
        self._compiled: dict[Any, Any] = {}
        self.views: dict[Hashable, LogitsFunction] = {}  # this classifier on other coordinates, by their name

    def __call__(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Logits of images.

        Args:
            images: ``(batch, ...)`` in the range that the model takes.
            training: whether layers such as dropout act as in training.

        Returns:
            ``(batch, K)``, float32 (float64 from a float64 model).
        """
        if self.form == "method":
            return _at_least_float32(self.model.logits(images, training=training))
        return self.of(self.called(images, training))

    def called(self, images: tf.Tensor, training: bool = False) -> Any:
        """What the model itself returns, as it does for its user; arguments as of the call."""
        return _call(self.model, images, training)

    def of(self, outputs: Any) -> tf.Tensor:
        """Logits behind what the model returned, of any form but ``"method"``.

        Args:
            outputs: ``(batch, K)``, untouched.

        Returns:
            As the call.
        """
        if self.form == "softmax":
            return _at_least_float32(outputs._keras_logits)
        outputs = _at_least_float32(outputs)
        if self.form == "probabilities":
            return tf.math.log(tf.maximum(outputs, np.finfo(outputs.dtype.as_numpy_dtype).tiny))
        return outputs

    def cast(self, images: tf.Tensor) -> tf.Tensor:
        """Images in the dtype that the model works on: float64 for a float64 Keras model, float32 for others.

        Of a callable that is not a Keras layer nothing is known: float64 images stay float64.
        """
        if isinstance(self.model, keras.layers.Layer):
            inputs = getattr(self.model, "inputs", None)
            double = (inputs[0].dtype if inputs else self.model.compute_dtype) == "float64"
        else:
            double = images.dtype == tf.float64
        return tf.cast(images, tf.float64 if double else tf.float32)

    def compiled(self, function: Callable[..., Any], *static: Hashable) -> Callable[..., Any]:
        """``function(*static, self, *tensors)`` as a compiled function of tensors.

        It is traced once for each image shape and dtype, whatever the batch size, and kept here, so that it goes when
        the model goes.

        Args:
            function: what to compile; tensors of rank >= 1 come with a batch axis of unknown length. They may be
                nested in tuples.
            *static: hashable arguments before this logits function.

        Returns:
            A function of the remaining, tensor arguments.
        """

        def call(*tensors: Any) -> Any:
            specs = tf.nest.map_structure(_spec, tensors)
            key = (function, static, specs)
            if key not in self._compiled:
                bound = functools.partial(function, *static, self)
                self._compiled[key] = tf.function(bound, input_signature=specs)
            return self._compiled[key](*tensors)

        return call

    def in_batches(
        self, function: Callable[..., Any], images: Any, *static: Hashable, batch_size: int = 256
    ) -> Any:
        """``function(*static, self, images)``, compiled, a batch at a time.

        Args:
            function: Returns a tensor with a batch axis, or a structure of them.
            images: ``(n, ...)``, at least one.
            *static: The hashable arguments before this logits function.
            batch_size: The number of images worked on at a time.

        Returns:
            The same structure of arrays with ``n`` entries.
        """
        call, parts = self.compiled(function, *static), []
        for start in range(0, len(images), batch_size):
            batch = self.cast(tf.convert_to_tensor(images[start : start + batch_size]))
            parts.append(tf.nest.map_structure(lambda tensor: tensor.numpy(), call(batch)))
        return tf.nest.map_structure(lambda *columns: np.concatenate(columns), *parts)

    def __repr__(self) -> str:
        return f"LogitsFunction({getattr(self.model, 'name', self.model)!r}, form={self.form!r})"


def logits_function(model: Model, images: Images | None = None, *, from_logits: bool | None = None) -> LogitsFunction:
    """The logits function of a classifier.

    A model with a method ``logits(images, training)`` is asked for them. Behind a Keras softmax (an activation or a
    layer) the logits are found without loss. A dense or convolutional last layer without activation returns logits.
    Of anything else one batch is tried: rows >= 0 that sum to 1 are probabilities, whose logarithm serves as logits.

    The result keeps what is compiled for the model. A Keras model keeps its result, too; a plain callable, a path, or
    a call with ``from_logits`` gets a new one each time. Call this once for such a model and pass the result on in its
    place: attacks and spectra would otherwise be traced anew at each of their calls.

    Args:
        model: a Keras model; any callable on images; the path of a ``.keras`` file or of a SavedModel; a
            `LogitsFunction`, which is returned as it is.
        images: a batch of images to try the model on; ``None`` makes one where the model states its input shape.
        from_logits: True says that the model returns logits, False that it returns probabilities, ``None`` finds out.

    Returns:
        `LogitsFunction`; the same one each time for the same Keras model, unless ``from_logits`` is given.

    Raises:
        ValueError: if it does not exist, does not return one row per image, or what it returns cannot be told.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, activation="softmax")])
        >>> logits_function(model).form
        'softmax'
    """
    if isinstance(model, LogitsFunction):
        return model
    if isinstance(model, (str, os.PathLike)):
        model = _load(Path(model))
    if from_logits is not None:
        return LogitsFunction(model, "logits" if from_logits else "probabilities")
    known = vars(model).get(_ATTRIBUTE) if hasattr(model, "__dict__") else None
    if isinstance(known, LogitsFunction) and known.outputs is getattr(model, "outputs", None):
        return known
    found = LogitsFunction(model, _form(model, images))
    if isinstance(model, keras.Model):
        object.__setattr__(model, _ATTRIBUTE, found)  # not tracked by Keras; goes with the model
    return found


def _form(model: Any, images: Images | None) -> str:
    method = getattr(model, "logits", None)
    if callable(method) and not isinstance(method, keras.layers.Layer):  # a layer of that name is not a method
        return "method"
    outputs = _call(model, _probe(model, images), training=False)
    if not tf.is_tensor(outputs) or outputs.shape.rank != 2 or outputs.shape[-1] < 2:
        shape = tuple(outputs.shape) if tf.is_tensor(outputs) else type(outputs).__name__
        raise ValueError(f"`model` should return one row of 2 or more classes per image. Received: {shape}")
    last = _last_layer(model)
    if isinstance(last, _WEIGHTED) and last.activation is keras.activations.linear:
        return "logits"
    if getattr(model, "output", None) == "logits":  # a SavedModel's signature
        return "logits"
    rows = outputs.numpy().astype(np.float64)
    if (rows >= 0).all() and np.allclose(rows.sum(axis=-1), 1, atol=1e-2):
        # Keras keeps the logits behind a sigmoid, too: hence the look at the rows first
        return "probabilities" if getattr(outputs, "_keras_logits", None) is None else "softmax"
    raise ValueError(
        f"`model` should return probabilities (rows >= 0 that sum to 1); {_HELP}. "
        f"Received: a first row from {rows[0].min():.3g} to {rows[0].max():.3g} with sum {rows[0].sum():.3g}"
    )


def _probe(model: Any, images: Images | None) -> tf.Tensor:
    if images is not None:
        return tf.cast(tf.convert_to_tensor(images)[:4], getattr(model, "input_dtype", None) or tf.float32)
    shape = getattr(model, "input_shape", None)
    if not isinstance(shape, tuple) or None in shape[1:]:
        raise ValueError(f"`model` does not state its input shape: pass `images`, a batch to try it on, or {_HELP}")
    return tf.random.stateless_uniform((4, *shape[1:]), seed=(0, 0))


def _last_layer(model: Any) -> Any:
    """The layer whose output is the model's, if that is certain; looks into nested models."""
    while isinstance(model, keras.Model):
        outputs = getattr(model, "outputs", None)
        if not outputs or len(outputs) != 1 or not type(model).__module__.startswith("keras."):
            return None
        model = outputs[0]._keras_history.operation
        while _passes_through(model):
            model = model.input._keras_history.operation
    return model


def _passes_through(layer: Any) -> bool:
    """Whether a layer returns what it is given, but for dropout in training."""
    if isinstance(layer, keras.layers.Activation):  # such as the float32 one at the end of a mixed-precision model
        return layer.activation is keras.activations.linear
    return isinstance(layer, _PASSED_THROUGH) or type(layer).__name__ == "FisherTraceRegularization"


def _call(model: Any, images: tf.Tensor, training: bool) -> Any:
    if isinstance(model, keras.layers.Layer):
        return model(images, training=training)
    return model(images)


def _load(path: Path) -> Any:
    if path.suffix == ".keras" and path.is_file():
        return keras.models.load_model(path)
    if (path / "saved_model.pb").is_file():
        return _SavedModel(path)
    raise ValueError(f"`model` should be the path of a .keras file or a SavedModel folder. Received: {str(path)!r}")


class _SavedModel:
    """A SavedModel's signature as a callable: ``logits`` if it has one (as ours do), else ``serving_default``."""

    def __init__(self, path: Path) -> None:
        self.loaded = tf.saved_model.load(str(path))
        signatures = self.loaded.signatures
        name = "logits" if "logits" in signatures else "serving_default"
        if name not in signatures:
            raise ValueError(f"The SavedModel {path} has no signature `logits` or `serving_default`")
        self.signature = signatures[name]
        (self.argument,) = self.signature.structured_input_signature[1]
        outputs = self.signature.structured_outputs
        preferred = [key for key in ("logits", "probabilities") if key in outputs]
        if not preferred and len(outputs) != 1:
            raise ValueError(f"The SavedModel {path} should have one output or one named `logits` or `probabilities`")
        self.output = (preferred or list(outputs))[0]

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        return self.signature(**{self.argument: images})[self.output]


def _spec(tensor: tf.Tensor) -> tf.TensorSpec:
    return tf.TensorSpec([None, *tensor.shape[1:]] if tensor.shape.rank else [], tensor.dtype)


def _at_least_float32(tensor: tf.Tensor) -> tf.Tensor:
    return tensor if tensor.dtype == tf.float64 else tf.cast(tensor, tf.float32)
