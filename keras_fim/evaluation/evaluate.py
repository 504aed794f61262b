"""Everything at once: accuracy, fooling ratios, robust accuracy, distances and the Fisher spectrum of a model."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_fim.attacks.base import Attack
from keras_fim.attacks.catalog import Epsilons, attack_by_name, resolve_epsilons
from keras_fim.attacks.fixed_budget import FixedBudgetAttack
from keras_fim.attacks.nearest import MinimalDistanceAttack
from keras_fim.attacks.strong import Strong
from keras_fim.evaluation.cells import Cells, data_digest, model_digest
from keras_fim.evaluation.curves import clean_performance, samples
from keras_fim.evaluation.distances import DistanceSummary, distance_summary
from keras_fim.evaluation.intervals import Ratio, wilson
from keras_fim.evaluation.report import Report, Row, decode, encode
from keras_fim.evaluation.rows import AttackRow, attack_row, marked
from keras_fim.evaluation.spectrum import SpectrumSummary, spectrum_summary
from keras_fim.logits import LogitsFunction, logits_function
from keras_fim.records import versions
from keras_fim.typing import Images, Labels, Model
from keras_fim.validation import check_images

__all__ = ["DEFAULT_ATTACKS", "Evaluation", "evaluate"]

DEFAULT_ATTACKS = ("ossa", "fgsm", "pgd_l2", "pgd_linf", "deepfool_l2")
"""One step and many, in both norms, and a nearest adversarial."""


@dataclasses.dataclass(frozen=True)
class Evaluation(Report):
    """How robust a model is; prints as tables.

    Attributes:
        model: its name.
        accuracy: on the images as they are.
        mean_confidence: mean of the largest predicted probability.
        rows: one for each attack and ε.
        distances: one for each attack that looks for the nearest adversarial.
        spectrum: the Fisher information, or None if it was not asked for.
        digests: of the model and of the data: equal ones are the same.
        versions: of the packages that measured.
    """

    model: str
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
            ValueError: if there is none.
        """
        for row in self.rows:
            if row.attack == attack and np.isclose(row.epsilon, epsilon, rtol=1e-6, atol=0):
                return row
        known = ", ".join(f"{row.attack} at {row.epsilon:g}" for row in self.rows)
        raise ValueError(f"`attack` and `epsilon` should be of {known}. Received: {attack} at {epsilon:g}")

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
            "Within ε": attacks,
            "Fooled by each stage": stages,
            "Nearest adversarials": [summary.row() for summary in self.distances],
            "Fisher information": [] if self.spectrum is None else self.spectrum.tables()[""],
        }


def evaluate(
    model: Model,
    dataset: Iterable[tuple[Any, Any]] | tuple[Images, Labels],
    *,
    attacks: Sequence[Attack | str] = DEFAULT_ATTACKS,
    epsilons: Epsilons = None,
    limit: int | None = None,
    spectrum: bool = True,
    name: str | None = None,
    folder: str | Path | None = None,
    on_cell: Callable[[str], None] | None = None,
) -> Evaluation:
    """Measure how robust a model is.

    Args:
        model: any classifier that `keras_fim.logits.logits_function` takes.
        dataset: yields ``(images, labels)`` batches, or is the pair of whole arrays.
        attacks: attacks or their names (`keras_fim.attacks.attack_names`).
        epsilons: budgets: a list for attacks of one norm, a mapping by norm or attack name, or ``None``; see
            `keras_fim.attacks.resolve_epsilons`. An attack that looks for the nearest adversarial searches once.
        limit: take only so many samples, the first ones.
        spectrum: measure the Fisher spectrum, too; K gradients for each image.
        name: of the model, for the table; ``None`` for the model's own.
        folder: where finished cells (an attack at an ε) are written at once. A measurement that was stopped goes on
            after the last of them. A cell of another model, attack, ε, data or version of this package is not taken.
        on_cell: called with a line of text for each finished cell; ``print`` shows progress.

    Returns:
        `Evaluation`. Ratios have Wilson's 95 % intervals, distances bootstrap intervals.

    Raises:
        ValueError: if there is no sample or no attack, or as the attacks and `keras_fim.attacks.resolve_epsilons`.

    Example:
        >>> from keras_fim import models
        >>> found = evaluate(models.convnet(), (np.full((4, 28, 28, 1), 0.5), [0, 1, 2, 3]), attacks=["fgsm"])
        >>> [row.epsilon for row in found.rows]
        [0.03, 0.1, 0.2, 0.3]
    """
    chosen = [attack_by_name(attack) for attack in attacks]
    if not chosen or len({repr(attack) for attack in chosen}) < len(chosen):
        raise ValueError(f"`attacks` should be different attacks, at least one. Received: {[a.name for a in chosen]}")
    budgets = resolve_epsilons(chosen, epsilons)
    images, labels = samples(dataset, limit)
    logits_fn = logits_function(model, check_images(images))
    measured = _Measurement(logits_fn, images, labels, folder, on_cell)
    clean = clean_performance(logits_fn, images, labels)
    correct = round(clean.accuracy * clean.num_samples)
    pairs = [measured.attack(*pair) for pair in zip(chosen, budgets, strict=True)]
    return Evaluation(
        model=name or str(getattr(logits_fn.model, "name", type(logits_fn.model).__name__)),
        accuracy=wilson(correct, clean.num_samples),
        mean_confidence=clean.mean_confidence,
        rows=marked([row for rows, _ in pairs for row in rows]),
        distances=tuple(summary for _, summary in pairs if summary is not None),
        spectrum=measured.spectrum() if spectrum else None,
        digests=measured.digests,
        versions=versions(),
    )


