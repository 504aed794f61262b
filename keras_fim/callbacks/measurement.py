"""What one attack does to a model on the samples of a callback: rows, a few examples to look at, and pictures."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_fim.attacks.kinds import FixedBudgetAttack, MinimalDistanceAttack
from keras_fim.evaluation.measurement import Outcome, measure, probabilities
from keras_fim.evaluation.plans import Plan
from keras_fim.evaluation.rows import RobustnessCurve, attack_rows
from keras_fim.evaluation.sources import Chunk, chunks
from keras_fim.logits import LogitsFunction
from keras_fim.plots import BAD, GOOD

_CANDIDATES = 24  # samples among which the examples are chosen


class Examples(NamedTuple):
    """A few images that were classified correctly, attacked at the smallest ε that fools them, or else the largest.

    Attributes:
        images: ``(n, ...)``.
        adversarials: ``(n, ...)``.
        epsilons: Float ``(n,)``.
        labels: Int ``(n,)``, the true classes.
        before: The probabilities ``(n, K)`` of ``images``.
        after: The probabilities ``(n, K)`` of ``adversarials``.
        bounds: The smallest and the largest pixel value.
    """

    images: np.ndarray
    adversarials: np.ndarray
    epsilons: np.ndarray
    labels: np.ndarray
    before: np.ndarray
    after: np.ndarray
    bounds: tuple[float, float]


def logs(curve: RobustnessCurve) -> dict[str, float]:
    """The figures of an attack by the keys that they have in Keras' logs and TensorBoard."""
    name, figures = curve.attack, {}
    for row in curve.rows:
        figures[f"val_fooling/{name}/eps_{epsilon_key(row.epsilon)}"] = row.fooling.value
        figures[f"val_robust_accuracy/{name}/eps_{epsilon_key(row.epsilon)}"] = row.robust.value
    for share, distance in curve.rows[0].nearest.items():  # a single ε has none
        figures[f"val_distance/{name}/q{100 * float(share):g}"] = distance
    return {**figures, f"robustness_seconds/{name}": sum(row.seconds for row in curve.rows)}


def epsilon_key(epsilon: float) -> str:
    """ε in a key, without the dot that Keras' file-name templates stumble over.

    Example:
        >>> epsilon_key(0.1), epsilon_key(2.0)
        ('0p1', '2')
    """
    return f"{epsilon:g}".replace(".", "p")


def measure_attack(
    logits_fn: LogitsFunction, samples: tuple[np.ndarray, np.ndarray], plan: Plan, *, name: str, num_examples: int = 4
) -> tuple[RobustnessCurve, Examples]:
    """Attack the samples at each ε.

    Args:
        logits_fn: The classifier.
        samples: ``(images, labels)``.
        plan: An attack of either kind, and its budgets, ascending.
        name: The name of the attack in the curve.
        num_examples: The largest number of examples.

    Returns:
        `RobustnessCurve` and `Examples`, of correctly classified samples: those that are fooled go first.

    Raises:
        ValueError: As the attack.
    """
    attack, epsilons = plan
    asked = attack.fooling_only() if isinstance(attack, FixedBudgetAttack) else attack
    first, *others = chunks(samples)
    shown = measure(logits_fn, asked, epsilons, first, inspect=lambda result: result.adversarials[:_CANDIDATES].copy())
    rest = [measure(logits_fn, asked, epsilons, chunk) for chunk in others]
    examples = _examples(logits_fn, first, shown, plan, num_examples)
    outcome = Outcome.joined([part._replace(seen=()) for part in (shown, *rest)])
    rows = attack_rows(attack, epsilons, outcome)
    return RobustnessCurve(tuple(dataclasses.replace(row, attack=name) for row in rows)), examples


def _examples(logits_fn: LogitsFunction, chunk: Chunk, outcome: Outcome, plan: Plan, count: int) -> Examples:
    correct, fooled = np.flatnonzero(outcome.was_correct[:_CANDIDATES]), np.asarray(outcome.fooled.any(axis=0))
    rows = np.sort(correct[np.argsort(~fooled[correct], kind="stable")][:count])
    which = np.where(fooled[rows], outcome.fooled[:, rows].argmax(axis=0), len(plan.epsilons) - 1)
    images = chunk.images[rows]
    adversarials = np.array([outcome.seen_at(index)[row] for row, index in zip(rows, which, strict=True)])
    adversarials = adversarials.reshape(images.shape)
    if isinstance(plan.attack, MinimalDistanceAttack):  # beyond the largest ε it does not count
        adversarials[~fooled[rows]] = images[~fooled[rows]]
    empty = np.zeros((0, 1))
    before, after = (probabilities(logits_fn, batch) if len(rows) else empty for batch in (images, adversarials))
    budgets = np.asarray(plan.epsilons)[which]
    return Examples(images, adversarials, budgets, chunk.labels[rows], before, after, plan.attack.bounds)


