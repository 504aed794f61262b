"""What can be told of a classifier: what it returns, a twin that takes floats, where its gradient stops."""

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_fim.arguments import expect, require
from keras_fim.typing import Images

_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
_WEIGHTED = (keras.layers.Dense, keras.layers.EinsumDense, *_CONVOLUTIONS)
_PASSED_THROUGH = (keras.layers.Dropout, keras.layers.ActivityRegularization)
_HELP = "pass keras_fim.logits.logits_function(model, from_logits=True) in its place (--returns logits) for logits"
CALL = (
    "`model` should take a tensor with any number of images, in operations that tf.function can compile; of a function "
    "of NumPy arrays pass keras_fim.logits.logits_function(lambda images: function(np.asarray(images)), images). "
    "Received: {}: {}"
)
PY_FUNCTION = "`model` should allow several gradients of a call. Received: tf.py_function; pass the function in it"
_MULTI_LABEL = (
    "`model` should return probabilities (rows >= 0 that sum to 1), one class for each image. Received: several "
    "sigmoids, as of a model with several labels for each image. Pass a function that returns the probability of one "
    "of the labels, such as keras_fim.logits.logits_function(lambda images: model(images)[:, :1], from_logits=False)"
)


def output_form(model: Any, images: Images | None, from_logits: bool | None) -> tuple[Any, str]:
    """What a model returns, by its layers and by what it returns for a few images.

    Args:
        model: A Keras model or another callable on images.
        images: A batch to try it on; ``None`` makes one where the model states its input shape.
        from_logits: As of `keras_fim.logits.logits_function`.

    Returns:
        The model, as an operation of TensorFlow if it is a function that returns NumPy arrays; and the form, as
        `keras_fim.logits.LogitsFunction.form`.

    Raises:
        ValueError: As `keras_fim.logits.logits_function`.
    """
    stated = {None: None, True: "logits", False: "probabilities"}[from_logits]
    if stated is None and _has_method(model):
        return model, "method"
    _check_structure(model)
    if stated and images is None and not _states_shape(model):
        return model, stated
    probe = _probe(model, images)
    with _explained():
        outputs = call_model(float_twin(model), probe, training=False)
    if isinstance(outputs, np.ndarray):
        model, outputs = OfArrays(model, outputs), tf.constant(outputs)
    received = f"{type(outputs).__name__} of {len(tf.nest.flatten(outputs))} outputs"
    require(tf.is_tensor(outputs), _several(model, received))
    return model, _form(model, outputs, stated)


def _form(model: Any, outputs: tf.Tensor, stated: str | None) -> str:
    expected = "one row of 2 or more classes per image"
    require(outputs.shape.rank == 2, f"`model` should return {expected}. Received: shape={tuple(outputs.shape)}")
    rows = outputs.numpy().astype(np.float64)
    finite = rows[np.isfinite(rows).all(axis=-1)]
    kind = _kind(rows, getattr(outputs, "_keras_logits", None))
    sure = kind == "softmax" or (kind == "probabilities" and len(rows) >= 4)  # one row of logits may sum to 1 by chance
    if stated == "logits":
        sums = "from_logits=False if it returns probabilities. Received: from_logits=True, and rows >= 0 that sum to 1"
        require(not sure or rows.shape[-1] == 1, f"`model` should have {sums}")
        return stated
    if outputs.shape[-1] == 1:
        return _form_of_one_unit(kind, stated)
    last = _last_layer(model)
    linear = isinstance(last, _WEIGHTED) and last.activation is keras.activations.linear
    if stated is None and ((linear and not sure) or getattr(model, "output", None) == "logits"):  # of a SavedModel
        return "logits"
    require(kind != "sigmoid", _MULTI_LABEL)
    if kind or (stated and not (finite < 0).any()):
        return str(kind or stated)
    received = f"NaN or infinite numbers for all of {len(rows)} images"
    if len(finite):
        worst = finite[np.maximum(np.abs(finite.sum(axis=-1) - 1), -finite.min(axis=-1)).argmax()]
        received = f"a row from {worst.min():.3g} to {worst.max():.3g} with sum {worst.sum():.3g}"
    raise ValueError(f"`model` should return probabilities (rows >= 0 that sum to 1); {_HELP}. Received: {received}")


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """In it, whatever a model raises becomes a ValueError that says how it was called."""
    try:
        yield
    except Exception as error:  # of a stranger's function
        reason = re.sub(r"\x1b\[\d*m|\s+", " ", str(error)).strip()
        raise ValueError(CALL.format(type(error).__name__, f"{reason:.400}")) from error


