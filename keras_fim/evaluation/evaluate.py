"""Everything at once: accuracy, fooling ratios, robust accuracy, distances and the Fisher spectrum of a model."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import sys
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_fim.attacks.base import Attack
from keras_fim.attacks.catalog import Epsilons
from keras_fim.attacks.lp import norm_name
from keras_fim.attacks.nearest import MinimalDistanceAttack
from keras_fim.evaluation.cells import Cells, attack_settings, digest, model_digest, packed, unpacked
from keras_fim.evaluation.distances import distance_summary
from keras_fim.evaluation.flags import BLACK_BOX, one_class, outputs_flags, path_flags
from keras_fim.evaluation.gallery import Gallery
from keras_fim.evaluation.intervals import wilson
from keras_fim.evaluation.measurement import Outcome, measure, probabilities
from keras_fim.evaluation.plans import Plan, estimate, fitted, pixel_range, planned
from keras_fim.evaluation.result import Evaluation, PerSample
from keras_fim.evaluation.rows import attack_rows, marked, named
from keras_fim.evaluation.sources import Chunk, Dataset, check_max_samples, chunks
from keras_fim.evaluation.spectrum import QUANTITIES, SpectrumSummary, information
from keras_fim.inspection import gradient_stop
from keras_fim.logits import LogitsFunction, logits_function
from keras_fim.pixels import PixelRange
from keras_fim.records import versions
from keras_fim.typing import Bounds, Model
from keras_fim.validation import check_images, check_labels

_FIGURES = tuple(name for name in Outcome._fields if name != "seen")


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
    bounds: Bounds | PixelRange | None = None,
    black_box: bool = False,
    spectrum: bool = True,
    name: str | None = None,
    class_names: Sequence[str] = (),
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
        bounds: Smallest and largest pixel value, for all attacks, or a tuple of them for each channel. ``None`` for
            those of the attacks if all are attack objects, and otherwise for what `keras_fim.pixels.find_range` finds.
        black_box: Whether to measure a model without gradients, with `keras_fim.attacks.Square` alone. The result is
            flagged as an upper bound on robustness.
        spectrum: Whether to measure the Fisher information, too (`keras_fim.evaluation.spectrum.information`); of more
            than 64 classes without its trace, by one Krylov step: with the radius, seven gradients an image.
        name: The model's name in the table; ``None`` for its own.
        class_names: The names of the classes, for the report.
        folder: The folder where each finished cell (an attack on a chunk) is written at once. A measurement that was
            stopped goes on after the last of them. A cell of another model, chunk, attack or list of ε is not taken.
        progress: Called with a line of text: how long it may take, then each finished cell. ``None`` for silence.

    Returns:
        `Evaluation`. Ratios have Wilson's 95 % intervals, distances bootstrap intervals.

    Raises:
        ValueError: If there is no sample or no attack, images are outside the range of the pixels or the range cannot
            be found, the model has no gradient, or as the attacks and `keras_fim.attacks.resolve_epsilons`.

    Example:
        >>> from keras_fim import models
        >>> data = np.full((4, 28, 28, 1), 0.5), [0, 1, 2, 3]
        >>> found = evaluate(models.convnet(), data, attacks=["fgsm"], bounds=(0, 1), progress=None)
        >>> [row.epsilon for row in found.rows]
        [0.03, 0.1, 0.2, 0.3]
    """
    if max_samples is not None:
        check_max_samples(max_samples)
    planned(attacks, epsilons, None, black_box=black_box)  # refuses what is wrong before any data is read
    parts = chunks(dataset, max_samples)
    first = next(parts)
    following = list(itertools.islice(parts, 1))
    logits_fn = logits_function(model, check_images(first.images))
    pixels = pixel_range(logits_fn, first, attacks, bounds)
    plans = [fitted(p, first.images.shape[1:]) for p in planned(attacks, epsilons, pixels, black_box=black_box)]
    run = _Run(logits_fn, first, pixels, folder, progress or (lambda line: None))
    run.look(first, black_box)
    if progress is not None:
        run.say(estimate(logits_fn, plans, first, max_samples if following else len(first.labels)))
    for chunk in itertools.chain([first], following, parts):
        run.clean(chunk)
        for index, plan in enumerate(plans):
            run.attack(index, plan, chunk)
        if spectrum and not black_box:
            run.spectrum(chunk)
        run.show(chunk)
    result = run.evaluation(plans, name or str(getattr(logits_fn.model, "name", type(logits_fn.model).__name__)))
    return dataclasses.replace(result, class_names=tuple(class_names))


