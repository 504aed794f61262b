"""Everything at once: accuracy, fooling ratios, robust accuracy, distances and the Fisher spectrum of a model."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_fim.attacks.base import Attack
from keras_fim.attacks.catalog import Epsilons
from keras_fim.attacks.nearest import MinimalDistanceAttack
from keras_fim.evaluation.cells import Cells, attack_settings, digest, model_digest, packed, unpacked
from keras_fim.evaluation.distances import DistanceSummary, distance_summary
from keras_fim.evaluation.intervals import Ratio, wilson
from keras_fim.evaluation.measurement import Outcome, measure, probabilities
from keras_fim.evaluation.plans import Plan, estimate, planned
from keras_fim.evaluation.report import Report, Row
from keras_fim.evaluation.rows import AttackRow, attack_rows, marked
from keras_fim.evaluation.sources import Chunk, Dataset, check_max_samples, chunks
from keras_fim.evaluation.spectrum import QUANTITIES, SpectrumSummary, information
from keras_fim.logits import LogitsFunction, logits_function
from keras_fim.records import versions
from keras_fim.typing import Model
from keras_fim.validation import check_images, check_labels

__all__ = ["Evaluation", "evaluate"]

_FIGURES = tuple(name for name in Outcome._fields if name != "seen")


@dataclasses.dataclass(frozen=True)
class Evaluation(Report):
    """How robust a model is; prints as tables that end in a verdict.

    Attributes:
        model: The model's name.
        accuracy: The accuracy on the images as they are.
        mean_confidence: The mean of the largest predicted probability.
        rows: One for each attack and ε.
        distances: One for each attack that looks for the nearest adversarial.
        spectrum: The Fisher information, or None if it was not asked for.
        digests: Of the model and of the data: equal ones are the same.
        versions: Of the packages that measured.
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
        return "\n".join(["Verdict", *lines])

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
            "Within ε": attacks,
            "Fooled by each stage": stages,
            "Nearest adversarials": [summary.row() for summary in self.distances],
            "Fisher information": [] if self.spectrum is None else self.spectrum.tables()[""],
        }

    def __str__(self) -> str:
        return f"{super().__str__()}\n\n{self.verdict}"


def say(line: str) -> None:
    """Write a line to stderr."""
    sys.stderr.write(f"{line}\n")


def evaluate(
    model: Model,
    dataset: Dataset,
    *,
    attacks: Sequence[Attack | str] | None = None,
    epsilons: Epsilons = None,
    max_samples: int | None = 1000,
    bounds: tuple[float, float] | None = None,
    spectrum: bool = True,
    name: str | None = None,
    folder: str | Path | None = None,
    progress: Callable[[str], None] | None = say,
) -> Evaluation:
    """Measure how robust a model is.

    The dataset is read in chunks, and what is kept of them are figures, not images: memory does not grow with it. A
    success of an attack counts only if the model, called once more, misclassifies the image.

    Args:
        model: Any classifier that `keras_fim.logits.logits_function` takes.
        dataset: Arrays, a ``tf.data.Dataset``, a Keras sequence or an iterable; see `keras_fim.evaluation.Dataset`.
        attacks: Attacks or their names (`keras_fim.attacks.attack_names`). ``None`` for `keras_fim.attacks.Strong` and,
            to compare, FGSM: in the norms of the keys of ``epsilons`` (FGM in l2), or else in l∞.
        epsilons: Budgets: a list for attacks of one norm, a mapping by norm or attack name, or ``None``; see
            `keras_fim.attacks.resolve_epsilons`. An attack that looks for the nearest adversarial searches once.
        max_samples: The largest number of samples, of each class as many as possible, always the same; ``None`` for
            all.
        bounds: Smallest and largest pixel value, for all attacks; ``None`` for their own, which are 0 and 1.
        spectrum: Whether to measure the Fisher information, too (`keras_fim.evaluation.spectrum.information`).
        name: The model's name in the table; ``None`` for its own.
        folder: The folder where each finished cell (an attack on a chunk) is written at once. A measurement that was
            stopped goes on after the last of them. A cell of another model, chunk, attack or list of ε is not taken.
        progress: Called with a line of text: how long it may take, then each finished cell. ``None`` for silence.

    Returns:
        `Evaluation`. Ratios have Wilson's 95 % intervals, distances bootstrap intervals.

    Raises:
        ValueError: If there is no sample or no attack, or as the attacks and `keras_fim.attacks.resolve_epsilons`.

    Example:
        >>> from keras_fim import models
        >>> data = np.full((4, 28, 28, 1), 0.5), [0, 1, 2, 3]
        >>> found = evaluate(models.convnet(), data, attacks=["fgsm"], progress=None)
        >>> [row.epsilon for row in found.rows]
        [0.03, 0.1, 0.2, 0.3]
    """
    if max_samples is not None:
        check_max_samples(max_samples)
    plans = planned(attacks, epsilons, bounds)
    parts = chunks(dataset, max_samples)
    first = next(parts)
    following = list(itertools.islice(parts, 1))
    logits_fn = logits_function(model, check_images(first.images))
    run = _Run(logits_fn, first, folder, progress or (lambda line: None))
    if progress is not None:
        run.say(estimate(logits_fn, plans, first, max_samples if following else len(first.labels)))
    for chunk in itertools.chain([first], following, parts):
        run.clean(chunk)
        for index, plan in enumerate(plans):
            run.attack(index, plan, chunk)
        if spectrum:
            run.spectrum(chunk)
    return run.evaluation(plans, name or str(getattr(logits_fn.model, "name", type(logits_fn.model).__name__)))