class OfArrays:
    """A function of NumPy arrays that returns such ``rows``, as an operation of TensorFlow without a gradient.

    Nothing around it is compiled: a function that calls TensorFlow itself could wait forever for the threads that wait
    for it.
    """

    def __init__(self, function: Callable[..., Any], rows: np.ndarray) -> None:
        self.function, self.dtype, self.shape = function, rows.dtype, (None, *rows.shape[1:])

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        """Its rows for some images."""
        rows = tf.numpy_function(lambda points: np.asarray(self.function(points), self.dtype), [images], self.dtype)
        return tf.ensure_shape(rows, self.shape)


def check_model(model: Any, images: Images | None) -> None:
    """Raise a ValueError if something is no model, or images are not of the shape that it states."""
    expected = "a Keras model or a function of images; of a loaded SavedModel, its folder or one of its `signatures`"
    expect(callable(model) or _has_method(model), "model", expected, received=f"{model!r:.80}")
    stated, shape = getattr(model, "input_shape", None), getattr(images, "shape", None)
    if not isinstance(stated, tuple) or shape is None or any(isinstance(side, (tuple, list)) for side in stated):
        return
    fits = tf.TensorShape([None, *stated[1:]]).is_compatible_with(shape)  # a Sequential may state its first batch
    expected = ", ".join("any" if side is None else str(side) for side in stated[1:])
    require(fits, f"`images` should have shape (batch, {expected}). Received: shape={tuple(shape)}")


def _kind(rows: np.ndarray, behind: tf.Tensor | None) -> str | None:
    """``"softmax"`` or ``"sigmoid"`` where Keras keeps the logits, ``"probabilities"`` elsewhere, None if not these.

    Rows with a NaN do not count: the model that returns some of them is flagged by what it does to all images.
    """
    whole = np.isfinite(rows).all(axis=-1)
    finite = rows[whole]
    sums = len(finite) > 0 and (finite >= 0).all() and np.allclose(finite.sum(axis=-1), 1, atol=1e-2)
    if behind is None:
        return "probabilities" if sums else None
    off = [np.abs(finite - function(behind).numpy()[whole]).max(initial=0) for function in (tf.sigmoid, tf.nn.softmax)]
    if len(finite) and off[0] < 1e-2 and (off[0] < off[1] or rows.shape[-1] == 1):
        return "sigmoid"  # sure ones of exclusive classes sum to 1, too
    return "softmax" if sums else None


def _form_of_one_unit(kind: str | None, stated: str | None) -> str:
    always_one = "a softmax over one unit, which is always 1: give the unit a sigmoid, or use two units with a softmax"
    received = "one row of 2 or more classes per image is needed, and there is one unit"
    require(kind not in ("softmax", "probabilities"), f"`model` should not end in {always_one}. Received: {received}")
    expected = "one row of 2 or more classes per image, or one Keras sigmoid"
    advice = "if it is the logit of class 1, from_logits=False if it is its probability"
    call = "pass keras_fim.logits.logits_function(model, from_logits=True) in its place"
    told = kind == "sigmoid" or stated is not None
    require(told, f"`model` should return {expected}. Received: one unit; {call} {advice}")
    return kind or "probabilities"


def _has_method(model: Any) -> bool:
    method = getattr(model, "logits", None)
    return callable(method) and not isinstance(method, keras.layers.Layer)  # a layer of that name is not a method


def _check_structure(model: Any) -> None:
    for kind in ("inputs", "outputs"):
        parts = getattr(model, kind, None) if isinstance(model, keras.Model) else None
        if parts and len(parts) > 1:
            names = ", ".join(part._keras_history.operation.name for part in parts)
            raise ValueError(_several(model, f"{len(parts)} {kind} ({names})"))
    layers: Any = getattr(model, "_flatten_layers", tuple)()
    kept = ", ".join(layer.name for layer in layers if getattr(layer, "stateful", False))
    advice = "build it with stateful=False, and set the weights"
    require(not kept, f"`model` should keep no state between its calls: {advice}. Received: a state in {kept}")


def _several(model: Any, received: str) -> str:
    return (
        f"`model` should have one input and one output. Received: {received}. Pass a function of the images:\n"
        f"    def classifier(images):\n"
        f"        outputs = model([images, others])  # what your model takes\n"
        f"        return outputs[0]  # the probabilities, (batch, classes)\n"
        f"    keras_fim.logits.logits_function(classifier, from_logits=False)"
    )


def _states_shape(model: Any) -> bool:
    shape = getattr(model, "input_shape", None)
    return isinstance(shape, tuple) and None not in shape[1:]