def curves_picture(epochs: Sequence[tuple[int, Sequence[RobustnessCurve]]]) -> np.ndarray | None:
    """Fooling ratio against ε: a panel for each attack, a faint line for each epoch, a strong one for the last.

    Args:
        epochs: For each measured epoch its number, from 0, and the curves of that epoch.

    Returns:
        uint8 ``(height, width, 3)``, without attacks of a single ε; ``None`` where there are no others.
    """
    from matplotlib.figure import Figure

    newest, curves = epochs[-1][0], [curve for curve in epochs[-1][1] if len(curve.rows) > 1]
    if not curves:
        return None
    figure = Figure(figsize=(4.2 * len(curves), 3.4), dpi=80)
    width = figure.get_figwidth()  # "constrained" would take as long as all the rest
    figure.subplots_adjust(left=0.6 / width, right=1 - 0.1 / width, bottom=0.15, top=0.9, wspace=0.25)
    for axes, last in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves, strict=True):
        for _, others in epochs[:-1]:
            for earlier in (other for other in others if other.attack == last.attack):
                axes.plot(earlier.epsilons, _percent(earlier), color=GOOD, marker=".", alpha=0.2)
        axes.plot(last.epsilons, _percent(last), color=GOOD, marker="o", linewidth=2)
        axes.set(xlabel=f"perturbation ε ({last.norm})", ylim=(-2, 102), xlim=(0, 1.03 * last.epsilons[-1] or 1))
        axes.set_title(last.attack, fontsize="medium")
        axes.set_ylabel(f"fooling ratio [%] after epoch {newest + 1}")
        axes.locator_params(nbins=4)  # to draw the numbers takes most of the time
        axes.grid(alpha=0.3)
    return _pixels(figure)


def examples_picture(examples: Examples, class_names: Sequence[str] | None = None) -> np.ndarray | None:
    """Original, perturbation and adversarial of each example, with classes and confidences as in the paper's figure 1.

    The perturbation is shown about gray, its largest change as black or white.

    Args:
        examples: The images; gray ``(n, height, width[, 1])`` or colored ``(n, height, width, 3)``.
        class_names: The names of the classes; ``None`` for their numbers.

    Returns:
        uint8 ``(height, width, 3)``; ``None`` where there are no examples, or the inputs are no such images.
    """
    from matplotlib.figure import Figure

    if examples.images.ndim == 3:
        images, adversarials = examples.images[..., None], examples.adversarials[..., None]
        examples = examples._replace(images=images, adversarials=adversarials)
    if examples.images.ndim != 4 or examples.images.shape[-1] not in (1, 3) or not len(examples.labels):
        return None
    rows, size = len(examples.labels), examples.images.shape[1:3]
    figure = Figure(figsize=(6.6, 2.4 * rows), dpi=80)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    gap, above = (round(length * share) for length, share in zip(size[::-1], (0.12, 0.2), strict=True))
    cells = np.ones((rows, 3, size[0] + above, size[1] + gap, examples.images.shape[-1]))
    cells[:, :, above:, gap:] = _tiles(examples)  # one picture of all: drawing each would take three times as long
    mosaic = np.concatenate(np.concatenate(list(cells), axis=1), axis=1)
    mosaic = np.pad(mosaic, ((0, gap), (0, gap), (0, 0)), constant_values=1)
    axes.imshow(np.broadcast_to(mosaic, (*mosaic.shape[:2], 3)), aspect="auto")
    for row in range(rows):
        for column, (text, color) in enumerate(_titles(examples, row, class_names)):
            middle = column * (size[1] + gap) + gap + size[1] / 2 - 0.5
            bottom = row * (size[0] + above) + 0.8 * above - 0.5
            axes.text(middle, bottom, text, ha="center", color=color, fontsize="x-large")
    return _pixels(figure)


def _titles(examples: Examples, row: int, class_names: Sequence[str] | None) -> list[tuple[str, str]]:
    names = class_names or [str(index) for index in range(examples.before.shape[-1])]

    def of(probabilities: np.ndarray) -> tuple[str, str]:
        predicted = int(probabilities[row].argmax())
        color = GOOD if predicted == examples.labels[row] else BAD
        return f"{names[predicted]}, {100 * probabilities[row].max():.0f} %", color

    truth = f"true {names[examples.labels[row]]}, ε = {examples.epsilons[row]:g}"
    return [of(examples.before), (truth, "black"), of(examples.after)]


def _tiles(examples: Examples) -> np.ndarray:
    """The three pictures of each example, ``(n, 3, height, width, channels)`` in [0, 1]."""
    low, high = map(np.asarray, examples.bounds)
    changes = examples.adversarials - examples.images
    largest = np.abs(changes).max(axis=(1, 2, 3), keepdims=True)
    shown = 0.5 + changes / (2 * np.where(largest > 0, largest, 1))
    images, adversarials = ((batch - low) / (high - low) for batch in (examples.images, examples.adversarials))
    return np.asarray(np.clip(np.stack([images, shown, adversarials], axis=1), 0, 1))


def _percent(curve: RobustnessCurve) -> list[float]:
    return [100 * ratio for ratio in curve.fooling_ratios]


def _pixels(figure: Any) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]