class _Run:
    """What is known so far: figures by chunk."""

    def __init__(
        self,
        logits_fn: LogitsFunction,
        first: Chunk,
        pixels: PixelRange | None,
        folder: str | Path | None,
        progress: Callable[[str], None],
    ) -> None:
        self.logits_fn, self.cells, self.progress = logits_fn, Cells(folder), progress
        self.pixels, self.flags, self.num_clipped = pixels, list[str](), 0
        self.predictions: list[np.ndarray] = []
        self.labels: list[np.ndarray] = []
        self.shape = first.images.shape[1:]
        self.model = model_digest(logits_fn, first.images)
        self.data: list[str] = []
        self.correct: list[np.ndarray] = []
        self.confidences: list[np.ndarray] = []
        self.outcomes: dict[int, list[Outcome]] = {}
        self.information: list[dict[str, np.ndarray]] = []
        self.settings: dict[int, dict[str, Any]] = {}
        self.indices: list[np.ndarray] = []
        self.gallery = Gallery()

    def say(self, line: str) -> None:
        """Report progress, if there is something to say."""
        if line:
            self.progress(line)

    def look(self, chunk: Chunk, black_box: bool) -> None:
        """The range of the pixels, and flags of the model's outputs."""
        self.say("" if self.pixels is None else str(self.pixels))
        if black_box and "Embedding" in (gradient_stop(self.logits_fn.model) or ""):
            raise ValueError("`model` should take continuous values with black_box=True. Received: token ids")
        self.flags += outputs_flags(self.logits_fn, self._images(chunk), chunk.labels, gradients=not black_box)
        self.flags += [BLACK_BOX] if black_box else []

    def clean(self, chunk: Chunk) -> None:
        """Predictions of untouched images."""
        self.data.append(digest(*chunk))
        self.indices.append(chunk.indices)
        p = probabilities(self.logits_fn, self._images(chunk, count=True))
        self.predictions.append(p.argmax(axis=-1))
        self.labels.append(check_labels(chunk.labels, *p.shape))
        self.correct.append(self.predictions[-1] == self.labels[-1])
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
        settings = {"attack": "spectrum", "revision": 3}
        measure = functools.partial(information, self.logits_fn, self._images(chunk), probes=0)
        columns, took = self._cell("spectrum", settings, QUANTITIES, measure)
        self.information.append(columns)
        median = self._summary().quantile("λ_max(G_x)", 0.5)
        self.say(f"{sum(map(len, self.correct))} images: median λ_max(G_x) {median:.3g} ({took})")

    def show(self, chunk: Chunk) -> None:
        """Keep a few images of a chunk for the report, by how far the boundary is, or else by their confidence."""
        scores = self.information[-1]["boundary radius"] if self.information else self.confidences[-1]
        self.gallery.add(chunk, np.where(self.correct[-1], scores, np.nan))

    def evaluation(self, plans: Sequence[Plan], name: str) -> Evaluation:
        """The result."""
        correct, confidences = np.concatenate(self.correct), np.concatenate(self.confidences)
        outcomes = [Outcome.joined(self.outcomes[index]) for index in range(len(plans))]
        pairs, spectrum = list(zip(plans, outcomes, strict=True)), self._summary() if self.information else None
        unvaried = one_class(np.concatenate(self.predictions), np.concatenate(self.labels))
        on_the_way = [flag for plan, outcome in pairs for flag in path_flags(plan.attack, outcome)]
        result = Evaluation(
            model=name,
            pixels=self._pixels(),
            flags=(*self.flags, *unvaried, *on_the_way, *(spectrum.flags if spectrum else ())),
            accuracy=wilson(int(correct.sum()), len(correct)),
            mean_confidence=float(confidences.mean(dtype=np.float64)),
            rows=marked([row for plan, outcome in pairs for row in attack_rows(*plan, outcome)]),
            distances=tuple(
                distance_summary(plan.attack, outcome, self.shape)
                for plan, outcome in pairs
                if isinstance(plan.attack, MinimalDistanceAttack)
            ),
            spectrum=spectrum,
            digests={"model": self.model, "data": digest(*self.data)},
            versions=versions(),
            samples=self._samples(pairs),
        )
        plan = next(plan for plan in plans if repr(plan.attack) == result.headline.options)
        return dataclasses.replace(result, examples=self.gallery.examples(self.logits_fn, *plan))

    def _samples(self, pairs: Sequence[tuple[Plan, Outcome]]) -> PerSample:
        several = len({plan.attack.name for plan, _ in pairs}) < len(pairs)  # of one attack with other options
        taken_for, figures = {}, {}
        for (attack, epsilons), outcome in pairs:
            name = repr(attack) if several else attack.name
            for epsilon, classes in zip(epsilons, outcome.taken_for, strict=True):
                taken_for[named(name, norm_name(attack.norm), epsilon)] = tuple(classes.tolist())
            if isinstance(attack, MinimalDistanceAttack):
                figures[f"nearest of {name}"] = tuple(outcome.distances.tolist())
        for key in ("boundary radius", "λ_max(G_x)") if self.information else ():
            figures[key] = tuple(np.concatenate([part[key] for part in self.information]).tolist())
        columns = self.indices, self.labels, self.predictions, self.confidences
        index, label, prediction, confidence = (tuple(np.concatenate(parts).tolist()) for parts in columns)
        return PerSample(index, label, prediction, confidence, taken_for, figures)

    def _images(self, chunk: Chunk, *, count: bool = False) -> tf.Tensor:
        """The images of a chunk, within the range of the pixels."""
        if self.pixels is None:
            return check_images(chunk.images)
        images, num_clipped = self.pixels.clip(chunk.images)
        self.num_clipped += num_clipped if count else 0
        return images

    def _pixels(self) -> str:
        text = "pixels within the bounds of each attack" if self.pixels is None else str(self.pixels)
        return f"{text}; {self.num_clipped} images clipped by a rounding error" if self.num_clipped else text

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
