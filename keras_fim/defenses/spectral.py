"""Penalties on derivatives in the input, by a finite difference: eq. (2) made trainable, and the gradient's norm."""

from typing import Annotated, Any

import keras
import tensorflow as tf

from keras_fim.arguments import Count, Positive, PositiveShare, checked, one_of
from keras_fim.attacks import draws, losses, lp, problem
from keras_fim.defenses.batch import Batch
from keras_fim.defenses.penalties import Penalized
from keras_fim.geometry import Linearization, krylov_direction, linearized, logit_fim_form
from keras_fim.geometry.jacobian import gradient
from keras_fim.losses import Mu


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

    _options = ("direction", "krylov_steps", "step", "difference", "share")

    @checked
    def __init__(
        self,
        model: keras.Model,
        mu: Mu | None = None,
        *,
        budget: float | None = None,
        penalty: Annotated[str, one_of("eigenvalue", "trace")] = "eigenvalue",
        direction: Annotated[str, one_of("gradient", "krylov")] = "gradient",
        krylov_steps: Count = 1,
        step: Positive = 0.1,
        difference: Annotated[str, one_of("one_sided", "central")] = "one_sided",
        share: PositiveShare = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(model, mu, measure=penalty, budget=budget, **{"name": "spectral_defense", **options})
        self.penalized, self.direction, self.krylov_steps = penalty, direction, int(krylov_steps)
        self.step, self.difference, self.share = float(step), difference, float(share)

    def measure(self, batch: Batch) -> tf.Tensor:
        """Mean of the eigenvalue, or of the estimated trace."""
        batch = batch.part(self.share)
        values = logit_fim_form(batch.logits, self._slopes(batch, tf.stop_gradient(self._direction(batch))))
        if self.penalized == "trace":
            values *= batch.images.shape[1:].num_elements()
        return batch.mean(values)

    def _direction(self, batch: Batch) -> tf.Tensor:
        """A vector of norm 1 for each image, in units of the range of the pixels."""
        images = batch.images
        if self.penalized == "trace":
            gradient(batch.tape, batch.logits, images)  # is there one? compiled, it is not computed
            keys = draws.keys_of(batch.seed, tf.range(tf.shape(images)[0]))
            return lp.unit(draws.normal(draws.fold(keys, 1), images.shape[1:], images.dtype))
        jacobian, span = linearized(batch.tape, images, batch.logits), problem.Units(self.bounds).span(images.dtype)
        in_units = Linearization(jacobian.logits, lambda v: jacobian.push(span * v), lambda w: span * jacobian.pull(w))
        return krylov_direction(in_units, images, self.krylov_steps if self.direction == "krylov" else 0)

    def _slopes(self, batch: Batch, direction: tf.Tensor) -> tf.Tensor:
        """The derivative of the logits along a direction, ``(batch, K)``."""
        shift = self.step * problem.Units(self.bounds).span(batch.images.dtype) * direction
        ahead = batch.again(batch.images + shift)
        if self.difference == "one_sided":
            return (ahead - batch.logits) / self.step
        return (ahead - batch.again(batch.images - shift)) / (2 * self.step)

    def _arguments(self) -> dict[str, Any]:
        return {**super()._arguments(), "penalty": self.penalized}  # whose name is that of a method


@keras.saving.register_keras_serializable("keras_fim")
class GradientPenalty(Penalized):
    r"""Adds μ times the squared norm of the cross-entropy's gradient in the input to the loss.

    .. math:: L + \mu \|\nabla_x \mathrm{CE}(x, y)\|_2^2 = L + \mu (\partial_v \mathrm{CE})^2,
        \qquad v = \nabla_x \mathrm{CE} / \|\nabla_x \mathrm{CE}\|_2

    in units of the range of the pixels. With v held constant it is a finite difference of the loss: one more forward
    pass instead of a double backpropagation. A training step of the ConvNet costs 2.6 times a plain one in CPU seconds
    (``results/benchmarks/defense_step_mnist.json``). `SpectralDefense` penalizes the same for all classes, weighted by
    their probabilities.

    Args:
        model: A built Keras classifier, or another defense of one.
        mu: The weight μ >= 0, or a ``keras.Variable``; ``None`` for 1 or for what ``budget`` gives.
        budget: As in `SpectralDefense`.
        step: The length of the step in l2, in units of the range of the pixels.
        **options: ``bounds`` and ``name``, as in `Defense`.

    Logged in training: ``penalty`` (part of ``loss``) and ``squared_gradient``.

    Raises:
        ValueError: If an argument is not valid.

    Source:
        Ross & Doshi-Velez (AAAI 2018); the finite difference: Finlay & Oberman, Scaleable input gradient
        regularization for adversarial robustness (arXiv 1905.11468).
    """

    _options = ("step",)

    @checked
    def __init__(
        self,
        model: keras.Model,
        mu: Mu | None = None,
        *,
        budget: float | None = None,
        step: Positive = 0.1,
        **options: Any,
    ) -> None:
        options = {"name": "gradient_penalty", **options}
        super().__init__(model, mu, measure="squared_gradient", budget=budget, **options)
        self.step = float(step)

    def measure(self, batch: Batch) -> tf.Tensor:
        """Mean squared norm."""
        images, labels = batch.images, batch.labels
        with batch.tape:
            odds = losses.log_odds_against(batch.logits, labels)  # the cross-entropy's direction, and never 0
        span = problem.Units(self.bounds).span(images.dtype)
        direction = tf.stop_gradient(lp.unit(span * gradient(batch.tape, odds, images)))
        both = batch.again(images + self.step * span * direction), batch.logits
        ahead, here = (tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits) for logits in both)
        return batch.mean(((ahead - here) / self.step) ** 2)
