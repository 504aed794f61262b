"""What an evaluation says of a model."""

from __future__ import annotations

import dataclasses

import numpy as np

from keras_fim.evaluation.distances import DistanceSummary
from keras_fim.evaluation.intervals import Ratio, wilson
from keras_fim.evaluation.report import Report, Row
from keras_fim.evaluation.rows import AttackRow
from keras_fim.evaluation.spectrum import SpectrumSummary

__all__ = ["Evaluation"]


@dataclasses.dataclass(frozen=True)
class Evaluation(Report):
    """How robust a model is; prints as tables that end in a verdict.

    Attributes:
        model: The model's name.
        pixels: The range of the pixel values, and how it is known.
        flags: What makes the figures worthless or weak, in words; empty if nothing does.
        accuracy: The accuracy on the images as they are.
        mean_confidence: The mean of the largest predicted probability.
        rows: One for each attack and ε.
        distances: One for each attack that looks for the nearest adversarial.
        spectrum: The Fisher information, or None if it was not asked for.
        digests: Of the model and of the data: equal ones are the same.
        versions: Of the packages that measured.
    """

    model: str
    pixels: str
    flags: tuple[str, ...]
    accuracy: Ratio
    mean_confidence: float
    rows: tuple[AttackRow, ...]
    distances: tuple[DistanceSummary, ...]
    spectrum: SpectrumSummary | None
    digests: dict[str, str]
    versions: dict[str, str | None] = dataclasses.field(repr=False)

    def row(self, attack: str, epsilon: float) -> AttackRow:
        """The row of an attack, by name, at an ε.

        Raises:
            ValueError: If there is none.
        """
        for row in self.rows:
            if row.attack == attack and np.isclose(row.epsilon, epsilon, rtol=1e-6, atol=0):
                return row
        known = ", ".join(f"{row.attack} at {row.epsilon:g}" for row in self.rows)
        raise ValueError(f"`attack` and `epsilon` should be of {known}. Received: {attack} at {epsilon:g}")

    @property
    def verdict(self) -> str:
        """The robust accuracy that may be quoted: for each norm and ε that of the attack here that fools most."""
        strongest = {(row.norm, row.epsilon): row for row in reversed(self.rows) if row.strongest}
        lines = [
            f"{norm} {epsilon:g}: robust accuracy {row.robust} under {row.attack}"
            + (", a preview" if "quick=True" in row.options else "")
            for (norm, epsilon), row in sorted(strongest.items())
        ]
        flags = [f"flag: {flag}" for flag in self.flags]
        return "\n".join(["Verdict", *lines, self.pixels, *flags, *self.quotes])

    @property
    def quotes(self) -> list[str]:
        """A sentence to quote for each norm and ε of `keras_fim.attacks.AutoAttack`, with what it was measured on."""
        return [
            f"to quote: {self.model} has a robust accuracy of {row.robust} at {row.norm} ε = {row.epsilon:g} under "
            f"AutoAttack (standard) as implemented in keras_fim {self.versions['keras_fim']}, and a clean accuracy of "
            f"{self.accuracy}, on {row.robust.total} images{', with flags' if self.flags else ''}"
            for row in self._by_autoattack()
        ]

    def _by_autoattack(self) -> list[AttackRow]:
        return [row for row in self.rows if row.attack.startswith("autoattack_")]

    def _leaderboard(self) -> list[Row]:
        """A row for each norm and ε of AutoAttack, with the share that stands after each stage."""
        return [
            {
                **{"model": self.model, "norm": row.norm, "ε": row.epsilon, "images": row.robust.total},
                **{"version": "standard", "clean": self.accuracy, "robust": row.robust, "flags": len(self.flags)},
                **{f"fooled by {stage}": f"{100 * share:.1f} %" for stage, share in row.stages.items()},
            }
            for row in self._by_autoattack()
        ]

    def tables(self) -> dict[str, list[Row]]:
        """Accuracy; attacks; distances; spectrum."""
        clean: Row = {"model": self.model, "accuracy": self.accuracy, "mean confidence": self.mean_confidence}
        unique = len({row.options for row in self.rows}) == len({row.attack for row in self.rows})
        attacks: list[Row] = [
            {
                "attack": row.attack if unique else row.options,
                "norm": row.norm,
                "ε": row.epsilon,
                "fooling ratio": row.fooling,
                "robust accuracy": row.robust,
                "strongest": row.strongest,
                "unconfirmed": row.num_unconfirmed,
            }
            for row in self.rows
        ]
        stages: list[Row] = [
            {"attack": row.attack, "ε": row.epsilon, **{key: wilson(round(v * n), n) for key, v in row.stages.items()}}
            for row in self.rows
            if row.stages and (n := row.fooling.total)
        ]
        return {
            f"On {self.accuracy.total} images, with 95 % intervals": [clean],
            "Leaderboard": self._leaderboard(),
            "Within ε": attacks,
            "Fooled by each stage": stages,
            "Nearest adversarials": [summary.row() for summary in self.distances],
            "Fisher information": [] if self.spectrum is None else self.spectrum.tables()[""],
        }

    def __str__(self) -> str:
        return f"{super().__str__()}\n\n{self.verdict}"
