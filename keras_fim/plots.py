"""The look of all pictures, in one place: sizes, colors that everybody can tell apart, labels at the lines."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from keras_fim.evaluation.page import Attacked
    from keras_fim.evaluation.rows import RobustnessCurve

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""The colors of lines and points (Okabe & Ito), for people with any kind of color vision."""
GOOD = PALETTE[0]
"""The color of what is right."""
BAD = PALETTE[1]
"""The color of what is wrong."""
QUIET = "#6b7280"
"""The color of context."""
MARKERS = "osD^vPX"
"""The markers of lines, which differ like their colors."""
_LABELED = 5  # points that have their name beside them, and lines that have it at their end
_GRID = {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3}
_STYLE: dict[Any, Any] = {**_GRID, "axes.titlesize": "medium", "axes.titlelocation": "left"}


def panels(
    count: int = 1, *, rows: int = 1, title: str = "", xlabel: str = "", ylabel: str = "", size: Any = (4.6, 3.6)
) -> tuple[Figure, list[Axes]]:
    """An empty figure in the common look, with panels side by side.

    Args:
        count: The number of panels.
        rows: The number of rows of panels, each with ``count / rows`` of them.
        title: The message of the figure; empty for none.
        xlabel: The label of the horizontal axes.
        ylabel: The label of the vertical axes.
        size: The width and height of a panel in inches.

    Returns:
        A matplotlib figure that belongs to no window, and its axes, row by row.
    """
    from cycler import cycler
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({**_STYLE, "axes.prop_cycle": cycler(color=PALETTE)}):
        figure = Figure(figsize=(size[0] * count / rows, size[1] * rows), layout="constrained")
        axes = list(figure.subplots(rows, count // rows, squeeze=False).flat)
        for panel in axes:
            panel.set(xlabel=xlabel, ylabel=ylabel)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize="medium")
    return figure, axes


def lines(
    axes: Axes, curves: Mapping[str, tuple[Any, Any]], *, bands: Mapping[str, tuple[Any, Any]] | None = None
) -> None:
    """Draw lines that differ in color and marker, each with its name at its end, or with a legend if there are many.

    Args:
        axes: The panel.
        curves: The horizontal and the vertical values of each line, by its name.
        bands: The lower and the upper values of a band around some of the lines.
    """
    ends = []
    for index, (name, (x, y)) in enumerate(curves.items()):
        color = PALETTE[index % len(PALETTE)]
        axes.plot(x, y, color=color, marker=MARKERS[index % len(MARKERS)], markersize=4, label=name)
        if bands and name in bands:
            axes.fill_between(x, *bands[name], color=color, alpha=0.15, linewidth=0)
        ends.append((float(y[-1]), float(x[-1]), name, color))
    if len(curves) > _LABELED:
        axes.legend(fontsize="small", frameon=False)
        return
    _name(axes, ends)


def _name(axes: Axes, ends: list[tuple[float, float, str, str]]) -> None:
    """Write names in their colors to the right of points (y, x), a line of text apart."""
    low, high = axes.get_ylim()
    gap, below = 0.065 * (high - low), high
    for y, x, name, color in sorted(ends, reverse=True):  # from the highest
        below = min(y, below)
        text: dict[str, Any] = {"textcoords": "offset points", "fontsize": "small", "color": color, "va": "center"}
        axes.annotate(name, (x, below), xytext=(7, 0), annotation_clip=False, **text)
        below -= gap


def defenses_figure(
    points: Mapping[str, Mapping[str, tuple[float, float, float]]], front: Collection[str] = ()
) -> Figure:
    """Accuracy against robust accuracy: one panel for each attack, one point for each defense; the best is top right.

    The five that matter have their names: plain training (``none``), and the most robust ones, those of the Pareto
    front first. The others are gray.

    Args:
        points: For each attack's name, ``(accuracy, robust accuracy, cost)`` by name of the defense, the first two in
            [0, 1], the cost as a multiple of plain training.
        front: The names of the Pareto front, whose points are filled.

    Returns:
        A matplotlib figure that belongs to no window.

    Raises:
        ValueError: If there is no panel.
    """
    if not points:
        raise ValueError("`points` should hold a panel. Received: none")
    figure, axes = panels(len(points), xlabel="robust accuracy [%]", ylabel="accuracy [%]", size=(5.4, 4.4))
    message = "Up and to the right is better; filled: no other defense is better in all respects"
    figure.suptitle(message, x=0.01, ha="left", fontsize="medium")
    colors: dict[str, int] = {}
    for panel, (attack, own) in zip(axes, points.items(), strict=True):
        ranked = sorted(own, key=lambda name: (name != "none", name not in front, -own[name][1]))[:_LABELED]
        best = max(own, key=lambda name: own[name][1])
        names = []
        for name, (accuracy, robust, cost) in own.items():
            place, fill = (100 * robust, 100 * accuracy), "full" if name in front else "none"
            if name not in ranked:
                panel.plot(*place, marker="o", color=QUIET, fillstyle=fill, alpha=0.5)
                continue
            index = colors.setdefault(name, len(colors)) % len(PALETTE)
            panel.plot(*place, marker=MARKERS[index], color=PALETTE[index], fillstyle=fill)
            names.append((place[1], f"{name}, {cost:.1f}\u00d7", PALETTE[index]))
        panel.margins(0.08)
        _name(panel, [(height, panel.get_xlim()[1], name, color) for height, name, color in names])
        panel.set_title(f"{attack}: {best} keeps {100 * own[best][1]:.0f} %", loc="left")
    return figure


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
                axes.plot(earlier.epsilons, 100 * np.array(earlier.fooling_ratios), color=GOOD, marker=".", alpha=0.2)
        axes.plot(last.epsilons, 100 * np.array(last.fooling_ratios), color=GOOD, marker="o", linewidth=2)
        axes.set(xlabel=f"perturbation ε ({last.norm})", ylim=(-2, 102), xlim=(0, 1.03 * last.epsilons[-1] or 1))
        axes.set_title(last.attack, fontsize="medium")
        axes.set_ylabel(f"fooling ratio [%] after epoch {newest + 1}")
        axes.locator_params(nbins=4)  # to draw the numbers takes most of the time
        axes.grid(alpha=0.3)
    return _pixels(figure)


def examples_picture(examples: Attacked, class_names: Sequence[str] | None = None) -> np.ndarray | None:
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
    cells[:, :, above:, gap:] = examples.pictures()[0]  # one picture of all: drawing each would take thrice as long
    mosaic = np.concatenate(np.concatenate(list(cells), axis=1), axis=1)
    mosaic = np.pad(mosaic, ((0, gap), (0, gap), (0, 0)), constant_values=1)
    axes.imshow(np.broadcast_to(mosaic, (*mosaic.shape[:2], 3)), aspect="auto")
    for row in range(rows):
        for column, (text, color) in enumerate(_titles(examples, row, class_names)):
            middle = column * (size[1] + gap) + gap + size[1] / 2 - 0.5
            bottom = row * (size[0] + above) + 0.8 * above - 0.5
            axes.text(middle, bottom, text, ha="center", color=color, fontsize="x-large")
    return _pixels(figure)


def _titles(examples: Attacked, row: int, class_names: Sequence[str] | None) -> list[tuple[str, str]]:
    names = class_names or [str(index) for index in range(examples.before.shape[-1])]

    def of(probabilities: np.ndarray) -> tuple[str, str]:
        predicted = int(probabilities[row].argmax())
        color = GOOD if predicted == examples.labels[row] else BAD
        return f"{names[predicted]}, {100 * probabilities[row].max():.0f} %", color

    truth = f"true {names[examples.labels[row]]}, ε = {examples.epsilons[row]:g}"
    return [of(examples.before), (truth, "black"), of(examples.after)]


def _pixels(figure: Any) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]
