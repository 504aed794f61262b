"""AutoAttack: the ensemble by which robust accuracies are compared in the literature."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from keras_fim.attacks.apgd import APGD
from keras_fim.attacks.base import Attack
from keras_fim.attacks.fab import FAB
from keras_fim.attacks.lp import norm_name
from keras_fim.attacks.problem import Problem
from keras_fim.attacks.square import Square
from keras_fim.attacks.staged import StagedAttack, outputs_differ
from keras_fim.typing import AttackResult

_FEW = 64  # images on which two passes are compared


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoAttack(StagedAttack):
    """AutoAttack in its version ``standard``, compiled: each sample goes on to the next stage while it stands.

    The stages are (`stages`): ``apgd_ce``, APGD on the cross-entropy; ``apgd_t``, APGD on the targeted DLR for each of
    the nine most probable wrong classes; ``fab_t``, FAB towards each of them; ``square``, 5,000 queries. All take 100
    steps and one run for each class. The targeted DLR needs four classes. With three, ``apgd_dlr`` runs after
    ``apgd_ce``, and ``apgd_t`` climbs :math:`z_t - z_y`; with two, only the latter.

    Args:
        norm: 2 or inf.
        version: ``"standard"``.

    The result's ``details["stage"]`` is, for each sample, the index of the stage that fooled it, or negative; see
    `keras_fim.attacks.staged.StagedAttack` for the rest.

    Raises:
        ValueError: If the model's outputs differ between two passes.

    Example:
        >>> attack = AutoAttack(norm=2)
        >>> attack.name, list(attack.attacks()), list(attack.attacks(num_classes=2))
        ('autoattack_l2', ['apgd_ce', 'apgd_t', 'fab_t', 'square'], ['apgd_ce', 'apgd_t', 'fab_t', 'square'])

    Source:
        Croce & Hein, Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks
        (ICML 2020), section 5.
    """

    version: str = "standard"

    stages: ClassVar[tuple[str, ...]] = ("apgd_ce", "apgd_dlr", "apgd_t", "fab_t", "square")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check(self.version == "standard", "version", "'standard'")

    @property
    def name(self) -> str:
        """``autoattack_l2`` or ``autoattack_linf``."""
        return f"autoattack_{norm_name(self.norm)}"

    def _sweep(self, problem: Problem, epsilons: Sequence[float | None]) -> list[AttackResult]:
        """A success on a model that draws random numbers may not repeat itself."""
        images = problem.images[:_FEW]
        if outputs_differ(*(problem.logits_fn(images).numpy().astype(np.float64) for _ in range(2))):
            expected = "the same logits in two passes over the same images with version='standard'"
            raise ValueError(f"`model` should return {expected}. Received: random outputs; a success may not repeat")
        return super()._sweep(problem, epsilons)

    def attacks(self, num_classes: int = 10) -> dict[str, Attack]:
        """The attack of each stage that runs on models of K classes."""
        shared: dict[str, Any] = {"norm": self.norm, "bounds": self.bounds, "batch_size": self.batch_size}
        dlr = {"apgd_dlr": APGD(loss="dlr", stop_early=True, **shared)} if num_classes == 3 else {}
        targeted = "dlr_targeted" if num_classes > 3 else "targeted_margin"
        return {
            "apgd_ce": APGD(stop_early=True, **shared),
            **dlr,
            "apgd_t": APGD(loss=targeted, stop_early=True, **shared),
            "fab_t": FAB(**shared),
            "square": Square(queries=5000, **shared),
        }