class _Run:
    """What is known so far: figures by chunk."""

    def __init__(
        self, logits_fn: LogitsFunction, first: Chunk, folder: str | Path | None, progress: Callable[[str], None]
    ) -> None:
        self.logits_fn, self.cells, self.progress = logits_fn, Cells(folder), progress
        self.shape = first.images.shape[1:]
        self.model = model_digest(logits_fn, first.images)
        self.data: list[str] = []
        self.correct: list[np.ndarray] = []
        self.confidences: list[np.ndarray] = []
        self.outcomes: dict[int, list[Outcome]] = {}
        self.information: list[dict[str, np.ndarray]] = []
        self.settings: dict[int, dict[str, Any]] = {}

    def say(self, line: str) -> None:
        """Report progress, if there is something to say."""
        if line:
            self.progress(line)

    def clean(self, chunk: Chunk) -> None:
        """Predictions of untouched images."""
        self.data.append(digest(*chunk))
        p = probabilities(self.logits_fn, check_images(chunk.images))
        self.correct.append(p.argmax(axis=-1) == check_labels(chunk.labels, *p.shape))
        self.confidences.append(p.max(axis=-1))

    def attack(self, index: int, plan: Plan, chunk: Chunk) -> None:
        """One cell of an attack, and a line about all of its cells so far."""
        attack, epsilons = plan
        if index not in self.settings:
            self.settings[index] = {**attack_settings(attack, chunk.images), "epsilons": list(epsilons)}

        def measured() -> dict[str, Any]:
            outcome = measure(self.logits_fn, attack, epsilons, chunk)._asdict()
            return {name: outcome[name] for name in _FIGURES}

        columns, took = self._cell(attack.name, self.settings[index], _FIGURES, measured)
        so_far = self.outcomes.setdefault(index, [])
        so_far.append(Outcome(**{**columns, "seconds": float(columns["seconds"])}))
        joined = Outcome.joined(so_far)
        for row in attack_rows(attack, epsilons, joined):
            self.say(f"{len(joined.was_correct)} images: {row.line()} ({took})")

    def spectrum(self, chunk: Chunk) -> None:
        """The Fisher information of a chunk."""
        settings = {"attack": "spectrum", "revision": 1}
        images = check_images(chunk.images)
        columns, took = self._cell("spectrum", settings, QUANTITIES, lambda: information(self.logits_fn, images))
        self.information.append(columns)
        median = self._summary().quantile("λ_max(G_x)", 0.5)
        self.say(f"{sum(map(len, self.correct))} images: median λ_max(G_x) {median:.3g} ({took})")

    def evaluation(self, plans: Sequence[Plan], name: str) -> Evaluation:
        """The result."""
        correct, confidences = np.concatenate(self.correct), np.concatenate(self.confidences)
        outcomes = [Outcome.joined(self.outcomes[index]) for index in range(len(plans))]
        pairs = list(zip(plans, outcomes, strict=True))
        return Evaluation(
            model=name,
            accuracy=wilson(int(correct.sum()), len(correct)),
            mean_confidence=float(confidences.mean(dtype=np.float64)),
            rows=marked([row for plan, outcome in pairs for row in attack_rows(*plan, outcome)]),
            distances=tuple(
                distance_summary(plan.attack, outcome, self.shape)
                for plan, outcome in pairs
                if isinstance(plan.attack, MinimalDistanceAttack)
            ),
            spectrum=self._summary() if self.information else None,
            digests={"model": self.model, "data": digest(*self.data)},
            versions=versions(),
        )

    def _summary(self) -> SpectrumSummary:
        columns = {key: np.concatenate([part[key] for part in self.information]) for key in self.information[0]}
        return SpectrumSummary.of(columns)

    def _cell(
        self, name: str, settings: dict[str, Any], names: Collection[str], measure: Callable[[], dict[str, Any]]
    ) -> tuple[dict[str, Any], str]:
        """Figures of the newest chunk, kept or measured now, and how long it took."""
        settings, begin = {**settings, "model": self.model, "data": self.data[-1]}, time.perf_counter()
        file = f"{name}-{digest(json.dumps(settings, sort_keys=True))[:16]}"
        size = len(self.correct[-1])
        how = {"write": packed, "read": lambda content: unpacked(content, names, size)}
        columns, kept = self.cells.measured(file, settings, measure, **how)
        return columns, "kept" if kept else f"{time.perf_counter() - begin:.1f} s"
