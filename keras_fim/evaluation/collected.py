"""The figures of an evaluation as they come in, chunk by chunk, and the result that they make."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from keras_fim.attacks.kinds import MinimalDistanceAttack
from keras_fim.attacks.lp import norm_name
from keras_fim.evaluation.backends import Cell, Finished
from keras_fim.evaluation.cells import digest, model_digest
from keras_fim.evaluation.distances import distance_summary
from keras_fim.evaluation.flags import BLACK_BOX, one_class, outputs_flags, path_flags, search_flags
from keras_fim.evaluation.gallery import Gallery
from keras_fim.evaluation.intervals import wilson
from keras_fim.evaluation.measurement import Outcome, probabilities
from keras_fim.evaluation.plans import Plan, stated_gradients, within
from keras_fim.evaluation.progress import Progress
from keras_fim.evaluation.result import Evaluation, PerSample
from keras_fim.evaluation.rows import attack_rows, marked, named
from keras_fim.evaluation.smoothing import Certificates, CertifiedAccuracy
from keras_fim.evaluation.sources import Chunk
from keras_fim.evaluation.spectrum import SpectrumSummary
from keras_fim.inspection import gradient_stop
from keras_fim.logits import LogitsFunction
from keras_fim.pixels import PixelRange
from keras_fim.records import versions
from keras_fim.validation import check_labels

_SINGULAR = {"classes": "class", "radius": "radius"}


class Collected:
    """What is known of a model so far: figures by chunk."""

    def __init__(
        self,
        logits_fn: LogitsFunction,
        first: Chunk,
        pixels: PixelRange | None,
        plans: Sequence[Plan],
        cells: Sequence[Cell],
        report: Callable[[str], None],
        total: int | None,
    ) -> None:
        self.logits_fn, self.plans, self.cells, self.report = logits_fn, plans, cells, report
        self.progress = Progress(
            report, list(zip((c.name for c in cells), _gradients(plans, cells), strict=True)), total
        )
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
        self.certificates: list[Certificates] = []
        self.indices: list[np.ndarray] = []
        self.gallery = Gallery()

    def say(self, line: str) -> None:
        """Report progress, if there is something to say."""
        if line:
            self.report(line)

    def look(self, chunk: Chunk, black_box: bool) -> None:
        """The range of the pixels, and flags of the model's outputs."""
        self.say("" if self.pixels is None else str(self.pixels))
        if black_box and "Embedding" in (gradient_stop(self.logits_fn.model) or ""):
            raise ValueError("`model` should take continuous values with black_box=True. Received: token ids")
        images, bounds = within(self.pixels, chunk)[0], None if self.pixels is None else self.pixels.bounds
        self.flags += outputs_flags(self.logits_fn, images, chunk.labels, gradients=not black_box, bounds=bounds)
        self.flags += [BLACK_BOX] if black_box else []

    def clean(self, chunk: Chunk) -> str:
        """Predictions of untouched images; returns the digest of the chunk."""
        self.data.append(digest(*chunk))
        self.indices.append(chunk.indices)
        images, num_clipped = within(self.pixels, chunk)
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
            for index in range(len(self.cells)):
                self.progress.begin(index)
                columns, took = next(cells)
                self.progress.end(index, len(chunk.labels), kept=took == "kept")
                self._add(index, columns, took)
            self._show(chunk)

    def _add(self, index: int, columns: dict[str, Any], took: str) -> None:
        """The figures of a cell, and a line about all cells of its kind so far."""
        if self.cells[index].name == "certificates":
            self.certificates.append(Certificates(**columns))
            return
        if self.cells[index].name == "spectrum":
            self.information.append(columns)
            total, median = sum(len(part["confidence"]) for part in self.information), self._summary()
            self.say(f"{total} images ({took}): median λ_max(G_x) {median.quantile('λ_max(G_x)', 0.5):.3g}")
            return
        self.outcomes[index].append(Outcome(**{**columns, "seconds": float(columns["seconds"])}))
        joined = Outcome.joined(self.outcomes[index])
        lines = [row.line() for row in attack_rows(*self.plans[index], joined)]
        self.say(f"{len(joined.was_correct)} images ({took}): {'; '.join(lines)}")

    def _show(self, chunk: Chunk) -> None:
        """Keep a few images of a chunk for the report, by how far the boundary is, or else by their confidence."""
        position = len(self.outcomes[0]) - 1
        scores = self.information[-1]["boundary radius"] if self.information else self.confidences[position]
        self.gallery.add(chunk, np.where(self.correct[position], scores, np.nan))

    def evaluation(self, name: str, file_names: Sequence[str]) -> Evaluation:
        """The result; the names of files are in the order of the dataset."""
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
            samples=self._samples(pairs, file_names),
            certified=self._certified(),
        )
        plan = next(plan for plan in self.plans if repr(plan.attack) == result.headline.options)
        return dataclasses.replace(result, examples=self.gallery.examples(self.logits_fn, *plan))

    def _certified(self) -> CertifiedAccuracy | None:
        if not self.certificates:
            return None
        settings = self.cells[-1].settings
        certificates = Certificates(*map(np.concatenate, zip(*self.certificates, strict=True)))
        return CertifiedAccuracy.of(certificates, np.concatenate(self.labels), settings["sigma"], settings["num_draws"])

    def _samples(self, pairs: Sequence[tuple[Plan, Outcome]], file_names: Sequence[str]) -> PerSample:
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
        for key in Certificates._fields[:2] if self.certificates else ():
            values = np.concatenate([getattr(part, key) for part in self.certificates])
            figures[f"certified {_SINGULAR[key]}"] = tuple(values.tolist())
        columns = self.indices, self.labels, self.predictions, self.confidences
        index, label, prediction, confidence = (tuple(np.concatenate(parts).tolist()) for parts in columns)
        files = tuple(str(file_names[i]) for i in index) if len(file_names) else ()
        return PerSample(index, label, prediction, confidence, taken_for, figures, files)

    def _pixels(self) -> str:
        text = "pixels within the bounds of each attack" if self.pixels is None else str(self.pixels)
        return f"{text}; {self.num_clipped} images clipped by a rounding error" if self.num_clipped else text

    def _summary(self) -> SpectrumSummary:
        columns = {key: np.concatenate([part[key] for part in self.information]) for key in self.information[0]}
        return SpectrumSummary.of(columns)


def _gradients(plans: Sequence[Plan], cells: Sequence[Cell]) -> list[float]:
    """About how many gradients an image takes in each cell: of an attack, of the spectrum, or of its certificate."""
    attacks = [float(stated_gradients(plan.attack) * len(plan.epsilons)) for plan in plans]
    return attacks + [cell.settings.get("num_draws", 30) / 3 for cell in cells[len(plans) :]]
