"""The spectral attacks, of one step and of two."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_fim.attacks.fixed_budget import FixedBudgetAttack, Perturbed
from keras_fim.attacks.losses import log_odds_against, loss_gradient
from keras_fim.attacks.lp import by_image, unit
from keras_fim.attacks.samples import Task, choose
from keras_fim.geometry.krylov import MAX_STEPS, RTOL, check_method
from keras_fim.geometry.spectrum import spectrum_and_logits
from keras_fim.logits import LogitsFunction


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpectralAttack(FixedBudgetAttack):
    """Steps along the top eigenvector of the Fisher information matrix, whose sign is free.

    Where the matrix vanishes in float32 (a saturated sample), the direction is the gradient of the logit margin
    ``max_{j≠y} z_j - z_y``.

    Args:
        method: How the eigenvector is found, ``"exact"``, ``"krylov"`` or ``"auto"``, as in `fisher_spectrum`.
        rtol: The tolerance of the Krylov method, as in `fisher_spectrum`.
        max_steps: The largest number of its steps, as in `fisher_spectrum`.

    `AttackResult.details`, each ``(batch,)``, over all steps: ``saturated``, bool, whether the margin had to help out;
    ``converged``, bool, whether the eigenvectors did; ``num_steps``, int32, what the Krylov method took for them.
    """

    norm = 2.0

    method: str = "auto"
    rtol: float = RTOL
    max_steps: int = MAX_STEPS

    def __post_init__(self) -> None:
        super().__post_init__()
        check_method(self.method, self.rtol, self.max_steps)

    @property
    def whole_batch(self) -> bool:
        """Whether no image takes more Krylov steps than the others."""
        return self.method == "exact" or self.max_steps == 1

    def prepare(self, logits_fn: LogitsFunction, task: Task) -> tuple[tf.Tensor, ...]:
        """Logits, unit directions, and the details."""
        spectrum, logits = spectrum_and_logits(
            logits_fn, task.images, method=self.method, rtol=self.rtol, max_steps=self.max_steps
        )
        saturated = spectrum.eigenvalues[:, 0] <= 0
        margins = tf.cond(
            tf.reduce_any(saturated),
            lambda: unit(loss_gradient(logits_fn, task.images, task.labels, loss="margin")[0]),
            lambda: tf.zeros_like(task.images),
        )
        directions = choose(saturated, margins, spectrum.directions[:, 0])
        return logits, directions, saturated, spectrum.converged, spectrum.num_steps

    def _better_side(
        self, logits_fn: LogitsFunction, task: Task, directions: tf.Tensor, share: float
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """A step of a share of ε along or against ``directions``, to where the loss is larger, and the logits there."""
        step = by_image(share * task.epsilon, task.images) * directions
        forward, backward = (tf.clip_by_value(task.images + s * step, 0, 1) for s in (1, -1))
        attacked, other = logits_fn(forward), logits_fn(backward)
        better = log_odds_against(attacked, task.labels) >= log_odds_against(other, task.labels)
        return choose(better, (forward, attacked), (backward, other))


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

    steps: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_counts("steps")

    @property
    def one_step(self) -> bool:
        """Whether `steps` is 1."""
        return self.steps == 1

    def perturb(self, logits_fn: LogitsFunction, task: Task, state: tuple[Any, ...]) -> Perturbed:
        """The best point of all steps, each to the better side."""

        def body(best: Perturbed, points: tf.Tensor) -> tuple[Perturbed, tf.Tensor]:
            moved = task._replace(images=points)
            _, directions, *new = self.prepare(logits_fn, moved)
            points, logits = self._better_side(logits_fn, moved, directions, 1 / self.steps)
            worse = log_odds_against(logits, task.labels) < log_odds_against(best.logits, task.labels)
            details = _joined(best.details, _named(new))
            return Perturbed(*choose(worse, (best.adversarials, best.logits), (points, logits)), details), points

        best = Perturbed(*self._better_side(logits_fn, task, state[1], 1 / self.steps), _named(state[2:]))
        if self.steps == 1:
            return best
        loop = (best, best.adversarials)
        best, _ = tf.while_loop(lambda *_: True, body, loop, maximum_iterations=self.steps - 1)
        return Perturbed(*best)


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

    share: float = 0.6

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check(0 < self.share < 1, "share", "in (0, 1)")

    def perturb(self, logits_fn: LogitsFunction, task: Task, state: tuple[Any, ...]) -> Perturbed:
        """The two steps."""
        middle, _ = self._better_side(logits_fn, task, state[1], self.share)
        _, directions, *new = self.prepare(logits_fn, task._replace(images=middle))
        onward = tf.reduce_sum(directions * (middle - task.images), axis=tuple(range(1, middle.shape.rank)))
        length = (1 - self.share) * tf.where(onward >= 0, task.epsilon, -task.epsilon)
        points = tf.clip_by_value(middle + by_image(length, middle) * directions, 0, 1)
        return Perturbed(points, logits_fn(points), _joined(_named(state[2:]), _named(new)))


def _named(details: Sequence[tf.Tensor]) -> dict[str, tf.Tensor]:
    """The details of a step by their names, as `SpectralAttack.prepare` returns them."""
    return dict(zip(("saturated", "converged", "num_steps"), details, strict=True))


def _joined(old: dict[str, tf.Tensor], new: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """The details of two steps as those of both."""
    return {
        "saturated": old["saturated"] | new["saturated"],
        "converged": old["converged"] & new["converged"],
        "num_steps": old["num_steps"] + new["num_steps"],
    }
