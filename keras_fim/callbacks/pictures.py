"""Pictures for TensorBoard: the curves of all epochs, and adversarial examples beside their originals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_fim.callbacks.measurement import Examples
from keras_fim.evaluation.rows import RobustnessCurve
from keras_fim.plots import BAD, GOOD

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
        examples = _with_channel(examples)
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
    def of(probabilities: np.ndarray) -> tuple[str, str]:
        predicted = int(probabilities[row].argmax())
        right = predicted == examples.labels[row]
        return f"{called(predicted)}, {100 * probabilities[row].max():.0f} %", GOOD if right else BAD

    def called(index: int) -> str:
        return class_names[index] if class_names else str(index)

    truth = f"true {called(examples.labels[row])}, ε = {examples.epsilons[row]:g}"
    return [of(examples.before), (truth, "black"), of(examples.after)]


def _tiles(examples: Examples) -> np.ndarray:
    """The three pictures of each example, ``(n, 3, height, width, channels)`` in [0, 1]."""
    low, high = map(np.asarray, examples.bounds)
    changes = examples.adversarials - examples.images
    largest = np.abs(changes).max(axis=(1, 2, 3), keepdims=True)
    shown = 0.5 + changes / (2 * np.where(largest > 0, largest, 1))
    images, adversarials = ((batch - low) / (high - low) for batch in (examples.images, examples.adversarials))
    return np.asarray(np.clip(np.stack([images, shown, adversarials], axis=1), 0, 1))


def _with_channel(examples: Examples) -> Examples:
    return examples._replace(images=examples.images[..., None], adversarials=examples.adversarials[..., None])


def _percent(curve: RobustnessCurve) -> list[float]:
    return [100 * ratio for ratio in curve.fooling_ratios]


def _pixels(figure: Figure) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]
