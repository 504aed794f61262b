"""Attacks that can aim at a class: "how easily does a stop sign become a speed limit?"."""

from __future__ import annotations

import dataclasses
from numbers import Integral

import tensorflow as tf

from keras_fim.attacks.base import Attack
from keras_fim.attacks.losses import TARGETED_LOSSES
from keras_fim.attacks.samples import Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class AimedAttack(Attack):
    """An attack with the option ``target``: only the prediction of that class is then a success.

    It raises the negative of its loss for the target in place of the loss for the label. Images whose label is their
    target are left out: they come back unchanged and count as neither correct nor fooled. A result's
    ``details["target"]``, int64 ``(batch,)``, holds the targets.

    Args:
        target: The class that should be predicted, an integer; ``"given"`` for one class per sample, passed with each
            call as ``targets``; ``None`` for any wrong class.
    """

    target: int | str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        number = isinstance(self.target, Integral) and not isinstance(self.target, bool) and int(self.target) >= 0
        self._check(number or self.target in (None, "given"), "target", "a class >= 0, 'given' or None")

    @property
    def aimed(self) -> bool:
        """Whether there is a target."""
        return self.target is not None

    @property
    def _suffix(self) -> str:
        """What the target adds to the attack's name."""
        return "" if self.target is None else f"_to_{self.target}"

    def _aims(self, task: Task, loss: str = "") -> tf.Tensor | None:
        """The task's targets, if there is a target, or if a loss that is raised has one; ``None`` otherwise."""
        return task.target if self.aimed or loss in TARGETED_LOSSES else None

    def _essence(self) -> AimedAttack:
        """The class is an argument of the compiled functions, not part of them."""
        plain = super()._essence()
        return plain if self.target is None else dataclasses.replace(plain, target="given")
