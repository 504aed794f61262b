"""The figure of defenses side by side."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def defenses_figure(
    panels: Mapping[str, Mapping[str, tuple[float, float, float]]], front: Collection[str] = ()
) -> Figure:
    """Accuracy against robust accuracy: one panel for each attack, one point for each defense; the best is top right.

    Args:
        panels: for each attack's name, ``(accuracy, robust accuracy, cost)`` by name of the defense, the first two in
            [0, 1], the cost as a multiple of plain training.
        front: names of the Pareto front, whose points are filled.

    Returns:
        A matplotlib figure that belongs to no window.

    Raises:
        ValueError: if there is no panel.
    """
    from matplotlib.figure import Figure

    if not panels:
        raise ValueError("`panels` should hold a panel. Received: none")
    figure = Figure(figsize=(5.2 * len(panels) + 2.2, 4.6), layout="constrained")
    for axes, (title, points) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for index, (name, (accuracy, robust, cost)) in enumerate(points.items()):
            marker = "osD^vP*X"[index // 10 % 8]  # the colors repeat after ten
            fill = "full" if name in front else "none"
            label = f"{name} ({cost:.1f}\u00d7)"
            axes.plot(100 * robust, 100 * accuracy, marker=marker, linestyle="none", fillstyle=fill, label=label)
        axes.set(title=f"robust accuracy under {title}", xlabel="robust accuracy [%]", ylabel="accuracy [%]")
        axes.grid(alpha=0.3)
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="outside right upper",
        fontsize="small",
        title="defense (cost); filled: on the\nPareto front of all three",
    )
    return figure
