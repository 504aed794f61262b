"""Everything at once: accuracy, fooling ratios, robust accuracy, distances and the Fisher spectrum of a model."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import numpy as np

from keras_fim import distribution, inspection, records, validation
from keras_fim.arguments import Count, PositiveOrNone, Valid, checked, expect
from keras_fim.attacks import Attack, MinimalDistanceAttack, catalog, lp
from keras_fim.evaluation import distances, flags, measurement, page, plans, rows, smoothing
from keras_fim.evaluation.cells import BACKENDS, Cell, Cells, Here, finished
from keras_fim.evaluation.report import wilson
from keras_fim.evaluation.result import Evaluation, PerSample
from keras_fim.evaluation.sources import Chunk, Dataset, MaxSamples, chunks, digest
from keras_fim.evaluation.spectrum import QUANTITIES, RADIUS, SpectrumSummary, information
from keras_fim.logits import LogitsFunction, classes_of, logits_function
from keras_fim.pixels import PixelRange
from keras_fim.typing import Bounds, Model


def _is_part(chunk: Any) -> bool:
    whole = isinstance(chunk, tuple) and len(chunk) == 2 and all(isinstance(number, int) for number in chunk)
    return whole and bool(1 <= chunk[0] <= chunk[1])


_Part: TypeAlias = Annotated[tuple[int, int], Valid(_is_part, "two integers, such as (3, 16) for 3/16")]
_Backend: TypeAlias = Annotated[str, Valid(BACKENDS.__contains__, f"one of {tuple(BACKENDS)}")]
_FIGURES = measurement.Outcome._fields[:-1]  # without what was seen


@checked
def evaluate(
    model: Model,
    dataset: Dataset,
    *,
    attacks: Sequence[Attack | str] | None = None,
    epsilons: catalog.Epsilons = None,
    max_samples: MaxSamples = 1000,
    bounds: Bounds | PixelRange | None = None,
    black_box: bool = False,
    spectrum: bool = True,
    name: str | None = None,
    class_names: Sequence[str] = (),
    file_names: Sequence[str] = (),
    certify_sigma: PositiveOrNone = None,
    num_draws: Count = 10_000,
    folder: str | Path | None = None,
    chunk: _Part = (1, 1),
    backend: _Backend = "local",
    progress: Callable[[str], None] | None = plans.say,
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
            than 64 classes without its trace, by one Krylov step: with the radius, six gradients an image.
        name: The model's name in the table; ``None`` for its own.
        class_names: The names of the classes, for the report.
        file_names: The names of the images' files in the order of the dataset, for the rows by sample; or nothing.
        certify_sigma: The σ of the noise with which `keras_fim.certify` smooths the model, to report the certified
            accuracy of the smoothed classifier in l2; ``None`` leaves it out.
        num_draws: The number of draws for each certificate, a forward pass each.
        folder: The folder where each finished cell (an attack on a chunk) is written at once. A measurement that was
            stopped goes on after the last of them. A cell of another model, chunk, attack or list of ε is not taken.
        chunk: Which part to measure when several processes share the work and a folder: ``(3, 16)`` takes the third
            chunk of at most 256 samples and every sixteenth after it. The same call without it then finds all cells.
        backend: ``"local"``, or ``"ray"`` for the workers of a Ray cluster; see `keras_fim.evaluation.cells`.
        progress: Called with a line of text whenever a cell begins or ends, and with "" at the end. The default shows
            one line on a terminal and nothing elsewhere; ``None`` for silence.

    Returns:
        `Evaluation`. Ratios have Wilson's 95 % intervals, distances bootstrap intervals.

    Raises:
        ValueError: If there is no sample or no attack, images are outside the range of the pixels or the range cannot
            be found, the model has no gradient, there is no such chunk, or as the attacks and
            `keras_fim.attacks.resolve_epsilons`.
        ImportError: If the backend is not installed.

    Example:
        >>> import numpy as np
        >>> from keras_fim import models
        >>> data = np.full((4, 28, 28, 1), 0.5), [0, 1, 2, 3]
        >>> result = evaluate(models.convnet(), data, attacks=["fgsm"], bounds=(0, 1), progress=None)
        >>> [row.epsilon for row in result.rows]
        [0.03, 0.1, 0.2, 0.3]
    """
    plans.planned(attacks, epsilons, None, black_box=black_box)  # refuses what is wrong before any data is read
    parts = chunks(dataset, max_samples)
    first = next(parts)
    following = list(itertools.islice(parts, 1))
    logits_fn = logits_function(model, validation.check_images(first.images))
    pixels = plans.pixel_range(logits_fn, first, attacks, bounds)
    size = first.images.shape[1:], len(distribution.local_devices(distribution.devices_of(logits_fn.model)))
    todo = [plans.fitted(plan, *size) for plan in plans.planned(attacks, epsilons, pixels, black_box=black_box)]
    views: dict[str, Any] = {}
    smoothed = None if certify_sigma is None else {"sigma": float(certify_sigma), "num_draws": int(num_draws)}
    cells = _cells(todo, views, (pixels, first), spectrum and not black_box, smoothed)
    total = max_samples if following else len(first.labels)
    left = plans.Progress(progress or (lambda line: None), [(cell.name, cell.gradients) for cell in cells], total)
    run = Collected(logits_fn, pixels, todo, cells, left, views)
    run.look(first, black_box, timed=progress is not None)
    run.measure(BACKENDS[backend](logits_fn, cells), Cells(folder), itertools.chain([first], following, parts), chunk)
    name = name or str(getattr(logits_fn.model, "name", type(logits_fn.model).__name__))
    return run.evaluation(name, class_names, file_names)


