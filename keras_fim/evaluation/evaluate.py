"""Everything at once: accuracy, fooling ratios, robust accuracy, distances and the Fisher spectrum of a model."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_fim.attacks.base import Attack
from keras_fim.attacks.catalog import Epsilons
from keras_fim.attacks.lp import norm_name
from keras_fim.attacks.nearest import MinimalDistanceAttack
from keras_fim.evaluation.backends import BACKENDS, Cell, Finished, Queue, check_backend
from keras_fim.evaluation.cells import Cells, attack_settings, digest, model_digest
from keras_fim.evaluation.distances import distance_summary
from keras_fim.evaluation.flags import BLACK_BOX, one_class, outputs_flags, path_flags, search_flags
from keras_fim.evaluation.gallery import Gallery
from keras_fim.evaluation.intervals import wilson
from keras_fim.evaluation.measurement import Outcome, measure, probabilities
from keras_fim.evaluation.plans import Plan, check_chunk, estimate, fitted, pixel_range, planned
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
    chunk: tuple[int, int] = (1, 1),
    backend: str = "local",
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
        chunk: Which part to measure when several processes share the work and a folder: ``(3, 16)`` takes the third
            chunk of at most 256 samples and every sixteenth after it. The same call without it then finds all cells.
        backend: ``"local"``, or ``"ray"`` for the workers of a Ray cluster; see `keras_fim.evaluation.backends`.
        progress: Called with a line of text: how long it may take, then each finished cell. ``None`` for silence.

    Returns:
        `Evaluation`. Ratios have Wilson's 95 % intervals, distances bootstrap intervals.

    Raises:
        ValueError: If there is no sample or no attack, images are outside the range of the pixels or the range cannot
            be found, the model has no gradient, there is no such chunk, or as the attacks and
            `keras_fim.attacks.resolve_epsilons`.
        ImportError: If the backend is not installed.

    Example:
        >>> from keras_fim import models
        >>> data = np.full((4, 28, 28, 1), 0.5), [0, 1, 2, 3]
        >>> found = evaluate(models.convnet(), data, attacks=["fgsm"], bounds=(0, 1), progress=None)
        >>> [row.epsilon for row in found.rows]
        [0.03, 0.1, 0.2, 0.3]
    """
    if max_samples is not None:
        check_max_samples(max_samples)
    check_chunk(chunk)
    check_backend(backend)
    planned(attacks, epsilons, None, black_box=black_box)  # refuses what is wrong before any data is read
    parts = chunks(dataset, max_samples)
    first = next(parts)
    following = list(itertools.islice(parts, 1))
    logits_fn = logits_function(model, check_images(first.images))
    pixels = pixel_range(logits_fn, first, attacks, bounds)
    plans = [fitted(p, first.images.shape[1:]) for p in planned(attacks, epsilons, pixels, black_box=black_box)]
    run = _Run(logits_fn, first, pixels, plans, progress or (lambda line: None))
    run.look(first, black_box)
    if progress is not None:
        run.say(estimate(logits_fn, plans, first, max_samples if following else len(first.labels)))
    cells = _cells(plans, pixels, first, spectrum=spectrum and not black_box)
    queue = Queue(BACKENDS[backend](logits_fn, cells), cells, Cells(folder), run.model)
    for part in itertools.islice(itertools.chain([first], following, parts), chunk[0] - 1, None, chunk[1]):
        queue.add(part, run.clean(part))
        run.take(queue.finished())
    run.take(queue.finished(wait=True))
    if not run.data:
        expected = "a part that the dataset has, of at most 256 samples"
        raise ValueError(f"`chunk` should be {expected}. Received: chunk={chunk}, where nothing is left to measure")
    result = run.evaluation(name or str(getattr(logits_fn.model, "name", type(logits_fn.model).__name__)))
    return dataclasses.replace(result, class_names=tuple(class_names))


