"""Single steps along the gradient of the loss, or along the top eigenvector of the Fisher information matrix."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import tensorflow as tf

from keras_fim.arguments import Count, GradientNorm, InnerShare, Positive, one_of
from keras_fim.attacks import base, kinds, losses, lp, problem, samples
from keras_fim.geometry import krylov, spectrum
from keras_fim.logits import LogitsFunction


class OneStep(kinds.FixedBudgetAttack):
    """A step of length ε in a direction that does not depend on ε: a sweep costs one gradient in all."""

    one_step = True

    def prepare(self, logits_fn: LogitsFunction, task: samples.Task) -> tuple[tf.Tensor, ...]:
        """Logits of the images, and directions of norm 1: up the loss, or down that of the targets."""
        slope, logits = losses.loss_gradient(logits_fn, task.images, task.labels, targets=lambda z: self._aim(z, task))
        return logits, lp.steepest(slope, self.norm)

    def _aim(self, logits: tf.Tensor, task: samples.Task) -> tf.Tensor | None:
        """The classes to aim at, if there are any."""
        return None

    def perturb(self, logits_fn: LogitsFunction, task: samples.Task, state: tuple[Any, ...]) -> kinds.Perturbed:
        """The step."""
        adversarials = tf.clip_by_value(task.images + lp.by_image(task.epsilon, task.images) * state[1], 0, 1)
        return kinds.Perturbed(adversarials, logits_fn(adversarials))


@dataclasses.dataclass(frozen=True, kw_only=True)
class FGSM(OneStep, base.AimedAttack):
    r"""Fast Gradient Sign Method: :math:`x + \varepsilon \operatorname{sign} \nabla_x J(x, y)`, ε in l∞.

    With a target t it steps along :math:`-\nabla_x J(x, t)`.

    Args:
        target: See `keras_fim.attacks.base.AimedAttack`.

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

    def _aim(self, logits: tf.Tensor, task: samples.Task) -> tf.Tensor | None:
        return self._aims(task)


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

    target: Annotated[str, one_of(*problem.TARGETS)] = "least_likely"
    norm: GradientNorm = np.inf

    @property
    def name(self) -> str:
        """``otcm``, with the norm if it is not the default."""
        return "otcm" if self.norm == np.inf else f"otcm_{lp.norm_name(self.norm)}"

    def _aim(self, logits: tf.Tensor, task: samples.Task) -> tf.Tensor:
        return problem.choose_targets(self.target, task, logits)


_DETAILS = ("saturated", "converged", "num_steps")
"""The details of a step along an eigenvector, ``(batch,)`` each; see `SpectralAttack`."""


