"""Everything at once: accuracy, fooling ratios, robust accuracy, distances and the Fisher spectrum of a model."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from keras_fim.arguments import checked
from keras_fim.attacks.base import Attack
from keras_fim.attacks.catalog import Epsilons
from keras_fim.distribution import devices_of, local_devices
from keras_fim.evaluation.backends import BACKENDS, Cell, Queue, check_backend
from keras_fim.evaluation.cells import Cells, attack_settings
from keras_fim.evaluation.collected import Collected
from keras_fim.evaluation.measurement import Outcome, measure
from keras_fim.evaluation.plans import Plan, check_chunk, estimate, fitted, pixel_range, planned, within
from keras_fim.evaluation.progress import say
from keras_fim.evaluation.result import Evaluation
from keras_fim.evaluation.smoothing import ALPHA, Certificates, certify, check_smoothing
from keras_fim.evaluation.sources import Chunk, Dataset, check_max_samples, chunks
from keras_fim.evaluation.spectrum import QUANTITIES, information
from keras_fim.logits import LogitsFunction, logits_function
from keras_fim.pixels import PixelRange
from keras_fim.typing import Bounds, Model
from keras_fim.validation import check_images

_FIGURES = tuple(name for name in Outcome._fields if name != "seen")


@checked
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
    file_names: Sequence[str] = (),
    certify_sigma: float | None = None,
    num_draws: int = 10_000,
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
        backend: ``"local"``, or ``"ray"`` for the workers of a Ray cluster; see `keras_fim.evaluation.backends`.
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
    _check(max_samples, chunk, backend, certify_sigma, num_draws)  # refuses what is wrong before any data is read
    planned(attacks, epsilons, None, black_box=black_box)
    parts = chunks(dataset, max_samples)
    first = next(parts)
    following = list(itertools.islice(parts, 1))
    logits_fn = logits_function(model, check_images(first.images))
    pixels = pixel_range(logits_fn, first, attacks, bounds)
    size = first.images.shape[1:], len(local_devices(devices_of(logits_fn.model)))
    plans = [fitted(plan, *size) for plan in planned(attacks, epsilons, pixels, black_box=black_box)]
    cells = _cells(plans, pixels, first, spectrum=spectrum and not black_box)
    cells += [] if certify_sigma is None else [_certifying(pixels, float(certify_sigma), int(num_draws))]
    report, total = progress or (lambda line: None), max_samples if following else len(first.labels)
    run = Collected(logits_fn, first, pixels, plans, cells, report, total)
    run.look(first, black_box)
    run.say(estimate(logits_fn, plans, first, total) if progress else "")
    queue = Queue(BACKENDS[backend](logits_fn, cells), cells, Cells(folder), run.model)
    _measure(run, queue, itertools.chain([first], following, parts), chunk)
    report("")
    result = run.evaluation(name or str(getattr(logits_fn.model, "name", type(logits_fn.model).__name__)), file_names)
    return dataclasses.replace(result, class_names=tuple(class_names))


def _measure(run: Collected, queue: Queue, parts: Iterable[Chunk], chunk: tuple[int, int]) -> None:
    """Measure every so many-th chunk of the samples, or all."""
    for part in itertools.islice(parts, chunk[0] - 1, None, chunk[1]):
        queue.add(part, run.clean(part))
        run.take(queue.finished())
    run.take(queue.finished(wait=True))
    if not run.data:
        expected = "a part that the dataset has, of at most 256 samples"
        raise ValueError(f"`chunk` should be {expected}. Received: chunk={chunk}, where nothing is left to measure")


def _cells(plans: Sequence[Plan], pixels: PixelRange | None, chunk: Chunk, *, spectrum: bool) -> list[Cell]:
    """What each chunk is measured for: every attack, then the spectrum if it is asked for."""
    cells = []
    for plan in plans:
        settings = {**attack_settings(plan.attack, chunk.images), "epsilons": list(plan.epsilons)}
        cells.append(Cell(plan.attack.name, settings, _FIGURES, functools.partial(_attacked, plan)))
    settings = {"attack": "spectrum", "revision": 4}
    last = Cell("spectrum", settings, QUANTITIES, functools.partial(_informed, pixels))
    return [*cells, last] if spectrum else cells


def _check(max_samples: int | None, chunk: Any, backend: str, certify_sigma: float | None, num_draws: int) -> None:
    if certify_sigma is not None:
        check_smoothing(certify_sigma, argument="certify_sigma", num_draws=num_draws)
    if max_samples is not None:
        check_max_samples(max_samples)
    check_chunk(chunk)
    check_backend(backend)


def _attacked(plan: Plan, logits_fn: LogitsFunction, chunk: Chunk) -> dict[str, Any]:
    outcome = measure(logits_fn, *plan, chunk)._asdict()
    return {name: outcome[name] for name in _FIGURES}


def _informed(pixels: PixelRange | None, logits_fn: LogitsFunction, chunk: Chunk) -> dict[str, Any]:
    return information(logits_fn, within(pixels, chunk)[0], probes=0)


def _certifying(pixels: PixelRange | None, sigma: float, num_draws: int) -> Cell:
    """The certificates of the smoothed classifier."""
    settings = {"attack": "certificates", "revision": 1, "sigma": sigma, "num_draws": num_draws, "alpha": ALPHA}
    measure = functools.partial(_certified, pixels, sigma, num_draws)
    return Cell("certificates", settings, Certificates._fields, measure)


def _certified(
    pixels: PixelRange | None, sigma: float, num_draws: int, logits_fn: LogitsFunction, chunk: Chunk
) -> dict[str, Any]:
    options: dict[str, Any] = {"num_draws": num_draws, "indices": chunk.indices, "bounds": pixels}
    return certify(logits_fn, within(pixels, chunk)[0], sigma, **options)._asdict()