class _Run:
    """What is known so far: figures by chunk."""

    def __init__(
        self,
        logits_fn: LogitsFunction,
        first: Chunk,
        pixels: PixelRange | None,
        plans: Sequence[Plan],
        progress: Callable[[str], None],
    ) -> None:
        self.logits_fn, self.plans, self.progress = logits_fn, plans, progress
        self.pixels, self.flags, self.num_clipped = pixels, list[str](), 0
        self.predictions: list[np.ndarray] = []
        self.labels: list[np.ndarray] = []
        self.shape = first.images.shape[1:]
        self.model = model_digest(logits_fn, first.images)
        self.data: list[str] = []
        self.correct: list[np.ndarray] = []
        self.confidences: list[np.ndarray] = []
        self.outcomes: list[list[Outcome]] = [[] for _ in plans]
        self.information: list[dict[str, np.ndarray]] = []
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
        images, bounds = _within(self.pixels, chunk)[0], None if self.pixels is None else self.pixels.bounds
        self.flags += outputs_flags(self.logits_fn, images, chunk.labels, gradients=not black_box, bounds=bounds)
        self.flags += [BLACK_BOX] if black_box else []

    def clean(self, chunk: Chunk) -> str:
        """Predictions of untouched images; returns the digest of the chunk."""
        self.data.append(digest(*chunk))
        self.indices.append(chunk.indices)
        images, num_clipped = _within(self.pixels, chunk)
        self.num_clipped += num_clipped
        p = probabilities(self.logits_fn, images)
        self.predictions.append(p.argmax(axis=-1))
        self.labels.append(check_labels(chunk.labels, *p.shape))
        self.correct.append(self.predictions[-1] == self.labels[-1])
        self.confidences.append(p.max(axis=-1))
        return self.data[-1]

    def take(self, finished: Iterable[Finished]) -> None:
        """The figures of chunks, in order."""
        for chunk, cells in finished:
            for index, (columns, took) in enumerate(cells):
                self._add(index, columns, took)
            self._show(chunk)

    def _add(self, index: int, columns: dict[str, Any], took: str) -> None:
        """The figures of a cell, and a line about all cells of its kind so far."""
        if index == len(self.plans):
            self.information.append(columns)
            total, median = sum(len(part["confidence"]) for part in self.information), self._summary()
            self.say(f"{total} images: median λ_max(G_x) {median.quantile('λ_max(G_x)', 0.5):.3g} ({took})")
            return
        self.outcomes[index].append(Outcome(**{**columns, "seconds": float(columns["seconds"])}))
        joined = Outcome.joined(self.outcomes[index])
        for row in attack_rows(*self.plans[index], joined):
            self.say(f"{len(joined.was_correct)} images: {row.line()} ({took})")

    def _show(self, chunk: Chunk) -> None:
        """Keep a few images of a chunk for the report, by how far the boundary is, or else by their confidence."""
        position = len(self.outcomes[0]) - 1
        scores = self.information[-1]["boundary radius"] if self.information else self.confidences[position]
        self.gallery.add(chunk, np.where(self.correct[position], scores, np.nan))

    def evaluation(self, name: str) -> Evaluation:
        """The result."""
        correct, confidences = np.concatenate(self.correct), np.concatenate(self.confidences)
        outcomes = [Outcome.joined(parts) for parts in self.outcomes]
        pairs, spectrum = list(zip(self.plans, outcomes, strict=True)), self._summary() if self.information else None
        unvaried = one_class(np.concatenate(self.predictions), np.concatenate(self.labels))
        rows = marked([row for plan, outcome in pairs for row in attack_rows(*plan, outcome)])
        on_the_way = [flag for plan, outcome in pairs for flag in path_flags(plan.attack, outcome)] + search_flags(rows)
        result = Evaluation(
            model=name,
            pixels=self._pixels(),
            flags=(*self.flags, *unvaried, *on_the_way, *(spectrum.flags if spectrum else ())),
            accuracy=wilson(int(correct.sum()), len(correct)),
            mean_confidence=float(confidences.mean(dtype=np.float64)),
            rows=rows,
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
        plan = next(plan for plan in self.plans if repr(plan.attack) == result.headline.options)
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

    def _pixels(self) -> str:
        text = "pixels within the bounds of each attack" if self.pixels is None else str(self.pixels)
        return f"{text}; {self.num_clipped} images clipped by a rounding error" if self.num_clipped else text

    def _summary(self) -> SpectrumSummary:
        columns = {key: np.concatenate([part[key] for part in self.information]) for key in self.information[0]}
        return SpectrumSummary.of(columns)


def _cells(plans: Sequence[Plan], pixels: PixelRange | None, chunk: Chunk, *, spectrum: bool) -> list[Cell]:
    """What each chunk is measured for: every attack, then the spectrum if it is asked for."""
    cells = []
    for plan in plans:
        settings = {**attack_settings(plan.attack, chunk.images), "epsilons": list(plan.epsilons)}
        cells.append(Cell(plan.attack.name, settings, _FIGURES, functools.partial(_attacked, plan)))
    settings = {"attack": "spectrum", "revision": 3}
    last = Cell("spectrum", settings, QUANTITIES, functools.partial(_informed, pixels))
    return [*cells, last] if spectrum else cells


def _attacked(plan: Plan, logits_fn: LogitsFunction, chunk: Chunk) -> dict[str, Any]:
    outcome = measure(logits_fn, *plan, chunk)._asdict()
    return {name: outcome[name] for name in _FIGURES}


def _informed(pixels: PixelRange | None, logits_fn: LogitsFunction, chunk: Chunk) -> dict[str, Any]:
    return information(logits_fn, _within(pixels, chunk)[0], probes=0)


def _within(pixels: PixelRange | None, chunk: Chunk) -> tuple[tf.Tensor, int]:
    """The images of a chunk, within the range of the pixels, and how many were clipped."""
    return (check_images(chunk.images), 0) if pixels is None else pixels.clip(chunk.images)
