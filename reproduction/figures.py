"""Figures 2 to 5: accuracy over μ, and fooling ratios of one-step attacks over ε."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from keras_fim import attacks, plots
from keras_fim.evaluation import clean_performance, robustness_curve
from keras_fim.training.comparison import spread
from keras_fim.training.config import TrainingConfig, recipe
from keras_fim.training.trained import record_of
from reproduction.bench import PaperBench
from reproduction.recipes import MUS, SEEDS, model_name
from reproduction.report import Report
from reproduction.storing import source
from reproduction.values import FIGURE2_ACCURACY, FIGURE3_FOOLED, FIGURE5_FOOLED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["EPSILONS", "PGD", "PGD_EPSILONS", "accuracy", "figure2", "figure3", "figure4", "figure5", "fooling"]

EPSILONS = tuple(float(epsilon) for epsilon in np.arange(0, 6.25, 0.5))
"""l2 budgets of figures 3 to 5."""

PGD = attacks.PGD(norm=2, steps=20, loss="margin", stop_early=True)
"""What OSSA is shown beside, at `PGD_EPSILONS`."""

PGD_EPSILONS = (0.5, 1.0, 1.5, 2.0, 3.0)

_FIGURE5_MU = 0.02
_FIGURE4 = {"mnist": (0.0, 0.02), "cifar10": (0.0, 0.02), "gtsrb": (0.0, 0.0013)}


def figure2(bench: PaperBench) -> Report:
    """Accuracy on the whole test set over μ."""
    accuracies = {mu: [accuracy(bench, model_name(mu, seed)) for seed in _seeds(bench)] for mu in MUS}
    rows = tuple((f"{mu:g}", spread(values, ".2f", scale=100)) for mu, values in accuracies.items())
    means = [100 * float(np.mean(values)) for values in accuracies.values()]
    title = f"Accuracy: {means[0]:.2f} % without the Fisher trace, {means[-1]:.2f} % at μ = {MUS[-1]:g}"
    xlabel = f"μ (mean and range of {len(_seeds(bench))} seeds)"
    figure, (axes,) = plots.panels(title=title, xlabel=xlabel, ylabel="accuracy [%]", size=(6.4, 3.8))
    errors = [
        [m - 100 * min(values) for m, values in zip(means, accuracies.values(), strict=True)],
        [100 * max(values) - m for m, values in zip(means, accuracies.values(), strict=True)],
    ]
    axes.errorbar(MUS, means, yerr=errors, marker="o", capsize=3, color=plots.GOOD)
    axes.axhline(means[0], linestyle=":", color=plots.QUIET)
    above = (MUS[-1], means[0] + 0.05)
    axes.annotate("μ = 0", above, color=plots.QUIET, ha="right")
    axes.set_ylim(min(97.0, min(means) - 0.5), 100)
    notes = (f"Paper: {FIGURE2_ACCURACY}. All test images.",)
    return Report("figure2", "Figure 2: accuracy over μ, MNIST", ("μ", "accuracy [%]"), rows, notes, figure)


def figure3(bench: PaperBench) -> Report:
    """OSSA's fooling ratio over ε for each μ, and PGD's beside it."""
    data = "mnist"
    ossa = {f"μ = {mu:g}": _over_seeds(bench, data, mu, attacks.OSSA(), EPSILONS) for mu in MUS}
    stronger = {f"μ = {mu:g}": _over_seeds(bench, data, mu, PGD, PGD_EPSILONS) for mu in MUS}
    figure, panels = _panels(4, rows=2, size=(5.4, 3.4))
    _draw(panels[0], ossa, EPSILONS, "OSSA")
    _draw(panels[1], stronger, PGD_EPSILONS, "PGD, 20 steps")
    _draw_differences(panels[2], ossa, EPSILONS)
    _draw_differences(panels[3], stronger, PGD_EPSILONS)
    rows = [_row(("OSSA", f"{e:g}"), ossa, i) for i, e in enumerate(EPSILONS) if e in (0.5, 1, 1.5, 2, 3, 4, 5, 6)]
    rows += [_row(("PGD", f"{e:g}"), stronger, i) for i, e in enumerate(PGD_EPSILONS)]
    notes = (
        f"Fooling ratio in %. Paper: {FIGURE3_FOOLED}. PGD ({PGD!r}) takes the same budgets and many small steps: "
        "where it fools what OSSA does not, the model is not robust, its gradient only points elsewhere.",
    )
    columns = ("attack", "ε (l2)", *ossa)
    return Report("figure3", "Figure 3: fooling ratio of OSSA over ε, MNIST", columns, tuple(rows), notes, figure)


def figure4(bench: PaperBench) -> Report:
    """OSSA on the three data sets, with and without the defense."""
    lines, stronger = {}, {}
    for data, mus in _FIGURE4.items():
        for mu in mus:
            lines[f"{data}, μ = {mu:g}"] = _over_seeds(bench, data, mu, attacks.OSSA(), EPSILONS)
            stronger[f"{data}, μ = {mu:g}"] = _over_seeds(bench, data, mu, PGD, PGD_EPSILONS)
    figure, panels = _panels(2 * len(_FIGURE4), rows=2)
    for index, data in enumerate(_FIGURE4):
        _draw(panels[index], _part(lines, f"{data}, "), EPSILONS, f"{data}, OSSA")
        _draw(panels[index + len(_FIGURE4)], _part(stronger, f"{data}, "), PGD_EPSILONS, f"{data}, PGD")
    rows = [_row(("OSSA", f"{e:g}"), lines, i) for i, e in enumerate(EPSILONS) if e in (0.5, 1, 2, 3, 4, 6)]
    rows += [_row(("PGD", f"{e:g}"), stronger, i) for i, e in enumerate(PGD_EPSILONS)]
    notes = (
        "Fooling ratio in %. The paper does not name its μ here; ours is 0.02 for ten classes and 0.0013, which "
        "smooths 43 classes as much, for GTSRB. CIFAR-10 and GTSRB are one seed each, the stored weights.",
    )
    columns = ("attack", "ε (l2)", *lines)
    return Report("figure4", "Figure 4: OSSA on three data sets", columns, tuple(rows), notes, figure)


def figure5(bench: PaperBench) -> Report:
    """FGM, OTCM and FGSM on the defended model, all on the l2 axis."""
    side = math.sqrt(28 * 28)
    methods = {"FGM": (attacks.FGM(), 1.0), "OTCM": (attacks.OTCM(), side), "FGSM": (attacks.FGSM(), side)}
    curves = {
        f"{name}, μ = {mu:g}": _over_seeds(bench, "mnist", mu, attack, [e / unit for e in EPSILONS])
        for mu in (0.0, _FIGURE5_MU)
        for name, (attack, unit) in methods.items()
    }
    rows = [_row((f"{e:g}",), curves, i) for i, e in enumerate(EPSILONS) if e in (0.5, 1, 2, 3, 4, 5, 6)]
    notes = (
        f"Fooling ratio in %. Paper, at μ = {_FIGURE5_MU:g}: {FIGURE5_FOOLED}. A sign step of l2 norm ε changes each "
        "of the 784 pixels by ε/28, before it is clipped to the pixel range.",
    )
    figure, panels = _panels(len(methods))
    for axes, name in zip(panels, methods, strict=True):
        _draw(axes, _part(curves, f"{name}, "), EPSILONS, name)
    return Report("figure5", "Figure 5: three one-step attacks, MNIST", ("ε (l2)", *curves), tuple(rows), notes, figure)


def accuracy(bench: PaperBench, name: str) -> float:
    """Accuracy of an MNIST model on all test images."""
    model, images = bench.paper_model(name), bench.images(10_000)
    settings = {"images": len(images[0])}
    return float(bench.cell(f"clean/{name}", model, settings, lambda: clean_performance(model, *images).accuracy))


def fooling(
    bench: PaperBench, name: str, data: str, attack: attacks.FixedBudgetAttack, epsilons: Sequence[float]
) -> list[float]:
    """Fooling ratio of an attack on one model for each ε."""
    model = bench.paper_model(name) if data == "mnist" else bench.model(name, _recipe(bench, name, data))
    images, labels = bench.images(data_name=None if data == "mnist" else data)
    settings = {"attack": repr(attack), "epsilons": list(epsilons), "data": data, "images": len(images)}
    if (twin := getattr(attack, "twin", None)) is not None:
        settings |= {"attack": repr(dataclasses.replace(attack, twin=None)), "twin": twin}  # type: ignore[call-arg]

    def measure() -> list[float]:
        return list(robustness_curve(model, images, labels, attack, epsilons).fooling_ratios)

    key = f"fooling/{name}/{attack.name}-{min(epsilons):g}-{max(epsilons):g}"
    return [float(value) for value in bench.cell(key, model, settings, measure)]


def _recipe(bench: PaperBench, name: str, data: str) -> TrainingConfig:
    """The configuration of the stored model, which was trained for longer than the recipe says, if there is one."""
    if (stored := source(name, bench.models)) is not None:
        return TrainingConfig(**(record_of(stored) or {})["config"])
    return recipe(data, mu=0.0) if name.endswith("plain") else recipe(data)


def _over_seeds(
    bench: PaperBench, data: str, mu: float, attack: attacks.FixedBudgetAttack, epsilons: Sequence[float]
) -> np.ndarray:
    """Fooling ratios ``(seeds, len(epsilons))``."""
    stored = [f"{data}-{'fisher' if mu else 'plain'}"]
    names = [model_name(mu, seed) for seed in _seeds(bench)] if data == "mnist" else stored
    return np.array([fooling(bench, name, data, attack, epsilons) for name in names])


def _seeds(bench: PaperBench) -> tuple[int, ...]:
    return SEEDS[: bench.scale.seeds]


def _row(head: tuple[str, ...], curves: Mapping[str, np.ndarray], index: int) -> tuple[str, ...]:
    return (*head, *(spread(list(curve[:, index]), ".1f", scale=100) for curve in curves.values()))


def _part(curves: Mapping[str, np.ndarray], start: str) -> dict[str, np.ndarray]:
    """The curves whose names start like that, named by the rest."""
    return {name.removeprefix(start): curve for name, curve in curves.items() if name.startswith(start)}


def _panels(count: int, *, rows: int = 1, size: tuple[float, float] = (3.7, 3.1)) -> tuple[Figure, list[Axes]]:
    title = "Fooling ratio at the ε where it differs most: without the Fisher trace → with it"
    return plots.panels(count, rows=rows, title=title, xlabel="ε (l2)", ylabel="fooling ratio [%]", size=size)


def _draw(axes: Axes, curves: Mapping[str, np.ndarray], epsilons: Sequence[float], name: str) -> None:
    """One line for each model, the plain one first: the mean over seeds, and their range as a band."""
    means = {label: 100 * values.mean(axis=0) for label, values in curves.items()}
    plain, *defended = means.values()
    average = np.mean(defended, axis=0)
    widest = int(np.abs(average - plain).argmax())
    axes.set_title(f"{name}, ε = {epsilons[widest]:g}: {plain[widest]:.0f} → {average[widest]:.0f} %", loc="left")
    axes.set_ylim(-2, 102)
    bands = {label: (100 * values.min(axis=0), 100 * values.max(axis=0)) for label, values in curves.items()}
    plots.lines(axes, {label: (epsilons, mean) for label, mean in means.items()}, bands=bands)


def _draw_differences(axes: Axes, curves: Mapping[str, np.ndarray], epsilons: Sequence[float]) -> None:
    """The same lines less the first one, on a scale on which those that are close can be told apart."""
    means = [100 * values.mean(axis=0) for values in curves.values()]
    differences = {name: (epsilons, mean - means[0]) for name, mean in zip(curves, means, strict=True)}
    axes.set(ylabel="difference from μ = 0 [points]", ylim=(-25, 15))
    plots.lines(axes, differences)
