"""Defenses that add a penalty to the loss: what they share, adversarial label smoothing, and TRADES."""

import abc
import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_fim.arguments import Count, GradientNorm, NotNegative, PositiveOrNone, checked, expect
from keras_fim.attacks import lp, problem, samples
from keras_fim.defenses.base import Defense
from keras_fim.defenses.batch import Batch, attack_task
from keras_fim.geometry import jacobian, kl_divergence
from keras_fim.losses import Mu, mu_value, mu_variable


class Penalized(Defense, abc.ABC):
    """A defense whose penalty is μ times a mean over the batch, as Keras' losses take it unless told otherwise.

    With another ``reduction`` of the loss, μ is relative to that. Logs ``penalty`` and the mean; around another such
    defense ``..._penalty`` with the name of the mean.

    Args:
        model: As in `Defense`.
        mu: The weight μ >= 0: a number, or a ``keras.Variable`` that others may change; the optimizer does not, so its
            ``trainable`` is set to False. ``None`` for 1 or for what ``budget`` gives.
        measure: The name by which the mean is logged.
        budget: An ε in l2, on the scale of the images, for ``mu_from_budget(budget / range)`` in place of ``mu``.
        **options: ``bounds``, ``seed`` and ``name``, as in `Defense`.

    Raises:
        ValueError: If both ``mu`` and ``budget`` are given, or one is not valid.
    """

    _weight = "mu"  # the constructor's name of μ

    def __init__(self, model: keras.Model, mu: Mu | None, *, measure: str, budget: Any = None, **options: Any) -> None:
        expect(budget is None or mu is None, "budget", "given in place of `mu`", received=f"mu={mu}, budget={budget}")
        variable = mu_variable(1.0 if mu is None else mu)
        variable.trainable = False
        super().__init__(model, **options)
        self.mu = variable
        if budget is not None:
            variable.assign(mu_from_budget(budget / problem.Units(self.bounds).scale))
        taken = [tracker.name for part in (self.inner._parts() if self.inner else []) for tracker in part.trackers()]
        self._penalty = keras.metrics.Mean(name=f"{measure}_penalty" if "penalty" in taken else "penalty")
        self._measure = keras.metrics.Mean(name=measure)

    @abc.abstractmethod
    def measure(self, batch: Batch) -> tf.Tensor:
        """What is penalized, a scalar."""

    def penalty(self, batch: Batch) -> tf.Tensor:
        """μ times `measure`."""
        value = self.measure(batch)
        penalty = tf.cast(self.mu, value.dtype) * value
        count = tf.shape(batch.images)[0]
        self._measure.update_state(value, sample_weight=count)
        self._penalty.update_state(penalty, sample_weight=count)
        return penalty

    def watches(self) -> list[keras.callbacks.Callback]:
        """A warning of a penalty that is too small to matter."""
        self._warned = False
        return [keras.callbacks.LambdaCallback(on_epoch_end=self._warn_of_weakness)]

    def _warn_of_weakness(self, epoch: int, logs: dict[str, float]) -> None:
        """Warn once of a penalty that is below 1e-4 of the loss over a whole epoch."""
        share = logs.get(self._penalty.name, np.inf) / max(abs(logs.get("loss", 0.0)), 1e-30)
        mu = mu_value(self.mu)
        if share < 1e-4 and mu > 0 and not self._warned:
            self._warned = True
            warnings.warn(
                f"The penalty of {self.name} is {share:.1e} of the loss over epoch {epoch + 1}, which is as good as "
                f"plain training. Are the images on the scale {self.bounds}, and is μ = {mu:g} large enough?",
                stacklevel=2,
            )

    def _arguments(self) -> dict[str, Any]:
        return {self._weight: mu_value(self.mu), **super()._arguments()}  # as the number that it is now


@checked
def mu_from_budget(epsilon: NotNegative) -> float:
    r"""The μ of eq. (2) that prices what an attack within ε does to the prediction, to second order.

    .. math:: \mu = \tfrac{1}{2} \varepsilon^2, \qquad
        \mu \lambda_{\max}(G_x) = \max_{\|\delta\|_2 \le \varepsilon} \tfrac{1}{2} \delta^\top G_x \delta
        \approx \max_{\|\delta\|_2 \le \varepsilon} D_{KL}(p(x) \| p(x + \delta))

    λ is an inverse squared length, so a μ that suits one dataset does not suit another. Tuned by hand, before we knew
    this rule, μ was 1 on MNIST, for ε = 1.5 (1.1 by the rule), and 0.02 on GTSRB and CIFAR-10, for ε = 0.25 (0.03);
    0.1 cost GTSRB too much accuracy (``results/defenses``). Nothing has been trained at the rule's own values.

    Args:
        epsilon: The budget ε >= 0 in l2, on the scale of the images.

    Returns:
        μ.

    Raises:
        ValueError: if ``epsilon`` is negative or not finite.

    Example:
        >>> mu_from_budget(1.5), mu_from_budget(0.25)
        (1.125, 0.03125)

    Source:
        Eq. (1) of the paper, at the worst δ.
    """
    return 0.5 * float(epsilon) ** 2


