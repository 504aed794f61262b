"""Eq. (2) made trainable: the largest eigenvalue of the Fisher information matrix in the input, or its trace."""

import math
from typing import Any

import keras
import tensorflow as tf

from keras_fim.arguments import checked
from keras_fim.attacks import draws
from keras_fim.attacks.base import check_epsilons
from keras_fim.attacks.lp import unit
from keras_fim.attacks.units import Units
from keras_fim.defenses.batch import Batch
from keras_fim.defenses.penalized import Penalized
from keras_fim.geometry import Linearization, krylov_direction, linearized, logit_fim_form
from keras_fim.geometry.jacobian import gradient
from keras_fim.losses import mu_value


@keras.saving.register_keras_serializable("keras_fim")
class SpectralDefense(Penalized):
    r"""Adds μ times the largest eigenvalue of the FIM in the input to the loss, the paper's eq. (2).

    .. math:: L + \mu \lambda_{\max}(G_x), \qquad
        \lambda_{\max}(G_x) = \max_{\|v\|=1} \operatorname{Var}_{k \sim p}(\partial_v z_k)

    The paper calls it intractable. With the top eigenvector v held constant (which leaves the gradient in the weights
    what it is, by the envelope theorem), :math:`\partial_v z` is a finite difference of the logits,
    :math:`(z(x + h v) - z(x)) / h`: one more forward pass. The pass on the clean images also gives v, and its batch
    statistics are those that are kept; the other pass is in the same mode.

    Cost of a training step of the ConvNet, in CPU time relative to plain training: 2.6 with the defaults; 4.5 with
    ``"krylov"``, 3.7 with ``"central"``, 2.2 and 1.5 with a ``share`` of 0.5 and 0.25, 1.9 with ``"trace"``, 3.6 around
    N-FGM (``results/benchmarks/defense_step_mnist.json``).

    Args:
        model: A built Keras classifier, or another defense of one, on whose images the penalty is then computed.
        mu: The weight μ >= 0 of the eigenvalue in units of the range of the pixels, or a ``keras.Variable``; ``None``
            for 1 or for what ``budget`` gives. `keras_fim.callbacks.MuSchedule` warms it up.
        budget: An ε in l2, on the scale of the images, that the model should withstand. It stands in place of ``mu``,
            for ``mu_from_budget(budget / range)``.
        penalty: ``"eigenvalue"``, or ``"trace"`` for :math:`\mu \operatorname{tr} G_x`: v is then a random direction,
            and D times the variance an unbiased estimate of the trace (D pixels).
        direction: How v is computed. ``"gradient"``: the gradient of the cross-entropy at the predicted class, one
            backward pass; the penalty is then a lower bound of the eigenvalue. ``"krylov"``: followed by
            ``krylov_steps`` steps towards the eigenvector, about two more backward passes each.
        krylov_steps: The number of these steps.
        step: The length h of the step in l2, in units of the range of the pixels. The penalty does not see what changes
            within h. A large h sees more than the derivative: curvature by which a model would resist single steps
            only.
        difference: ``"one_sided"``, towards the larger loss, or ``"central"``, for one more pass.
        share: The share in (0, 1] of each batch that carries the penalty. Below 1 these samples have a clean pass of
            their own, because otherwise batch normalization would turn the difference of two batches into a derivative.
        **options: ``bounds``, ``seed``, of the directions of ``"trace"``, and ``name``, as in `Defense`.

    Logged in training: ``penalty`` (part of ``loss``), and ``eigenvalue`` or ``trace``.

    Example:
        >>> from keras_fim import models
        >>> defended = SpectralDefense(models.convnet(filters=(2, 2)), mu=1.0)
        >>> defended.compile("adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
        >>> history = defended.fit(tf.zeros((4, 28, 28, 1)), tf.range(4), verbose=0).history
        >>> sorted(history)
        ['accuracy', 'eigenvalue', 'loss', 'penalty']

    Source:
        Shen, Peng, Zhang, Fan (arXiv 1909.06137), eq. (2).
    """

    @checked
    def __init__(
        self,
        model: keras.Model,
        mu: float | keras.Variable | None = None,
        *,
        budget: float | None = None,
        penalty: str = "eigenvalue",
        direction: str = "gradient",
        krylov_steps: int = 1,
        step: float = 0.1,
        difference: str = "one_sided",
        share: float = 1.0,
        **options: Any,
    ) -> None:
        check_choice("penalty", penalty, ("eigenvalue", "trace"))
        check_choice("direction", direction, ("gradient", "krylov"))
        check_choice("difference", difference, ("one_sided", "central"))
        check_step(step)
        if not isinstance(krylov_steps, int) or krylov_steps < 1:
            raise ValueError(f"`krylov_steps` should be a positive integer. Received: krylov_steps={krylov_steps}")
        if not 0 < share <= 1:
            raise ValueError(f"`share` should be in (0, 1]. Received: share={share}")
        weight = 1.0 if mu is None else mu
        super().__init__(model, weight, measure=penalty, **{"name": "spectral_defense", **options})
        set_budget(self, mu, budget)
        self.options: dict[str, Any] = {
            "penalty": penalty,
            "direction": direction,
            "krylov_steps": krylov_steps,
            "step": float(step),
            "difference": difference,
            "share": float(share),
        }

    def measure(self, batch: Batch) -> tf.Tensor:
        """Mean of the eigenvalue, or of the estimated trace."""
        batch = batch.part(self.options["share"])
        values = logit_fim_form(batch.logits, self._slopes(batch, tf.stop_gradient(self._direction(batch))))
        if self.options["penalty"] == "trace":
            values *= batch.images.shape[1:].num_elements()
        return batch.mean(values)

    def _direction(self, batch: Batch) -> tf.Tensor:
        """A vector of norm 1 for each image, in units of the range of the pixels."""
        images = batch.images
        if self.options["penalty"] == "trace":
            gradient(batch.tape, batch.logits, images)  # is there one? compiled, it is not computed
            keys = draws.keys_of(batch.seed, tf.range(tf.shape(images)[0]))
            return unit(draws.normal(draws.fold(keys, 1), images.shape[1:], images.dtype))
        steps = self.options["krylov_steps"] if self.options["direction"] == "krylov" else 0
        jacobian, span = linearized(batch.tape, images, batch.logits), Units(self.bounds).span(images.dtype)
        in_units = Linearization(jacobian.logits, lambda v: jacobian.push(span * v), lambda w: span * jacobian.pull(w))
        return krylov_direction(in_units, images, steps)

    def _slopes(self, batch: Batch, direction: tf.Tensor) -> tf.Tensor:
        """The derivative of the logits along a direction, ``(batch, K)``."""
        step = self.options["step"]
        shift = step * Units(self.bounds).span(batch.images.dtype) * direction
        ahead = batch.again(batch.images + shift)
        if self.options["difference"] == "one_sided":
            return (ahead - batch.logits) / step
        return (ahead - batch.again(batch.images - shift)) / (2 * step)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments; ``mu`` as the number that it is now."""
        return {**super().get_config(), "mu": mu_value(self.mu), **self.options}


@checked
def mu_from_budget(epsilon: float) -> float:
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
    check_epsilons([epsilon])
    return 0.5 * float(epsilon) ** 2


def set_budget(defense: Penalized, mu: Any, budget: float | None) -> None:
    """Set μ from a budget on the scale of the images, if there is one.

    Raises:
        ValueError: if there is a μ, too.
    """
    if budget is not None and mu is not None:
        raise ValueError(f"`budget` should be given in place of `mu`. Received: mu={mu}, budget={budget}")
    if budget is not None:
        defense.mu.assign(mu_from_budget(budget / Units(defense.bounds).scale))


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Check an option.

    Raises:
        ValueError: if it is not one of the choices.
    """
    if value not in choices:
        raise ValueError(f"`{name}` should be one of {', '.join(choices)}. Received: {name}={value!r}")


def check_step(step: float) -> None:
    """Check the length of a finite difference.

    Raises:
        ValueError: if it is not a positive number.
    """
    if not 0 < step < math.inf:
        raise ValueError(f"`step` should be a positive number. Received: step={step}")
