"""TRADES: the distance between the predictions for an image and for its worst neighbor."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_fim.arguments import checked
from keras_fim.attacks import draws
from keras_fim.attacks.base import check_epsilons
from keras_fim.attacks.lp import by_image, check_norm, project_inside, steepest
from keras_fim.attacks.samples import Task, random_start
from keras_fim.attacks.units import Units
from keras_fim.defenses.batch import Batch
from keras_fim.defenses.penalized import Penalized
from keras_fim.geometry import kl_divergence
from keras_fim.geometry.jacobian import gradient
from keras_fim.losses import mu_value


@keras.saving.register_keras_serializable("keras_fim")
class TRADES(Penalized):
    r"""Adds β times the divergence to the worst neighbor within ε to the loss of the clean images.

    .. math:: L(x) + \beta \max_{\|x' - x\| \le \varepsilon} D_{KL}(p(x) \| p(x'))

    The neighbor is looked for from a random point of the ball, by steps up the divergence with a projection after
    each. (The original starts next to the image, where the divergence has no gradient, and looks for it in inference
    mode; here each pass is in training mode, and only the statistics of the clean one are kept. With several steps,
    batch normalization cannot be synchronized among replicas.) A training step of the
    ConvNet costs 2.9 times a plain one in CPU seconds with one step, 14 times with ten
    (``results/benchmarks/defense_step_mnist.json``).

    Args:
        model: A built Keras classifier, or another defense of one.
        beta: The weight β >= 0, or a ``keras.Variable``, which is then also the attribute ``mu``.
        epsilon: The radius ε >= 0, on the scale of the images.
        norm: Either 2 or inf.
        attack_steps: The number of steps, >= 1.
        step_size: The length of a step as a share of ε; ``None`` for 2.5 divided by their number, at most 1.
        **options: ``bounds``, ``seed``, of the start, and ``name``, as in `Defense`.

    Logged in training: ``penalty`` (part of ``loss``), ``divergence`` and ``adversarial_accuracy``, at the neighbors.

    Raises:
        ValueError: If an argument is not valid.

    Source:
        Zhang et al., Theoretically principled trade-off between robustness and accuracy (ICML 2019).
    """

    @checked
    def __init__(
        self,
        model: keras.Model,
        beta: float | keras.Variable = 6.0,
        *,
        epsilon: float,
        norm: float = np.inf,
        attack_steps: int = 10,
        step_size: float | None = None,
        **options: Any,
    ) -> None:
        check_epsilons([epsilon])
        if not isinstance(attack_steps, int) or attack_steps < 1:
            raise ValueError(f"`attack_steps` should be a positive integer. Received: attack_steps={attack_steps}")
        step_size = min(1.0, 2.5 / attack_steps) if step_size is None else float(step_size)
        if not 0 < step_size < np.inf:
            raise ValueError(f"`step_size` should be a positive number. Received: step_size={step_size}")
        if not isinstance(beta, keras.Variable) and not 0 <= beta < np.inf:
            raise ValueError(f"`beta` should be a finite number >= 0. Received: beta={beta}")
        super().__init__(model, beta, measure="divergence", **{"name": "trades", **options})
        self.epsilon, self.norm = float(epsilon), check_norm(norm, (2, np.inf))
        self.attack_steps, self.step_size = attack_steps, step_size
        self._adversarial = keras.metrics.SparseCategoricalAccuracy(name="adversarial_accuracy")

    def measure(self, batch: Batch) -> tf.Tensor:
        """Mean divergence."""
        clean = tf.stop_gradient(batch.logits)
        logits = batch.again(tf.stop_gradient(self._neighbors(batch, clean)))
        self._adversarial.update_state(batch.labels, tf.stop_gradient(logits))
        return batch.mean(kl_divergence(batch.logits, logits))

    def trackers(self) -> list[keras.metrics.Metric]:
        """The penalty, what it penalizes, and the accuracy at the neighbors."""
        return [*super().trackers(), self._adversarial] if hasattr(self, "_adversarial") else []

    def _neighbors(self, batch: Batch, clean: tf.Tensor) -> tf.Tensor:
        images, units = batch.images, Units(self.bounds)
        start, count = units.to_units(images), tf.shape(images)[0]
        radius = tf.fill([count], tf.cast(self.epsilon / units.scale, images.dtype))
        task = Task(start, batch.labels, radius, draws.keys_of(batch.seed, tf.range(count)), batch.labels)
        length, again = by_image(self.step_size * radius, start), units.logits_fn(batch.again)

        def body(points: tf.Tensor) -> tuple[tf.Tensor]:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(points)
                divergence = kl_divergence(clean, again(points))
            points += length * steepest(gradient(tape, divergence, points), self.norm)
            return (project_inside(points, start, radius, self.norm),)

        (points,) = body(random_start(task, self.norm, 3))
        if self.attack_steps > 1:
            (points,) = tf.while_loop(lambda _: True, body, (points,), maximum_iterations=self.attack_steps - 1)
        return units.returned(points, start, images)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments; ``beta`` as the number that it is now."""
        return {
            **super().get_config(),
            "beta": mu_value(self.mu),
            "epsilon": self.epsilon,
            "norm": self.norm,
            "attack_steps": self.attack_steps,
            "step_size": self.step_size,
        }