def _joined(first: Sequence[tf.Tensor], second: Sequence[tf.Tensor]) -> tuple[tf.Tensor, ...]:
    """The details of two steps together."""
    return first[0] | second[0], first[1] & second[1], first[2] + second[2]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpectralAttack(kinds.FixedBudgetAttack):
    """Steps along the top eigenvector of the Fisher information matrix, whose sign is free.

    Where the matrix vanishes in float32 (a saturated sample) or is not finite, the direction is the gradient of the
    logit margin ``max_{j≠y} z_j - z_y``.

    Args:
        method: How the eigenvector is found, ``"exact"``, ``"krylov"`` or ``"auto"``, as in `fisher_spectrum`.
        rtol: The tolerance of the Krylov method, as in `fisher_spectrum`.
        max_steps: The largest number of its steps, as in `fisher_spectrum`.

    `AttackResult.details`, each ``(batch,)``, over all steps: ``saturated``, bool, whether the margin had to help out;
    ``converged``, bool, whether the eigenvectors did; ``num_steps``, int32, what the Krylov method took for them.
    """

    norm = 2.0

    method: Annotated[str, one_of(*krylov.METHODS)] = "auto"
    rtol: Positive = krylov.RTOL
    max_steps: Count = krylov.MAX_STEPS

    @property
    def whole_batch(self) -> bool:
        """Whether no image takes more Krylov steps than the others."""
        return self.method == "exact" or self.max_steps == 1

    def prepare(self, logits_fn: LogitsFunction, task: samples.Task) -> tuple[tf.Tensor, ...]:
        """Logits, unit directions, and the details."""
        options: dict[str, Any] = {"method": self.method, "rtol": self.rtol, "max_steps": self.max_steps}
        eigenpairs, logits = spectrum.spectrum_and_logits(logits_fn, task.images, **options)
        saturated = (eigenpairs.eigenvalues[:, 0] <= 0) | ~tf.math.is_finite(eigenpairs.eigenvalues[:, 0])

        def steepest() -> tf.Tensor:
            return lp.unit(losses.loss_gradient(logits_fn, task.images, task.labels, loss="margin")[0])

        margins = tf.cond(tf.reduce_any(saturated), steepest, lambda: tf.zeros_like(task.images))
        directions = samples.choose(saturated, margins, eigenpairs.directions[:, 0])
        return logits, directions, saturated, eigenpairs.converged, eigenpairs.num_steps

    def _better_side(
        self, logits_fn: LogitsFunction, task: samples.Task, directions: tf.Tensor, share: float
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """A step of a share of ε along or against ``directions``, to where the loss is larger, and the logits there."""
        step = lp.by_image(share * task.epsilon, task.images) * directions
        forward, backward = (tf.clip_by_value(task.images + s * step, 0, 1) for s in (1, -1))
        attacked, other = logits_fn(forward), logits_fn(backward)
        better = losses.log_odds_against(attacked, task.labels) >= losses.log_odds_against(other, task.labels)
        return samples.choose(better, (forward, attacked), (backward, other))


@dataclasses.dataclass(frozen=True, kw_only=True)
class OSSA(SpectralAttack):
    r"""One Step Spectral Attack: a step of l2 length ε along the top eigenvector of the Fisher information matrix.

    .. math:: \max_\eta\; \eta^\top G_x \eta \quad \text{s.t.} \quad \|\eta\|_2 = \varepsilon,\; J(y, x+\eta) > J(y, x)

    Of ``x ± ε η``, clipped to the pixel bounds, it takes the one with the larger loss. With several steps each has
    length ε / ``steps`` and goes along the eigenvector at the point reached, so their sum stays within ε; of the points
    reached the one with the largest loss is returned.

    Args:
        steps: The number of steps, each along a new eigenvector.

    For the other arguments and the details of a result see `SpectralAttack`.

    ε is the norm itself; the paper's section 3.1 uses ε for its square, its section 4 and figures for the norm.

    Example:
        >>> import numpy as np
        >>> from keras_fim import models
        >>> result = OSSA()(models.convnet(), np.full((2, 28, 28, 1), 0.4), [3, 7], epsilon=0.5)
        >>> result.distances.round(3)
        array([0.5, 0.5])

    Source:
        Zhao et al., The adversarial attack and detection under the Fisher information metric (AAAI 2019); the paper's
        section 3.1.
    """

    name = "ossa"

    steps: Count = 1

    @property
    def one_step(self) -> bool:
        """Whether `steps` is 1."""
        return self.steps == 1

    def perturb(self, logits_fn: LogitsFunction, task: samples.Task, state: tuple[Any, ...]) -> kinds.Perturbed:
        """The best point of all steps, each to the better side."""

        def body(_: tf.Tensor, state: tuple[Any, ...]) -> tuple[Any, ...]:
            points, best, details = state
            moved = task._replace(images=points)
            _, directions, *new = self.prepare(logits_fn, moved)
            points, logits = self._better_side(logits_fn, moved, directions, 1 / self.steps)
            worse = losses.log_odds_against(logits, task.labels) < losses.log_odds_against(best[1], task.labels)
            return points, samples.choose(worse, best, (points, logits)), _joined(details, new)

        best, details = self._better_side(logits_fn, task, state[1], 1 / self.steps), state[2:]
        if self.steps > 1:
            _, best, details = samples.repeat(body, self.steps - 1, (best[0], best, details))
        return kinds.Perturbed(*best, dict(zip(_DETAILS, details, strict=True)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TSSA(SpectralAttack):
    """Two Step Spectral Attack: two steps that follow a geodesic of the Fisher information metric.

    The first step has length ``share`` ε and goes along the top eigenvector, to the side of the larger loss. The second
    one has the rest of ε and goes along the top eigenvector at the point reached, in the direction that continues the
    first one.

    Args:
        share: The share of ε that the first step has, in (0, 1).

    For the other arguments and the details of a result see `SpectralAttack`.

    Example:
        >>> import numpy as np
        >>> from keras_fim import models
        >>> result = TSSA()(models.convnet(), np.full((2, 28, 28, 1), 0.4), [3, 7], epsilon=0.5)
        >>> bool((result.distances <= 0.500001).all())
        True

    Source:
        Tron, Couellan, Puechmorel, Adversarial attacks on neural networks through canonical Riemannian foliations
        (2022, arXiv 2203.00922); the share is that of the authors' experiments.
    """

    name = "tssa"

    share: InnerShare = 0.6

    def perturb(self, logits_fn: LogitsFunction, task: samples.Task, state: tuple[Any, ...]) -> kinds.Perturbed:
        """The two steps."""
        middle, _ = self._better_side(logits_fn, task, state[1], self.share)
        _, directions, *new = self.prepare(logits_fn, task._replace(images=middle))
        onward = tf.reduce_sum(directions * (middle - task.images), axis=tuple(range(1, middle.shape.rank)))
        length = (1 - self.share) * tf.where(onward >= 0, task.epsilon, -task.epsilon)
        points = tf.clip_by_value(middle + lp.by_image(length, middle) * directions, 0, 1)
        return kinds.Perturbed(points, logits_fn(points), dict(zip(_DETAILS, _joined(state[2:], new), strict=True)))
