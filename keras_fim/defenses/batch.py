"""A training step, as defenses see it: the pass whose statistics are kept, and further ones that leave no trace."""

import dataclasses
from collections.abc import Callable

import keras
import tensorflow as tf

from keras_fim.attacks import draws, problem
from keras_fim.attacks.samples import Task
from keras_fim.geometry.jacobian import watched
from keras_fim.logits import LogitsFunction


class SameState(LogitsFunction):
    """The classifier in training mode, as it was before the batch, and never changed by being called.

    Batch normalization uses the statistics of the images that it is given and forgets them; dropout drops what it
    dropped in the pass that counts. So a difference of logits is one of images, and of nothing else.

    Args:
        logits_fn: of the classifier.
    """

    def __init__(self, logits_fn: LogitsFunction) -> None:
        super().__init__(logits_fn.model, logits_fn.form)
        self.forward = logits_fn.forward
        self._values = [(v, tf.convert_to_tensor(v.value)) for v in self.model.non_trainable_variables]

    def __call__(self, images: tf.Tensor, training: bool = True) -> tf.Tensor:
        """Logits ``(batch, K)``, in training mode whatever is asked for."""
        with self.scope():
            return super().__call__(images, training=True)

    def scope(self) -> keras.StatelessScope:
        """In it the classifier has its old state, and what it changes is forgotten."""
        # read now, under the tapes of now; weight regularizers look for them in the scope, and nowhere else
        weights = [(v, tf.convert_to_tensor(v.value)) for v in self.model.trainable_variables]
        return keras.StatelessScope(self._values + weights, collect_losses=True)


@dataclasses.dataclass(frozen=True)
class Batch:
    """A training step, as the parts of a defense see it.

    Attributes:
        images: ``(batch, ...)``, floating: what the classifier is trained on.
        labels: ``(batch,)``, class indices.
        sample_weight: ``(batch,)`` or None.
        logits: ``(batch, K)`` of `images`, from the pass whose statistics are kept.
        tape: a persistent tape from `images` to `logits`.
        again: the classifier for further passes.
        loss: the compiled loss of the classifier at other images, a scalar, and its logits there.
        clean_loss: the same at `images`.
        seed: int32 scalar, another in each step and replica.
    """

    images: tf.Tensor
    labels: tf.Tensor
    sample_weight: tf.Tensor | None
    logits: tf.Tensor
    tape: tf.GradientTape
    again: SameState
    loss: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
    clean_loss: tf.Tensor
    seed: tf.Tensor

    def part(self, share: float) -> "Batch":
        """The first samples, with a forward pass of their own: its statistics are theirs alone."""
        if share == 1:
            return self
        count = tf.cast(tf.math.ceil(share * tf.cast(tf.shape(self.images)[0], tf.float32)), tf.int32)
        images, labels = self.images[:count], self.labels[:count]
        weight = None if self.sample_weight is None else self.sample_weight[:count]
        with watched(images, persistent=True) as tape:
            logits = self.again(images)
        return dataclasses.replace(self, images=images, labels=labels, sample_weight=weight, logits=logits, tape=tape)

    def mean(self, values: tf.Tensor) -> tf.Tensor:
        """Mean over the samples of ``(batch,)``, each weighted as in the loss; 0 if a replica got none."""
        if self.sample_weight is not None:
            values = values * tf.cast(tf.reshape(self.sample_weight, [-1]), values.dtype)
        return tf.math.divide_no_nan(tf.reduce_sum(values), tf.cast(tf.size(values), values.dtype))


def attack_task(images: tf.Tensor, labels: tf.Tensor, epsilon: float, units: problem.Units, seed: tf.Tensor) -> Task:
    """What an attack is asked in a training step: in unit coordinates, with one ε on the scale of the images."""
    count = tf.shape(images)[0]
    budget = tf.fill([count], tf.cast(epsilon / units.scale, images.dtype))
    return Task(units.to_units(images), labels, budget, draws.keys_of(seed, tf.range(count)), labels)


def class_indices(targets: tf.Tensor | None, num_classes: int) -> tf.Tensor:
    """Class indices int64 ``(batch,)`` from indices ``(batch,)`` or ``(batch, 1)``, or from rows ``(batch, K)``.

    Args:
        targets: of a training step.
        num_classes: K.

    Returns:
        Of rows, the class of the largest entry.

    Raises:
        ValueError: If there are none, or they have another shape.
    """
    received = "y=None"
    if targets is not None:
        targets = tf.convert_to_tensor(targets)
        if targets.shape.rank == 2 and targets.shape[-1] == num_classes and num_classes > 1:
            return tf.argmax(targets, axis=-1)
        if targets.shape.rank == 1 or (targets.shape.rank == 2 and targets.shape[-1] == 1):
            return tf.cast(tf.reshape(targets, [-1]), tf.int64)
        received = f"shape={targets.shape}"
    raise ValueError(f"`y` should hold class indices (batch,) or rows (batch, {num_classes}). Received: {received}")