class _Measurement:
    """A model and samples, and the cells that are finished."""

    def __init__(
        self,
        logits_fn: LogitsFunction,
        images: np.ndarray,
        labels: np.ndarray,
        folder: str | Path | None,
        on_cell: Callable[[str], None] | None,
    ) -> None:
        self.logits_fn, self.images, self.labels = logits_fn, images, labels
        self.say = on_cell or (lambda line: None)
        self.digests = {"model": model_digest(logits_fn, images), "data": data_digest(images, labels)}
        self.cells = Cells(folder, keras_fim=versions()["keras_fim"], **self.digests)

    def attack(self, attack: Attack, epsilons: Sequence[float]) -> tuple[list[AttackRow], DistanceSummary | None]:
        """The rows of one attack, and its distances if it looks for the nearest adversarial."""
        if isinstance(attack, MinimalDistanceAttack):
            return self._search(attack, epsilons)
        if not isinstance(attack, FixedBudgetAttack):
            raise ValueError(f"`attack` should be an attack of keras_fim. Received: attack={attack!r}")
        # another ε costs a one-step attack next to nothing if it shares the gradient
        groups = [list(epsilons)] if attack.one_step else [[epsilon] for epsilon in epsilons]
        return [row for group in groups for row in self._at(attack, group)], None

    def spectrum(self) -> SpectrumSummary:
        """The Fisher spectrum."""
        known, took = self.cells.find("spectrum"), "kept"
        if known is None:
            started = time.perf_counter()
            known = encode(spectrum_summary(self.logits_fn, self.images))
            took = f"{time.perf_counter() - started:.1f} s"
            self.cells.keep("spectrum", known)
        found: SpectrumSummary = decode(SpectrumSummary, known)
        self.say(f"Fisher spectrum: median λ_max(G_x) {found.quantile('λ_max(G_x)', 0.5):.3g} ({took})")
        return found

    def _key(self, attack: Attack) -> dict[str, str]:
        """What tells the attack apart; another model that it uses is told apart as the one attacked."""
        if not isinstance(attack, Strong) or attack.twin is None:
            return {"attack": repr(attack)}
        twin = model_digest(logits_function(attack.twin, self.images), self.images)
        return {"attack": repr(dataclasses.replace(attack, twin=None)), "twin": twin}

    def _at(self, attack: FixedBudgetAttack, epsilons: Sequence[float]) -> list[AttackRow]:
        keys = [{**self._key(attack), "epsilon": epsilon} for epsilon in epsilons]
        known = [self.cells.find(f"{attack.name}-{key['epsilon']:g}", **key) for key in keys]
        missing = [index for index, content in enumerate(known) if content is None]
        if missing:
            started = time.perf_counter()
            results = attack.sweep(self.logits_fn, self.images, self.labels, [epsilons[index] for index in missing])
            seconds = (time.perf_counter() - started) / len(missing)
            for index, result in zip(missing, results, strict=True):
                row = attack_row(attack, epsilons[index], result.success, result.was_correct, seconds)
                if isinstance(attack, Strong) and result.was_correct.any():
                    row = dataclasses.replace(row, stages=attack.shares(result))
                known[index] = encode(row)
                self.cells.keep(f"{attack.name}-{epsilons[index]:g}", known[index], **keys[index])
        rows: list[AttackRow] = [decode(AttackRow, content) for content in known]
        for index, row in enumerate(rows):
            self.say(f"{_line(row)} ({f'{row.seconds:.1f} s' if index in missing else 'kept'})")
        return rows

    def _search(
        self, attack: MinimalDistanceAttack, epsilons: Sequence[float]
    ) -> tuple[list[AttackRow], DistanceSummary]:
        known, took = self.cells.find(attack.name, attack=repr(attack)), "kept"
        if known is None:
            started = time.perf_counter()
            result = attack(self.logits_fn, self.images, self.labels)
            summary = encode(distance_summary(attack, result))
            known = {"summary": summary, "seconds": time.perf_counter() - started}
            took = f"{known['seconds']:.1f} s"
            self.cells.keep(attack.name, known, attack=repr(attack))
        found: DistanceSummary = decode(DistanceSummary, known["summary"])
        self.say(f"{attack.name}: median {found.norm} {found.median:.3g} ({took})")
        correct, distances, seconds = np.array(found.was_correct), np.array(found.distances), known["seconds"]
        rows = [
            attack_row(attack, epsilon, correct & (distances <= epsilon), correct, seconds / len(epsilons))
            for epsilon in epsilons
        ]
        return rows, found


def _line(row: AttackRow) -> str:
    return f"{row.attack} at {row.norm} {row.epsilon:g}: fooling ratio {row.fooling}"
