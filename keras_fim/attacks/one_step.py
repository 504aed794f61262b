"""One step along the gradient of the loss."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_fim.attacks.fixed_budget import FixedBudgetAttack, Perturbed
from keras_fim.attacks.losses import log_odds_against, loss_gradient
from keras_fim.attacks.lp import by_image, check_norm, norm_name, steepest
from keras_fim.attacks.targets import TARGETS, check_targets, choose_targets
from keras_fim.logits import LogitsFunction
from keras_fim.typing import AttackResult, Images, Labels, Model

__all__ = ["FGM", "FGSM", "OTCM", "OneStep"]


class OneStep(FixedBudgetAttack):
    """A step of length ε in a direction that does not depend on ε: a sweep costs one gradient in all."""

    @property
    def one_step(self) -> bool:
        """True."""
        return True

    def prepare(
        self, logits_fn: LogitsFunction, images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor, *extras: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        """Logits and directions."""
        return self.direction(logits_fn, images, labels, seed, *extras)

    def perturb(
        self,
        logits_fn: LogitsFunction,
        images: tf.Tensor,
        labels: tf.Tensor,
        epsilon: tf.Tensor,
        seed: tf.Tensor,
        logits: tf.Tensor,
        *state: Any,
    ) -> Perturbed:
        """The step."""
        adversarials = tf.clip_by_value(images + by_image(epsilon, images) * state[0], *self.bounds)
        return Perturbed(adversarials, logits_fn(adversarials))

    @abc.abstractmethod
    def direction(
        self, logits_fn: LogitsFunction, images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor, *extras: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Logits of the images, and directions of norm 1."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FGSM(OneStep):
    r"""Fast Gradient Sign Method: :math:`x + \varepsilon \operatorname{sign} \nabla_x J(x, y)`, ε in l∞.

    Example:
        >>> from keras_fim import models
        >>> result = FGSM()(models.convnet(), np.full((2, 28, 28, 1), 0.4), [3, 7], epsilon=0.1)
        >>> result.distances.round(3)
        array([0.1, 0.1])

    Source:
        Goodfellow, Shlens, Szegedy, Explaining and harnessing adversarial examples (ICLR 2015).
    """

    name = "fgsm"
    norm = np.inf

    def direction(
        self, logits_fn: LogitsFunction, images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor, *extras: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Signs of the gradient."""
        gradients, logits = loss_gradient(logits_fn, images, labels)
        return logits, steepest(gradients, np.inf)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FGM(OneStep):
    r"""Fast Gradient Method: :math:`x + \varepsilon \nabla_x J(x, y) / \|\nabla_x J(x, y)\|_2`, ε in l2.

    Example:
        >>> from keras_fim import models
        >>> result = FGM()(models.convnet(), np.full((2, 28, 28, 1), 0.4), [3, 7], epsilon=0.5)
        >>> result.distances.round(3)
        array([0.5, 0.5])

    Source:
        Liu, Chen, Liu, Song, Delving into transferable adversarial examples and black-box attacks (ICLR 2017).
    """

    name = "fgm"
    norm = 2.0

    def direction(
        self, logits_fn: LogitsFunction, images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor, *extras: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The gradient, normalised."""
        gradients, logits = loss_gradient(logits_fn, images, labels)
        return logits, steepest(gradients, 2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OTCM(OneStep):
    r"""One-step target class method: :math:`x - \varepsilon \operatorname{sign} \nabla_x J(x, t)` for a class t ≠ y.

    Success is any wrong class, as for the other attacks.

    Args:
        target: which class is aimed at: ``"least_likely"``, ``"second"`` (the most probable wrong one), ``"random"``
            (any wrong one), or ``"given"`` with each call.
        norm: inf takes the sign of the gradient, 2 the normalised gradient.

    Example:
        >>> from keras_fim import models
        >>> result = OTCM(target="given")(
        ...     models.convnet(), np.full((2, 28, 28, 1), 0.4), [3, 7], epsilon=0.1, targets=[5, 5]
        ... )
        >>> result.distances.round(3)
        array([0.1, 0.1])

    Source:
        Kurakin, Goodfellow, Bengio, Adversarial machine learning at scale (ICLR 2017).
    """

    target: str = "least_likely"
    norm: float = np.inf

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check(self.target in TARGETS, "target", f"one of {', '.join(TARGETS)}")
        object.__setattr__(self, "norm", check_norm(self.norm, (2, np.inf)))

    @property
    def name(self) -> str:
        """``otcm``, with the norm if it is not the default."""
        return "otcm" if self.norm == np.inf else f"otcm_{norm_name(self.norm)}"

    def __call__(
        self, model: Model, images: Images, labels: Labels, *, epsilon: float, targets: Labels | None = None
    ) -> AttackResult:
        """Perturb each image by at most ``epsilon``; as `FixedBudgetAttack.__call__`.

        Args:
            model: as there.
            images: as there.
            labels: as there.
            epsilon: as there.
            targets: the classes aimed at, as ``labels``, with ``target="given"`` and only then.

        Returns:
            `AttackResult`.

        Raises:
            ValueError: as there, and if ``targets`` are missing, superfluous or the true labels.
        """
        return self.sweep(model, images, labels, [epsilon], targets=targets)[0]

    def sweep(
        self,
        model: Model,
        images: Images,
        labels: Labels,
        epsilons: Sequence[float],
        *,
        targets: Labels | None = None,
    ) -> list[AttackResult]:
        """One result for each ε; as `FixedBudgetAttack.sweep`, with the ``targets`` of the call."""
        problem = self._problem(model, images, labels)
        return self._sweep(problem, epsilons, *check_targets(targets, self.target, problem))

    def direction(
        self, logits_fn: LogitsFunction, images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor, *extras: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Down the loss of the target."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            logits = logits_fn(images)
            with tape.stop_recording():
                targets = extras[0] if extras else choose_targets(self.target, logits, labels, seed)
            loss = log_odds_against(logits, targets)
        gradients = tape.gradient(loss, images, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return logits, -steepest(gradients, self.norm)
