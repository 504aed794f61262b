"""One step along the gradient of the loss."""

import abc
import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from keras_fim.attacks.aimed import AimedAttack
from keras_fim.attacks.fixed_budget import FixedBudgetAttack, Perturbed
from keras_fim.attacks.losses import log_odds_against, loss_gradient
from keras_fim.attacks.lp import by_image, check_norm, norm_name, steepest
from keras_fim.attacks.samples import Task
from keras_fim.attacks.targets import TARGETS, choose_targets
from keras_fim.geometry.jacobian import gradient as gradient_of
from keras_fim.logits import LogitsFunction


class OneStep(FixedBudgetAttack):
    """A step of length ε in a direction that does not depend on ε: a sweep costs one gradient in all."""

    @property
    def one_step(self) -> bool:
        """True."""
        return True

    @abc.abstractmethod
    def prepare(self, logits_fn: LogitsFunction, task: Task) -> tuple[tf.Tensor, ...]:
        """Logits of the images, and directions of norm 1."""

    def perturb(self, logits_fn: LogitsFunction, task: Task, state: tuple[Any, ...]) -> Perturbed:
        """The step."""
        adversarials = tf.clip_by_value(task.images + by_image(task.epsilon, task.images) * state[1], 0, 1)
        return Perturbed(adversarials, logits_fn(adversarials))


@dataclasses.dataclass(frozen=True, kw_only=True)
class FGSM(OneStep, AimedAttack):
    r"""Fast Gradient Sign Method: :math:`x + \varepsilon \operatorname{sign} \nabla_x J(x, y)`, ε in l∞.

    With a target t it steps along :math:`-\nabla_x J(x, t)`.

    Args:
        target: See `keras_fim.attacks.aimed.AimedAttack`.

    Example:
        >>> from keras_fim import models
        >>> result = FGSM()(models.convnet(), np.full((2, 28, 28, 1), 0.4), [3, 7], epsilon=0.1)
        >>> result.distances.round(3)
        array([0.1, 0.1])

    Source:
        Goodfellow, Shlens, Szegedy, Explaining and harnessing adversarial examples (ICLR 2015).
    """

    norm = np.inf

    @property
    def name(self) -> str:
        """``fgsm``, with the target if there is one, like ``fgsm_to_3``."""
        return f"fgsm{self._suffix}"

    def prepare(self, logits_fn: LogitsFunction, task: Task) -> tuple[tf.Tensor, ...]:
        """Logits, and signs of the gradient."""
        gradients, logits = loss_gradient(logits_fn, task.images, task.labels, targets=self._aims(task))
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

    def prepare(self, logits_fn: LogitsFunction, task: Task) -> tuple[tf.Tensor, ...]:
        """Logits, and the normalized gradient."""
        gradients, logits = loss_gradient(logits_fn, task.images, task.labels)
        return logits, steepest(gradients, 2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OTCM(OneStep):
    r"""One-step target class method: :math:`x - \varepsilon \operatorname{sign} \nabla_x J(x, t)` for a class t ≠ y.

    Success is any wrong class, as for the other attacks.

    Args:
        target: which class is aimed at: ``"least_likely"``, ``"second"`` (the most probable wrong one), ``"random"``
            (any wrong one), or ``"given"`` with each call, as ``targets``.
        norm: inf takes the sign of the gradient, 2 the normalized gradient.

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

    def prepare(self, logits_fn: LogitsFunction, task: Task) -> tuple[tf.Tensor, ...]:
        """Logits, and the direction down the loss of the target."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(task.images)
            logits = logits_fn(task.images)
            with tape.stop_recording():
                targets = choose_targets(self.target, task, logits)
            loss = log_odds_against(logits, targets)
        gradients = gradient_of(tape, loss, task.images)
        return logits, -steepest(gradients, self.norm)
