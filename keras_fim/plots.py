"""Figures of what `keras_fim.evaluation` measures."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from keras_fim.evaluation.rows import RobustnessCurve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["defenses_figure", "robustness_figure"]

_NORMS = {"l0": "$l_0$", "l1": "$l_1$", "l2": "$l_2$", "linf": r"$l_\infty$"}


def robustness_figure(curves: Mapping[str, Sequence[RobustnessCurve]]) -> Figure:
    """Fooling ratio against ε: one panel for each attack, one line for each model.

    Args:
        curves: for each model's name its curves, of the same attacks in the same order.

    Returns:
        A matplotlib figure that belongs to no window: ``figure.savefig("robustness.png")``.

    Raises:
        ValueError: if there is no curve, or the models have curves of different attacks.
    """
    from matplotlib.figure import Figure

    attacks = [tuple(curve.attack for curve in per_model) for per_model in curves.values()]
    if not attacks or not attacks[0] or len(set(attacks)) > 1:
        raise ValueError(f"`curves` should hold the same attacks, at least one, for each model. Received: {attacks}")
    figure = Figure(figsize=(4.6 * len(attacks[0]), 3.8), layout="constrained")
    panels = zip(*curves.values(), strict=True)
    for axes, panel in zip(figure.subplots(1, len(attacks[0]), squeeze=False)[0], panels, strict=True):
        for model, curve in zip(curves, panel, strict=True):
            axes.plot(curve.epsilons, [100 * ratio for ratio in curve.fooling_ratios], marker="o", label=model)
        axes.set(
            title=curve.attack.upper(),
            xlabel=f"perturbation ε ({_NORMS[curve.norm]})",
            ylabel="fooling ratio [%]",
            ylim=(-2, 102),
        )
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


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
