"""From any classifier to a function that returns its logits."""

import contextlib
import functools
import os
import re
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_fim import distribution, inspection, strangers
from keras_fim.arguments import checked, expect, require
from keras_fim.geometry.jacobian import NoGradientError, gradient, watched
from keras_fim.geometry.simplex import two_classes
from keras_fim.typing import Images, Model

_ATTRIBUTE = "_keras_fim_logits_function"
_NO_GRADIENT = (
    "`model` has no gradient from its logits to its images{}. Integer inputs, embeddings, rounding, stop_gradient and "
    "functions of NumPy arrays have none, and attacks or spectra by gradients would find nothing. Pass "
    "keras_fim.logits.logits_function(model, backward=twin) in its place, where `twin` is a smooth model with the "
    "same weights; or measure with black_box=True"
)


class LogitsFunction:
    """A classifier as a function from images to logits; made by `logits_function`, accepted wherever a model is.

    Attributes:
        model: what it calls.
        form: what ``model`` returns: ``"logits"``, ``"softmax"`` (a Keras softmax, whose logits Keras keeps),
            ``"probabilities"`` (of which the logarithm is taken), ``"sigmoid"`` (one Keras sigmoid) or ``"method"`` (it
            has a method ``logits``). One unit z, of any form, is the classifier of two classes with logits (0, z).
        backward: another logits function, whose gradient in the images takes the place of this one's; or None.
    """

    def __init__(self, model: Any, form: str, backward: "LogitsFunction | None" = None) -> None:
        self.model, self.form, self.backward = model, form, backward
        self.outputs = getattr(model, "outputs", None)  # a Sequential that changes gets others
        self._compiled: dict[Any, Any] = {}
        self.views: dict[Hashable, LogitsFunction] = {}  # this classifier on other coordinates, by their name

    @functools.cached_property
    def forward(self) -> Any:
        """``model``, or its twin on floats if it has an integer input (`keras_fim.inspection.float_twin`)."""
        with tf.init_scope():  # Keras reads the optimizer of a compiled model, not to be had while a function is traced
            return inspection.float_twin(self.model)

    @property
    def returns_logits(self) -> bool:
        """Whether what the model itself returns are its logits, of the images as they are given."""
        return self.form == "logits" and self.forward is self.model

    def __call__(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Logits of images.

        Args:
            images: ``(batch, ...)`` in the range that the model takes.
            training: whether layers such as dropout act as in training.

        Returns:
            ``(batch, K)``, float32 (float64 from a float64 model).
        """
        images, parts = tf.convert_to_tensor(images), []
        for share in distribution.shares(images, distribution.devices_of(self.model)):
            with share.place:
                if self.form == "method":
                    logits = _at_least_float32(self.model.logits(share.images, training=training))
                else:
                    logits = self.of(inspection.call_model(self.forward, share.images, training))
                parts.append(logits if share.size is None else logits[: share.size])
        logits = tf.concat(parts, axis=0)
        if images.dtype.is_floating:
            logits = tf.cast(logits, self._dtype(images))
        return logits if self.backward is None else _straight(logits, self.backward(images, training=training))

    def called(self, images: tf.Tensor, training: bool = False) -> Any:
        """What the model itself returns, as it does for its user; arguments as of the call."""
        return inspection.call_model(self.model if callable(self.model) else self.model.logits, images, training)

    def of(self, outputs: Any) -> tf.Tensor:
        """Logits behind what the model returned, of any form but ``"method"``.

        Args:
            outputs: ``(batch, K)``, untouched.

        Returns:
            As the call; in the dtype of ``outputs``, at least float32.
        """
        outputs = inspection.only(outputs)
        behind = None if self.form == "logits" else getattr(outputs, "_keras_logits", None)
        require(outputs.shape[-1], "`model` should return a known number of classes when compiled: see tf.ensure_shape")
        logits = _at_least_float32(outputs if behind is None else behind)
        if behind is None and self.form != "logits":
            tiny = np.finfo(logits.dtype.as_numpy_dtype).tiny
            rest = tf.math.log(tf.maximum(1 - logits, tiny)) if logits.shape[-1] == 1 else 0.0
            logits = tf.math.log(tf.maximum(logits, tiny)) - rest
        return two_classes(logits) if logits.shape[-1] == 1 else logits

    def cast(self, images: tf.Tensor) -> tf.Tensor:
        """Images in the dtype that the model works on: float64 for a float64 Keras model, float32 for others.

        Of a callable that is not a Keras layer nothing is known: float64 images stay float64.
        """
        return tf.cast(images, self._dtype(images))

    def _dtype(self, images: tf.Tensor) -> tf.DType:
        dtype: Any = images.dtype
        if isinstance(self.model, keras.layers.Layer):
            inputs = getattr(self.model, "inputs", None)
            dtype = inputs[0].dtype if inputs else self.model.compute_dtype
        return tf.float64 if dtype == "float64" else tf.float32

    def compiled(self, function: Callable[..., Any], *static: Hashable, **options: Hashable) -> Callable[..., Any]:
        """``function(*static, self, *tensors, **options)`` as a compiled function of tensors.

        It is traced once for each image shape and dtype, whatever the batch size, and kept here, so that it goes when
        the model goes.

        Args:
            function: what to compile; tensors of rank >= 1 come with a batch axis of unknown length. They may be
                nested in tuples.
            *static: hashable arguments before this logits function.
            **options: hashable arguments after the tensors.

        Returns:
            A function of the remaining, tensor arguments. It raises a ValueError if it needs gradients and the model
            has none.
        """

        def call(*tensors: Any) -> Any:
            specs = tf.nest.map_structure(_spec, tensors)
            key = (function, (*static, *options.items()), specs)
            if key not in self._compiled:
                bound = functools.partial(function, *static, self, **options)
                plain = isinstance(self.model, inspection.OfArrays)
                self._compiled[key] = bound if plain else tf.function(bound, input_signature=specs)
            with self.explained():
                return self._compiled[key](*tensors)

        return call

    def in_batches(
        self, function: Callable[..., Any], images: Any, *static: Hashable, batch_size: int = 256, **options: Hashable
    ) -> Any:
        """``function(*static, self, images, **options)``, compiled, a batch at a time.

        Args:
            function: Returns a tensor with a batch axis, or a structure of them.
            images: ``(n, ...)``, at least one.
            *static: The hashable arguments before this logits function.
            batch_size: The number of images worked on at a time.
            **options: The hashable arguments after the images.

        Returns:
            The same structure of arrays with ``n`` entries.
        """
        expect(batch_size >= 1, "batch_size", "a positive integer", batch_size)
        call, parts = self.compiled(function, *static, **options), []
        for start in range(0, len(images), batch_size):
            batch = self.cast(tf.convert_to_tensor(images[start : start + batch_size]))
            parts.append(tf.nest.map_structure(lambda tensor: tensor.numpy(), call(batch)))
        return tf.nest.map_structure(lambda *columns: np.concatenate(columns), *parts)

    def check_gradient(self, images: Any) -> None:
        """Raise a ValueError, as `explained` words it, if the logits of images ``(batch, ...)`` have no gradient."""
        images = self.cast(tf.convert_to_tensor(images))
        with self.explained(), watched(images) as tape:
            gradient(tape, self(images), images)

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """In it, an error about a missing gradient says where it stops, and one in a compiled function what it is."""
        try:
            yield
        except NoGradientError:
            place = inspection.gradient_stop(self.forward)
            raise NoGradientError(_NO_GRADIENT.format(f": it stops at the layer {place}" if place else "")) from None
        except tf.errors.UnknownError as error:
            require("EagerPyFunc" not in str(error), inspection.PY_FUNCTION)
            raise
        except (ValueError, TypeError, AttributeError, NotImplementedError) as error:
            # TensorFlow writes the lines that led there before the message
            message = re.search(r"(?s).*\n    (\w+Error): (.*)", str(error))
            if message is None:
                raise
            own = message[1] == "ValueError"
            raise ValueError(message[2].strip() if own else inspection.CALL.format(*message.groups())) from error

    def __reduce__(self) -> tuple[Any, ...]:  # what is compiled stays in this process
        return LogitsFunction, (self.model, self.form, self.backward)

    def __repr__(self) -> str:
        return f"LogitsFunction({getattr(self.model, 'name', self.model)!r}, form={self.form!r})"


@checked
def logits_function(
    model: Model, images: Images | None = None, *, from_logits: bool | None = None, backward: Model | None = None
) -> LogitsFunction:
    """The logits function of a classifier.

    A model with a method ``logits(images, training)`` is asked for them. Behind a Keras softmax (an activation or a
    layer) the logits are found without loss. A dense or convolutional last layer without activation returns logits.
    Of anything else one batch is tried: rows >= 0 that sum to 1 are probabilities, whose logarithm serves as logits.
    One Keras sigmoid with logit z is the classifier of two classes with logits (0, z). A Keras model with an integer
    input is called through a twin of the same layers that takes floats, because a cast to integers has no gradient.

    The result keeps what is compiled for the model. A Keras model keeps its result, too; a plain callable, a path, or
    a call with ``from_logits`` gets a new one each time. Call this once for such a model and pass the result on in its
    place: attacks and spectra would otherwise be traced anew at each of their calls.

    Args:
        model: a Keras model; any callable on images, such as a signature of a SavedModel, which may return one output
            in a dictionary; a function of NumPy arrays, which has no gradient, if there are ``images``; the path of a
            ``.keras`` file or of a SavedModel; a `LogitsFunction`, which is returned as it is.
        images: a batch of images to try the model on; ``None`` makes one where the model states its input shape.
        from_logits: True says that the model returns logits, False that it returns probabilities, ``None`` finds out.
        backward: A smooth model whose gradient in the images is taken in place of this one's, as in backward pass
            differentiable approximation (Athalye, Carlini & Wagner, ICML 2018); it shares the weights. ``None`` for
            the model's own gradient.

    Returns:
        `LogitsFunction`; the same one each time for the same Keras model, unless ``from_logits`` or ``backward`` is
        given.

    Raises:
        ValueError: if it does not exist, has several inputs or outputs, does not return one row per image, ends in a
            softmax over one unit or in several sigmoids, or what it returns cannot be told.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, activation="softmax")])
        >>> logits_function(model).form
        'softmax'
    """
    if backward is not None:
        given = logits_function(model, images, from_logits=from_logits)
        return LogitsFunction(given.model, given.form, logits_function(backward, images, from_logits=from_logits))
    if isinstance(model, LogitsFunction):
        return model
    if isinstance(model, (str, os.PathLike)):
        model = _load(Path(model))
    inspection.check_model(model, images)
    if from_logits is not None:
        return LogitsFunction(*inspection.output_form(model, images, from_logits))
    kept = vars(model).get(_ATTRIBUTE) if hasattr(model, "__dict__") else None
    if isinstance(kept, LogitsFunction) and kept.outputs is getattr(model, "outputs", None):
        return kept
    logits_fn = LogitsFunction(*inspection.output_form(model, images, None))
    if isinstance(model, keras.Model):
        object.__setattr__(model, _ATTRIBUTE, logits_fn)  # not tracked by Keras; goes with the model
    return logits_fn


def predict_logits(logits_fn: LogitsFunction, images: tf.Tensor) -> tf.Tensor:
    """The forward pass alone, to be compiled."""
    return logits_fn(images)


def predict_outputs(logits_fn: LogitsFunction, images: tf.Tensor) -> tf.Tensor:
    """What the model itself returns, probabilities perhaps; its logits where that is not a row of classes.

    One sigmoid p is the row (1 - p, p).
    """
    outputs: Any = None if logits_fn.returns_logits else logits_fn.called(images)
    units = outputs.shape[-1] if tf.is_tensor(outputs) and outputs.shape.rank == 2 else 0
    if units == 1 and logits_fn.form != "logits":
        return tf.concat([1 - outputs, outputs], axis=-1)
    return outputs if units > 1 else logits_fn(images)


def classes_of(logits: Any) -> np.ndarray:
    """The class of the largest logit, or probability, of each row, int64; -1, no answer, where a row holds NaN."""
    return np.where(np.isnan(logits).any(axis=-1), -1, np.argmax(logits, axis=-1))


def _load(path: Path) -> Any:
    if path.suffix == ".keras" and path.is_file():
        return keras.models.load_model(path)
    if (path / "saved_model.pb").is_file():
        return strangers.SavedModel(path)
    raise ValueError(f"`model` should be the path of a .keras file or a SavedModel folder. Received: {str(path)!r}")


def _at_least_float32(tensor: tf.Tensor) -> tf.Tensor:
    return tensor if tensor.dtype == tf.float64 else tf.cast(tensor, tf.float32)


def _spec(tensor: tf.Tensor) -> tf.TensorSpec:
    return tf.TensorSpec([None, *tensor.shape[1:]] if tensor.shape.rank else [], tensor.dtype)


@tf.custom_gradient
def _straight(values: tf.Tensor, smooth: tf.Tensor) -> tuple[tf.Tensor, Any]:
    """The ``values``, with the gradient of ``smooth``."""
    return tf.identity(values), lambda upstream: (None, upstream)
