"""The One Step Spectral Attack."""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from keras_fim.attacks.fixed_budget import FixedBudgetAttack, Perturbed
from keras_fim.attacks.losses import log_odds_against, loss_gradient
from keras_fim.attacks.lp import by_image, unit
from keras_fim.attacks.samples import Task, choose
from keras_fim.geometry.krylov import MAX_STEPS, RTOL
from keras_fim.geometry.spectrum import check_method, spectrum_and_logits
from keras_fim.logits import LogitsFunction


@dataclasses.dataclass(frozen=True, kw_only=True)
class OSSA(FixedBudgetAttack):
    r"""One Step Spectral Attack: a step of l2 length ε along the top eigenvector of the Fisher information matrix.

    .. math:: \max_\eta\; \eta^\top G_x \eta \quad \text{s.t.} \quad \|\eta\|_2 = \varepsilon,\; J(y, x+\eta) > J(y, x)

    The sign of η is free: the one with the larger loss at ``x ± ε η``, after clipping to the pixel bounds, is taken.
    Where the matrix vanishes in float32 (a saturated sample), η is the gradient of the logit margin
    ``max_{j≠y} z_j - z_y``. With several steps each has length ε / ``steps`` and goes along the eigenvector at the
    point reached, so their sum stays within ε; of the points reached the one with the largest loss is returned.

    Args:
        method: how the eigenvector is found, ``"exact"``, ``"krylov"`` or ``"auto"``, as in `fisher_spectrum`.
        rtol: of the Krylov method, as there.
        max_steps: of the Krylov method, as there.
        steps: how often a new eigenvector is taken.

    `AttackResult.details`, each ``(batch,)``, over all steps: ``saturated``, bool, whether the margin had to help out;
    ``converged``, bool, whether the eigenvectors did; ``num_steps``, int32, what the Krylov method took for them.

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
    norm = 2.0

    method: str = "auto"
    rtol: float = RTOL
    max_steps: int = MAX_STEPS
    steps: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_method(self.method, self.rtol, self.max_steps)
        self._check_counts("steps")

    @property
    def one_step(self) -> bool:
        """Whether `steps` is 1."""
        return self.steps == 1

    @property
    def whole_batch(self) -> bool:
        """Whether no image takes more Krylov steps than the others."""
        return self.method == "exact" or self.max_steps == 1

    def prepare(self, logits_fn: LogitsFunction, task: Task) -> tuple[tf.Tensor, ...]:
        """Logits, unit directions, and the details."""
        found, logits = spectrum_and_logits(
            logits_fn, task.images, method=self.method, rtol=self.rtol, max_steps=self.max_steps
        )
        saturated = found.eigenvalues[:, 0] <= 0
        margins = tf.cond(
            tf.reduce_any(saturated),
            lambda: unit(loss_gradient(logits_fn, task.images, task.labels, loss="margin")[0]),
            lambda: tf.zeros_like(task.images),
        )
        directions = choose(saturated, margins, found.directions[:, 0])
        return logits, directions, saturated, found.converged, found.num_steps

    def perturb(self, logits_fn: LogitsFunction, task: Task, state: tuple[Any, ...]) -> Perturbed:
        """The best point of all steps, each to the better side."""

        def body(best: Perturbed, points: tf.Tensor) -> tuple[Perturbed, tf.Tensor]:
            moved = task._replace(images=points)
            _, directions, saturated, converged, num_steps = self.prepare(logits_fn, moved)
            points, logits = self._better_side(logits_fn, moved, directions)
            worse = log_odds_against(logits, task.labels) < log_odds_against(best.logits, task.labels)
            old = best.details
            details = {
                "saturated": old["saturated"] | saturated,
                "converged": old["converged"] & converged,
                "num_steps": old["num_steps"] + num_steps,
            }
            return Perturbed(*choose(worse, (best.adversarials, best.logits), (points, logits)), details), points

        details = dict(zip(("saturated", "converged", "num_steps"), state[2:], strict=True))
        best = Perturbed(*self._better_side(logits_fn, task, state[1]), details)
        if self.steps == 1:
            return best
        loop = (best, best.adversarials)
        best, _ = tf.while_loop(lambda *_: True, body, loop, maximum_iterations=self.steps - 1)
        return Perturbed(*best)

    def _better_side(self, logits_fn: LogitsFunction, task: Task, directions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """A step along or against ``directions``, in the unit cube, to where the loss is larger; the logits there."""
        step = by_image(task.epsilon / self.steps, task.images) * directions
        forward, backward = (tf.clip_by_value(task.images + s * step, 0, 1) for s in (1, -1))
        attacked, other = logits_fn(forward), logits_fn(backward)
        better = log_odds_against(attacked, task.labels) >= log_odds_against(other, task.labels)
        return choose(better, (forward, attacked), (backward, other))