@keras.saving.register_keras_serializable("keras_fim")
class AdversarialLabelSmoothing(Penalized):
    r"""Moves a share α of each label to the class that is least likely now.

    .. math:: (1 - \alpha) L(x, y) + \alpha L(x, \arg\min_k p_k) = L(x, y) + \alpha (z_y - \min_k z_k)

    So it is a penalty on the largest gap of the logits, and goes with any compiled loss. Ordinary label smoothing,
    ``FisherTraceLoss(mu=0, label_smoothing=α)``, spreads the share over all classes.

    Args:
        model: A built Keras classifier, or another defense of one.
        alpha: The share α in [0, 1), or a ``keras.Variable``, which is then also the attribute ``mu``.
        **options: ``bounds`` and ``name``, as in `Defense`.

    Logged in training: ``penalty`` (part of ``loss``) and ``logit_gap``.

    Raises:
        ValueError: If ``alpha`` is not in [0, 1).

    Source:
        Goibert & Dohmatob, Adversarial robustness via label-smoothing (arXiv 1906.11567), ALS.
    """

    _weight = "alpha"

    @checked
    def __init__(self, model: keras.Model, alpha: Mu = 0.3, **options: Any) -> None:
        value = mu_value(alpha) if isinstance(alpha, keras.Variable) else alpha
        expect(0 <= value < 1, "alpha", "in [0, 1)", value)
        super().__init__(model, alpha, measure="logit_gap", **{"name": "adversarial_label_smoothing", **options})

    def measure(self, batch: Batch) -> tf.Tensor:
        """Mean of the label's logit over the smallest."""
        return batch.mean(tf.gather(batch.logits, batch.labels, batch_dims=1) - tf.reduce_min(batch.logits, axis=-1))


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

    _weight = "beta"
    _options = ("epsilon", "norm", "attack_steps", "step_size")

    @checked
    def __init__(
        self,
        model: keras.Model,
        beta: Mu = 6.0,
        *,
        epsilon: NotNegative,
        norm: GradientNorm = np.inf,
        attack_steps: Count = 10,
        step_size: PositiveOrNone = None,
        **options: Any,
    ) -> None:
        step_size = min(1.0, 2.5 / attack_steps) if step_size is None else float(step_size)
        expect(isinstance(beta, keras.Variable) or 0 <= beta < np.inf, "beta", "a finite number >= 0", beta)
        super().__init__(model, beta, measure="divergence", **{"name": "trades", **options})
        self.epsilon, self.norm = float(epsilon), float(norm)
        self.attack_steps, self.step_size = int(attack_steps), step_size
        self._adversarial = keras.metrics.SparseCategoricalAccuracy(name="adversarial_accuracy")

    def measure(self, batch: Batch) -> tf.Tensor:
        """Mean divergence."""
        logits = batch.again(tf.stop_gradient(self._neighbors(batch, tf.stop_gradient(batch.logits))))
        self._adversarial.update_state(batch.labels, tf.stop_gradient(logits))
        return batch.mean(kl_divergence(batch.logits, logits))

    def _neighbors(self, batch: Batch, clean: tf.Tensor) -> tf.Tensor:
        units = problem.Units(self.bounds)
        task = attack_task(batch.images, batch.labels, self.epsilon, units, batch.seed)
        length, again = lp.by_image(self.step_size * task.epsilon, task.images), units.logits_fn(batch.again)

        def body(_: tf.Tensor | int, points: tf.Tensor) -> tf.Tensor:
            with jacobian.watched(points) as tape:
                divergence = kl_divergence(clean, again(points))
            points += length * lp.steepest(jacobian.usable_gradient(tape, divergence, points), self.norm)
            return lp.project_inside(points, task.images, task.epsilon, self.norm)

        points = body(0, samples.random_start(task, self.norm, 3))
        if self.attack_steps > 1:
            points = samples.repeat(body, self.attack_steps - 1, points)
        return units.returned(points, task.images, batch.images)