@dataclasses.dataclass
class Collected:
    """The figures of a model so far, chunk by chunk, and the result that they make.

    Attributes:
        logits_fn: The classifier.
        pixels: The range of its pixels, or ``None`` if each attack has its own.
        todo: The attacks.
        cells: What each chunk is measured for: the attacks first.
        progress: Tells what is left.
        views: What attacks in this process have made of the present chunk, by their options: see `page.shown_at`.
    """

    logits_fn: LogitsFunction
    pixels: PixelRange | None
    todo: Sequence[plans.Plan]
    cells: Sequence[Cell]
    progress: plans.Progress
    views: dict[str, Any]

    def __post_init__(self) -> None:
        self.data, self.flags, self.num_clipped = list[str](), list[str](), 0
        self.clean: list[dict[str, np.ndarray]] = []
        self.figures: list[list[dict[str, Any]]] = [[] for _ in self.cells]
        self.counts: list[Any] = [0] * len(self.cells)  # of fooled, unconfirmed and correct samples by ε
        self.gallery = page.Gallery()

    def look(self, chunk: Chunk, black_box: bool, *, timed: bool) -> None:
        """The digest of the model, the range of the pixels, flags of what it returns, and how long it may take."""
        self.model, self.shape = plans.model_digest(self.logits_fn, chunk.images), chunk.images.shape[1:]
        if self.pixels is not None:
            self.progress.report(str(self.pixels))
            self.flags += [self.pixels.doubt] if self.pixels.doubt else []
        if black_box and "Embedding" in (inspection.gradient_stop(self.logits_fn.model) or ""):
            raise ValueError("`model` should take continuous values with black_box=True. Received: token ids")
        chunk = chunk._replace(images=plans.within(self.pixels, chunk)[0])
        bounds = None if self.pixels is None else self.pixels.bounds
        self.flags += flags.outputs_flags(self.logits_fn, *chunk[1:], bounds=bounds)
        given = self.logits_fn, self.todo, chunk, self.progress.total
        line, slopes = plans.estimate(*given) if timed else ("", np.zeros(0))
        self.flags += [flags.BLACK_BOX] if black_box else flags.slope_flags(self.logits_fn, *chunk[1:], slopes)
        if line:
            self.progress.report(line)

    def measure(self, backend: Here, store: Cells, parts: Iterable[Chunk], chunk: tuple[int, int]) -> None:
        """Measure one chunk of the samples in so many, or all of them."""
        digests = ((part, self.add(part)) for part in itertools.islice(parts, chunk[0] - 1, None, chunk[1]))
        for part, figures in finished(backend, self.cells, store, self.model, digests):
            for index, cell in enumerate(self.cells):
                self.progress.begin(index)
                columns, took = next(figures)
                self.progress.end(index, len(part.labels), kept=took == "kept")
                self.figures[index].append(columns)
                if cell.name != "certificates":
                    self.progress.report(f"{self.progress.done[index]:.0f} images ({took}): {self._so_far(index)}")
            self._show(part)
        self.progress.report("")
        received = f"chunk={chunk}, where nothing is left to measure"
        expect(bool(self.data), "chunk", "a part that the dataset has, of at most 256 samples", received=received)

    def add(self, chunk: Chunk) -> str:
        """Predict untouched images; returns the digest of the chunk."""
        self.data.append(digest(*chunk))
        images, num_clipped = plans.within(self.pixels, chunk)
        self.num_clipped += num_clipped
        p = measurement.probabilities(self.logits_fn, images)
        classes = {"label": validation.check_labels(chunk.labels, *p.shape), "prediction": classes_of(p)}
        self.clean.append({"index": chunk.indices, **classes, "confidence": p.max(axis=-1)})
        return self.data[-1]

    def _so_far(self, index: int) -> str:
        """What all cells of an attack say in a few words, or the last one of the spectrum."""
        columns = self.figures[index][-1]
        if self.cells[index].name == "spectrum":
            return f"median λ_max(G_x) {np.median(columns['λ_max(G_x)']):.3g} on the last {len(columns[RADIUS])}"
        attack, epsilons = self.todo[index]
        sums = [columns[name].sum(axis=-1) for name in ("fooled", "unconfirmed", "was_correct")]
        self.counts[index] += np.array(np.broadcast_arrays(*sums))  # there is one `was_correct` for all ε
        titles = [rows.named(attack.name, lp.norm_name(attack.norm), epsilon) for epsilon in epsilons]
        pairs = zip(titles, self.counts[index].T.tolist(), strict=True)
        return "; ".join(rows.line(title, wilson(fooled, total), more) for title, (fooled, more, total) in pairs)

    def _show(self, chunk: Chunk) -> None:
        """Keep a few images of a chunk for the report, by how far the boundary is, or else by their confidence."""
        clean = self.clean[len(self.figures[0]) - 1]
        scores = next((parts[-1][RADIUS] for parts in self.figures if RADIUS in parts[-1]), clean["confidence"])
        self.gallery.add(chunk, np.where(clean["prediction"] == clean["label"], scores, np.nan), self.views)
        self.views.clear()

    def evaluation(self, name: str, class_names: Sequence[str], file_names: Sequence[str]) -> Evaluation:
        """The result; the names of files are in the order of the dataset."""
        clean, figures = measurement.joined(self.clean), [measurement.joined(parts) for parts in self.figures]
        correct = clean["prediction"] == clean["label"]
        pairs = [(plan, measurement.Outcome(**columns)) for plan, columns in zip(self.todo, figures, strict=False)]
        by_name = dict(zip((cell.name for cell in self.cells), figures, strict=True))
        spectrum = SpectrumSummary.of(by_name["spectrum"]) if "spectrum" in by_name else None
        attacked = rows.marked([row for plan, outcome in pairs for row in rows.attack_rows(*plan, outcome)])
        budgets = [(plan.attack.norm, epsilon) for plan in self.todo for epsilon in plan.epsilons]
        on_the_way = flags.budget_flags(budgets, None if self.pixels is None else self.pixels.bounds)
        on_the_way += [flag for plan, outcome in pairs for flag in flags.path_flags(plan.attack, outcome)]
        on_the_way += [*flags.search_flags(attacked), *(spectrum.flags if spectrum else ())]
        certified = None
        if "certificates" in by_name:
            sigma, num_draws = (self.cells[-1].settings[name] for name in ("sigma", "num_draws"))
            certificates = smoothing.Certificates(**by_name["certificates"])
            certified = smoothing.CertifiedAccuracy.of(certificates, clean["label"], sigma, num_draws)
        clipped = f"; {self.num_clipped} images clipped by a rounding error" if self.num_clipped else ""
        searches = [pair for pair in pairs if isinstance(pair[0].attack, MinimalDistanceAttack)]
        result = Evaluation(
            model=name,
            pixels=f"{self.pixels or 'pixels within the bounds of each attack'}{clipped}",
            flags=(*self.flags, *flags.answers_flags(clean["prediction"], clean["label"]), *on_the_way),
            accuracy=wilson(int(correct.sum()), len(correct)),
            mean_confidence=measurement.mean_confidence(clean["confidence"], clean["prediction"]),
            rows=attacked,
            distances=tuple(distances.distance_summary(plan.attack, outcome, self.shape) for plan, outcome in searches),
            spectrum=spectrum,
            digests={"model": self.model, "data": digest(*self.data)},
            versions=records.versions(),
            samples=PerSample.of(clean, pairs, figures, file_names),
            class_names=tuple(class_names),
            certified=certified,
        )
        plan = next(plan for plan in self.todo if repr(plan.attack) == result.headline.options)
        return dataclasses.replace(result, examples=self.gallery.examples(self.logits_fn, plan))


