"""A watch on catastrophic overfitting."""

import warnings
from typing import Any

import keras
import numpy as np

from keras_fim.arguments import GradientNorm, NotNegative, checked
from keras_fim.attacks import FGM, FGSM, PGD, FixedBudgetAttack
from keras_fim.typing import Images, Labels
from keras_fim.validation import check_bounds, check_images


class CatastrophicOverfitting(keras.callbacks.Callback):
    """Says after each epoch whether the model resists single-step attacks only.

    It logs ``fooled_one_step`` and ``fooled_iterative``, the fooling ratios of one step and of ten (PGD) at the same ε
    on a few images, and ``overfits``; where that is 1 it also warns. It is 1 where the second is at least three times
    the first and 0.2 above it, and above 2/3 or 0.2 above what it was in an earlier epoch. A plain model, which both
    attacks fool, is not reported, nor is one that a large ε fools as often as before.

    Args:
        images: The images ``(n, ...)`` to attack: a few hundred that the model is not trained on.
        labels: The labels ``(n,)`` of the images.
        epsilon: The budget ε > 0.
        norm: Either 2 or inf.
        one_step: The attack that the model is trained on; ``None`` for FGSM, or FGM in l2.
        bounds: The smallest and the largest pixel value.
        lowest: The smallest ``fooled_iterative`` of earlier epochs, when an interrupted training continues.

    Raises:
        ValueError: If an argument is not valid.

    Source:
        Wong, Rice, Kolter, Fast is better than free (ICLR 2020), who named it.
    """

    @checked
    def __init__(
        self,
        images: Images,
        labels: Labels,
        *,
        epsilon: NotNegative,
        norm: GradientNorm = np.inf,
        one_step: FixedBudgetAttack | None = None,
        bounds: tuple[float, float] = (0.0, 1.0),
        lowest: float = np.inf,
    ) -> None:
        super().__init__()
        bounds = check_bounds(bounds)
        self.images, self.labels, self.epsilon = check_images(images, bounds), np.asarray(labels), float(epsilon)
        one_step = one_step or (FGSM(bounds=bounds) if norm == np.inf else FGM(bounds=bounds))
        self.attacks = (one_step, PGD(norm=norm, steps=10, step_size=0.25, bounds=bounds, stop_early=True))
        self.lowest = float(lowest)
        self._lowest = self.lowest  # so far

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Forget another training."""
        self._lowest = self.lowest

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Attack, log, and warn."""
        one_step, iterative = (
            attack(self.model, self.images, self.labels, epsilon=self.epsilon).fooling_ratio for attack in self.attacks
        )
        one_step_only = iterative >= 3 * one_step and iterative - one_step >= 0.2
        overfits = one_step_only and (iterative > 2 / 3 or iterative - self._lowest >= 0.2)
        self._lowest = min(self._lowest, iterative)
        if logs is not None:
            logs.update(fooled_one_step=one_step, fooled_iterative=iterative, overfits=float(overfits))
        if overfits:
            warnings.warn(
                f"Catastrophic overfitting in epoch {epoch + 1}: {self.attacks[0].name} at {self.epsilon:g} fools "
                f"{one_step:.0%} of the images, {self.attacks[1].name} {iterative:.0%}. More noise, a smaller "
                "epsilon or an iterative attack helps.",
                stacklevel=2,
            )