def _probe(model: Any, images: Images | None) -> tf.Tensor:
    if images is not None:
        return tf.cast(tf.convert_to_tensor(images)[:4], tf.float32)
    tried = "pass keras_fim.logits.logits_function(model, images) in its place, with a batch to try it on"
    require(_states_shape(model), f"`model` should state its input shape; {tried}, or {_HELP}. Received: {model!r:.80}")
    return tf.random.stateless_uniform((4, *model.input_shape[1:]), seed=(0, 0))


def call_model(model: Any, images: tf.Tensor, training: bool) -> Any:
    """What the model returns for images, without what is around a single output; ``training`` is for Keras layers."""
    if not isinstance(model, keras.layers.Layer):  # a conditional expression would be one more hop under AutoGraph
        return only(model(images))
    return only(model(as_taken(model, images), training=training))


def as_taken(model: Any, images: Any) -> Any:
    """Images in the dictionary that a Keras model has around its one input, if it has one; others as they are."""
    inputs = getattr(model, "_inputs_struct", None)
    return dict.fromkeys(inputs, images) if isinstance(inputs, dict) and tf.is_tensor(images) else images


def only(outputs: Any) -> Any:
    """The one output of a structure such as the dictionary of a signature; of several, all as they are."""
    parts = tf.nest.flatten(outputs)
    return parts[0] if len(parts) == 1 else outputs


def single_input(model: Any) -> Any:
    """The one input that a Keras model states; None of a model without or with several, and of anything else."""
    inputs = getattr(model, "inputs", None) if isinstance(model, keras.Model) else None
    return inputs[0] if inputs and len(inputs) == 1 else None


def float_twin(model: Any) -> Any:
    """A model of the same layers, which share their weights, with a float32 input in place of an integer one.

    A cast to integers has no gradient. ``Input(dtype="uint8")`` casts whatever it is given.

    Args:
        model: Anything.

    Returns:
        The twin of a Functional or Sequential model with one integer input, of nested ones, too; anything else, and a
        model whose layers cannot be called on floats, as it is.
    """
    stated = single_input(model)
    if stated is None or "int" not in str(stated.dtype):
        return model
    image = keras.Input(stated.shape[1:], dtype="float32")
    images = [image] if isinstance(model, keras.Sequential) else image
    try:
        return keras.models.clone_model(model, input_tensors=images, clone_function=float_twin)
    except (TypeError, ValueError):
        return model


def gradient_stop(model: Any) -> str:
    """The layer of a Functional or Sequential model beyond which nothing has a gradient in the images.

    Args:
        model: Anything; it is run on one image of zeros.

    Returns:
        Its name and class, ``"ids (Embedding)"``, or ``""`` if it is not known.
    """
    stated = single_input(model)
    return "" if stated is None else _stop(model, tf.zeros([1, *(size or 32 for size in stated.shape[1:])]))


def _stop(model: Any, images: tf.Tensor) -> str:
    graph = getattr(model, "_functional", model)
    if not hasattr(graph, "_run_through_graph"):
        return ""
    reached: list[tuple[Any, Any, Any]] = []

    def recorded(operation: Any) -> Callable[..., Any]:
        def call(*inputs: Any, **options: Any) -> Any:
            reached.append((operation, inputs, operation(*inputs, **options)))
            return reached[-1][2]

        return call

    with tf.GradientTape(persistent=True) as tape:
        tape.watch(images)
        graph._run_through_graph(images, operation_fn=recorded)
    for operation, inputs, outputs in reached:
        values = [value for value in tf.nest.flatten(outputs) if tf.is_tensor(value) and value.dtype.is_floating]
        if all(tape.gradient(value, images) is None for value in values):
            inner = _stop(operation, inputs[0]) if isinstance(operation, keras.Model) else ""
            return inner or f"{operation.name} ({type(operation).__name__})"
    return ""


def _passes_through(layer: Any) -> bool:
    """Whether a layer returns what it is given, but for dropout in training."""
    if isinstance(layer, keras.layers.Activation):  # such as the float32 one at the end of a mixed-precision model
        return layer.activation is keras.activations.linear
    return isinstance(layer, _PASSED_THROUGH) or type(layer).__name__ == "FisherTraceRegularization"


def _last_layer(model: Any) -> Any:
    """The layer whose output is the model's, or None if that is not certain; it looks into nested models."""
    while isinstance(model, keras.Model):
        outputs = getattr(model, "outputs", None)
        if not outputs or len(outputs) != 1 or not type(model).__module__.startswith("keras."):
            return None
        model = outputs[0]._keras_history.operation
        while _passes_through(model):
            model = model.input._keras_history.operation
    return model