def _cells(
    todo: Sequence[plans.Plan], views: dict[str, Any], first: tuple[Any, Chunk], spectrum: bool, smoothed: Any
) -> list[Cell]:
    """What each chunk is measured for: every attack, and then the spectrum and the certificates if asked for."""
    cells, (pixels, chunk) = [], first
    for plan in todo:
        settings = {**plans.attack_settings(plan.attack, chunk.images), "epsilons": list(plan.epsilons)}
        gradients = plans.stated_gradients(plan.attack) * len(plan.epsilons)
        cells.append(Cell(plan.attack.name, settings, _FIGURES, functools.partial(_attacked, views, plan), gradients))
    if spectrum:
        settings = {"attack": "spectrum", "revision": 4}
        cells.append(Cell("spectrum", settings, QUANTITIES, functools.partial(_informed, pixels), 10))
    if smoothed is not None:
        settings = {"attack": "certificates", "revision": 1, **smoothed, "alpha": smoothing.ALPHA}
        measured, queries = functools.partial(_certified, pixels, smoothed), smoothed["num_draws"]
        cells.append(Cell("certificates", settings, smoothing.Certificates._fields, measured, queries / 3))
    return cells


def _attacked(views: dict[str, Any], plan: plans.Plan, logits_fn: LogitsFunction, chunk: Chunk) -> dict[str, Any]:
    outcome = measurement.measure(logits_fn, *plan, chunk, inspect=lambda result: result.adversarials)
    views[repr(plan.attack)] = page.shown_at(plan, chunk, outcome, np.arange(len(chunk.labels)), restored=True)
    return dict(zip(_FIGURES, outcome, strict=False))


def _informed(pixels: PixelRange | None, logits_fn: LogitsFunction, chunk: Chunk) -> dict[str, Any]:
    return information(logits_fn, plans.within(pixels, chunk)[0], probes=0)


def _certified(pixels: Any, options: dict[str, Any], logits_fn: LogitsFunction, chunk: Chunk) -> dict[str, Any]:
    return smoothing.certify(logits_fn, chunk.images, **options, indices=chunk.indices, bounds=pixels)._asdict()
