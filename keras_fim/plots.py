"""Figures of what `keras_fim.evaluation` measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from keras_fim.evaluation.curves import RobustnessCurve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["robustness_figure"]

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
