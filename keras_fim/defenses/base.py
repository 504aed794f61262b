"""What all defenses share: a Keras model around a classifier, which is trained in place."""

import contextlib
import functools
import inspect
import operator
import re
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from keras_fim import inspection, pixels, validation
from keras_fim.arguments import checked, expect, require
from keras_fim.defenses.batch import Batch, SameState, class_indices
from keras_fim.geometry.jacobian import watched
from keras_fim.logits import LogitsFunction, logits_function
from keras_fim.typing import Bounds

EMPTY_BATCH = (
    "A batch left a device without images, and TensorFlow's oneDNN convolutions cannot train on an empty batch. "
    "Batch the tf.data.Dataset with `drop_remainder=True`, choose a batch size that leaves each device at least one "
    "image in the last batch too, or set the environment variable TF_ENABLE_ONEDNN_OPTS=0."
)


class Defense(keras.Model):
    """A classifier that trains differently; otherwise it is the classifier.

    ``compile``, ``fit``, ``evaluate``, ``predict``, ``save`` and loading work as the classifier's. ``evaluate`` gives
    the compiled loss alone; what a defense adds is part of the training loss, and logged apart. A defense of a defense
    does both: the inner one chooses the images first.

    Images are within ``bounds``, and what a defense measures is in units of that range, so that its options do not
    depend on it; only ε is on the scale of the images. A metric of a step that is trained on adversarial images alone
    would be one of these, so such a step logs ``adversarial_accuracy`` and no compiled metric; ``val_accuracy`` is
    always of the images as they are.

    Args:
        model: A built Keras classifier, or another defense of one. If the library can't tell what a classifier
            returns, pass ``keras_fim.logits.logits_function(model, from_logits=True)``.
        bounds: The smallest and the largest pixel value, or a pair of tuples with one value for each channel; ``None``
            for those of the defense inside, for what a leading rescaling of the classifier says, or for (0, 1).
        seed: The random seed; each step draws anew, from the optimizer's step count.
        name: The name of the Keras model.

    Attributes:
        model: The plain classifier, trained in place.
        inner: The defense inside, or None.
        bounds: The smallest and the largest pixel value. Images outside end the training.
        perturbs: Whether a step is trained on adversarial images alone; a defense may set it.

    Raises:
        ValueError: If ``model`` is neither, or it is unclear what the classifier returns.
    """

    model: keras.Model
    inner: "Defense | None"
    perturbs: bool = False
    _logits_fn: LogitsFunction
    _options: tuple[str, ...] = ()  # the attributes that are arguments of the constructor, too

    @checked
    def __init__(
        self,
        model: keras.Model | LogitsFunction,
        *,
        bounds: Bounds | None = None,
        seed: int = 0,
        name: str | None = None,
    ) -> None:
        inner = model if isinstance(model, Defense) else None
        given: Any = inner._logits_fn if inner else model
        classifier = given.model if isinstance(given, LogitsFunction) else given
        expect(isinstance(classifier, keras.Model) and classifier.built, "model", "a built Keras model", model)
        logits_fn = logits_function(given)
        received = f"{type(classifier).__name__}, which has a method `logits`"
        expected = "return probabilities or logits when it is called"
        require(logits_fn.form != "method", f"`model` should {expected}. Received: {received}")
        super().__init__(name=name, dtype=classifier.dtype_policy, autocast=False)
        self.supports_jit = False  # under XLA assertions vanish, and batches of changing size are compiled one by one
        self.inner, self.model, self.seed = inner, classifier, int(seed)
        self._logits_fn = logits_fn
        if bounds is None:
            told = pixels.range_of_model(classifier)
            bounds = inner.bounds if inner else told.bounds if told else (0.0, 1.0)
        self.bounds: Bounds = validation.check_bounds(bounds)
        self.built = True

    def perturb(self, images: tf.Tensor, labels: tf.Tensor, again: SameState, seed: tf.Tensor) -> tf.Tensor:
        """The images to train on in place of ``images``; a defense may override it."""
        return images

    def penalty(self, batch: Batch) -> tf.Tensor | None:
        """A scalar that is added to the training loss, or None; a defense may override it."""
        return None

    def trackers(self) -> list[keras.metrics.Metric]:
        """What is logged beside the compiled loss and metrics, in training only: the metrics that are attributes."""
        return list(self._metrics)

    def watches(self) -> list[keras.callbacks.Callback]:
        """Callbacks that `fit` adds; a defense may override it."""
        return []

    def call(self, images: Any, training: bool | None = None) -> Any:
        """What the classifier returns."""
        model = self._logits_fn.forward if training else self.model
        return model(inspection.as_taken(model, images), training=training)

    def logits(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Logits ``(batch, K)`` of the classifier."""
        return self._logits_fn(images, training=training)

    inputs = property(operator.attrgetter("model.inputs"), doc="The classifier's.")
    outputs = property(operator.attrgetter("model.outputs"), doc="The classifier's.")
    input_shape = property(operator.attrgetter("model.input_shape"), doc="The classifier's.")
    output_shape = property(operator.attrgetter("model.output_shape"), doc="The classifier's.")

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """Those of Keras; while it trains, also the `trackers` of all defenses, and none of adversarial images."""
        trackers = [tracker for part in self._parts() for tracker in part.trackers()]
        compiled = [metric for metric in super().metrics if not any(metric is tracker for tracker in trackers)]
        if getattr(self, "_evaluates", False):
            return compiled
        if any(part.perturbs for part in self._parts()):  # the compiled ones would be of adversarial images
            compiled = [metric for metric in compiled if metric.name == "loss"]
        return compiled + trackers

    def train_step(self, data: Any) -> dict[str, Any]:
        """One step of the optimizer on the compiled loss and the penalties of all defenses."""
        images, targets, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        images = self._logits_fn.cast(inspection.only(images))  # of a dictionary around them
        again, seed = SameState(self._logits_fn), self._step_seed()
        if not images.shape[1:].is_fully_defined():  # lost in the input pipeline
            images = tf.ensure_shape(images, self.input_shape)
        outputs = self.model.compute_output_spec(keras.KerasTensor(images.shape, images.dtype))
        labels = class_indices(targets, max(2, inspection.only(outputs).shape[-1]))  # one unit is two classes
        replicas = tf.distribute.get_strategy().num_replicas_in_sync  # Keras divides losses by their number
        images = validation.inside(images, self.bounds)
        for part in self._parts():
            images = tf.stop_gradient(part.perturb(images, labels, again, seed))

        def loss(points: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            with again.scope():
                predictions = self(points, training=True)
                value = replicas * self.compute_loss(points, targets, predictions, sample_weight)
                return value, self._logits_fn.of(predictions)

        with tf.GradientTape() as tape:
            with watched(images, persistent=True) as to_logits:
                predictions = self(images, training=True)
                logits = tf.cast(self._logits_fn.of(predictions), images.dtype)
            total = replicas * self.compute_loss(images, targets, predictions, sample_weight)
            batch = Batch(images, labels, sample_weight, logits, to_logits, again, loss, total, seed)
            for penalty in [part.penalty(batch) for part in self._parts()]:
                if penalty is not None:
                    total += tf.cast(penalty, total.dtype)
            scaled = self.optimizer.scale_loss(total / replicas)
        if weights := self.trainable_variables:
            self.optimizer.apply_gradients(zip(tape.gradient(scaled, weights), weights, strict=True))
        self._loss_tracker.update_state(total, sample_weight=tf.shape(images)[0])
        if any(part.perturbs for part in self._parts()):
            return dict(self.get_metrics_result())
        return dict(self.compute_metrics(images, targets, predictions, sample_weight))

    @functools.wraps(keras.Model.fit, assigned=())  # the signature that editors show
    def fit(self, *args: Any, **options: Any) -> keras.callbacks.History:
        """As `keras.Model.fit`; it also warns of a penalty that is too small to matter.

        Raises:
            ValueError: In place of TensorFlow's own error where an image or a label is not valid, or a batch left a
                device without images; and if the classifier has no gradient.
        """
        options = inspect.signature(super().fit).bind(*args, **options).arguments
        watches = [watch for part in self._parts() for watch in part.watches()]
        callbacks = options.get("callbacks")
        if isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks.callbacks.extend(watches)
        else:
            options["callbacks"] = [callbacks or [], watches]  # which Keras flattens
        with self._readable():
            return super().fit(**options)

    def train_on_batch(self, *args: Any, **options: Any) -> Any:
        """As `keras.Model.train_on_batch`, with the errors of `fit`."""
        with self._readable():
            return super().train_on_batch(*args, **options)

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        """In it, what a compiled step refuses is a ValueError of one line."""
        try:
            with self._logits_fn.explained():
                yield
        except tf.errors.InvalidArgumentError as error:
            refused = re.search(r"assertion failed: \[(.*?)\](?=\n|$| \[)", error.message, re.DOTALL)
            if refused is None:
                raise
            raise ValueError(refused[1].strip("b'")) from None
        except tf.errors.InternalError as error:
            if not re.search(r"Missing \d+-th output from .*Conv\w*Backprop", error.message):
                raise
            raise ValueError(EMPTY_BATCH) from error

    def evaluate(self, *args: Any, **options: Any) -> Any:
        """The classifier's, without what only training has."""
        with self._evaluating():
            return super().evaluate(*args, **options)

    def test_step(self, data: Any) -> dict[str, Any]:
        """The classifier's, without what only training has."""
        with self._evaluating():
            return dict(super().test_step(data))

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        """In it, `metrics` are the classifier's: Keras reports them from what it finds there."""
        before = getattr(self, "_evaluates", False)
        object.__setattr__(self, "_evaluates", True)
        try:
            yield
        finally:
            object.__setattr__(self, "_evaluates", before)

    def export(self, *args: Any, **options: Any) -> Any:
        """The classifier's."""
        return self.model.export(*args, **options)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, and what the classifier returns (``LogitsFunction.form``)."""
        model = keras.saving.serialize_keras_object(self.inner or self.model)
        shared = {"model": model, "form": self._logits_fn.form, "bounds": self.bounds, "seed": self.seed}
        return {**shared, "name": self.name, **self._arguments()}

    def _arguments(self) -> dict[str, Any]:
        """The constructor's arguments beside those of all defenses."""
        return {option: getattr(self, option) for option in self._options}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "Defense":
        """A defense from `get_config`."""
        form, config = config["form"], {key: value for key, value in config.items() if key != "form"}
        model = keras.saving.deserialize_keras_object(config["model"], custom_objects=custom_objects)
        return cls(**{**config, "model": model if isinstance(model, Defense) else LogitsFunction(model, form)})

    def _parts(self) -> "list[Defense]":
        """The defenses, innermost first."""
        inner = getattr(self, "inner", None)  # Keras asks for the metrics before it is there
        return [*(inner._parts() if inner else []), self]

    def _step_seed(self) -> tf.Tensor:
        optimizer: Any = getattr(self.optimizer, "inner_optimizer", self.optimizer)
        steps = tf.cast(optimizer._iterations.value, tf.int32)  # of batches: `iterations` counts updates of the weights
        replica = tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.int32)
        return self.seed + 1_000_003 * steps + 7_919 * replica


def plain(model: Any) -> Any:
    """The classifier inside a defense; anything else as it is."""
    return model.model if isinstance(model, Defense) else model
