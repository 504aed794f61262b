"""Figure 1: two digits that OSSA fools the original model with, and what both models make of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from keras_fim import attacks, plots
from keras_fim.logits import logits_function
from keras_fim.training.comparison import spread
from reproduction.bench import PaperBench
from reproduction.recipes import DEFENDED_MU, SEEDS, model_name
from reproduction.report import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["figure1"]

_DIGITS = (6, 5)  # the paper's rows
_EPSILON = 1.5


def figure1(bench: PaperBench) -> Report:
    """The first '6' and '5' of the test images that fool the original model and not the defended one."""
    images, labels = bench.images()
    attack = attacks.OSSA()
    crafted = [_crafted(bench, attack, model_name(0.0, seed), model_name(DEFENDED_MU, seed))
               for seed in SEEDS[: bench.scale.seeds]]  # fmt: skip
    plain, defended = bench.paper_model(model_name(0.0, 0)), bench.paper_model(model_name(DEFENDED_MU, 0))
    result = attack(plain, images, labels, epsilon=_EPSILON)
    survived = _probabilities(defended, result.adversarials).argmax(axis=-1) == labels
    indices = [_first(result.success & survived & (labels == digit), result.success) for digit in _DIGITS]
    pictures = result.adversarials[indices]
    figure = _draw(pictures, labels[indices], [_probabilities(model, pictures) for model in (plain, defended)])
    shares = {
        "OSSA on the original model fools it": "fooled",
        "... and the defended model, too": "carried",
        "OSSA on the defended model fools it": "fooled_defended",
    }
    rows = tuple((what, spread([cell[key] for cell in crafted], scale=100)) for what, key in shares.items())
    notes = (
        f"OSSA at ε = {_EPSILON:g} (l2), μ = {DEFENDED_MU:g}; the first such digits among the test images. The picture "
        "shows adversarials of the original model. Like the paper's it is about transfer: the last row is what an "
        "attacker reaches who has the defended model.",
    )
    columns = ("", "share of the originally correct images [%]")
    return Report("figure1", "Figure 1: two adversarial digits and what the models say", columns, rows, notes, figure)


def _crafted(bench: PaperBench, attack: attacks.OSSA, plain: str, defended: str) -> dict[str, float]:
    models = [bench.paper_model(name) for name in (plain, defended)]
    images, labels = bench.images()

    def measure() -> dict[str, float]:
        first, second = (attack(model, images, labels, epsilon=_EPSILON) for model in models)
        both = first.success & second.was_correct
        wrong = _probabilities(models[1], first.adversarials).argmax(axis=-1) != labels
        share = float((both & wrong).sum() / max(1, (first.was_correct & second.was_correct).sum()))
        return {"fooled": first.fooling_ratio, "carried": share, "fooled_defended": second.fooling_ratio}

    settings = {"attack": repr(attack), "epsilon": _EPSILON, "images": len(images), "defended": models[1]}
    shares: dict[str, float] = bench.cell(f"figure1/{plain}", models[0], settings, measure)
    return shares


def _first(wanted: np.ndarray, otherwise: np.ndarray) -> int:
    """Index of the first image wanted; where there is none, of the first of the others, or of all."""
    for mask in (wanted, otherwise):
        if mask.any():
            return int(np.argmax(mask))
    return 0


def _probabilities(model: Any, images: np.ndarray) -> np.ndarray:
    logits_fn = logits_function(model, images)
    return np.asarray(tf.nn.softmax(logits_fn(logits_fn.cast(images))))


def _draw(pictures: np.ndarray, labels: np.ndarray, distributions: Sequence[np.ndarray]) -> Figure:
    """A row for each digit: the picture, then a bar chart for each model, with the true class and a wrong winner."""
    title = "Two digits changed by OSSA, and what the models say (blue: the true class, orange: a wrong answer)"
    count = len(pictures)
    figure, panels = plots.panels(3 * count, rows=count, title=title, ylabel="probability", size=(3.2, 2.4))
    for row, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        panels[3 * row].imshow(picture[..., 0], cmap="gray", vmin=0, vmax=1)
        panels[3 * row].set_axis_off()
        for axes, p, name in zip(panels[3 * row + 1 :], distributions, ("original", "defended"), strict=False):
            winner = int(p[row].argmax())
            colors = [plots.QUIET] * len(p[row])
            colors[winner] = plots.BAD
            colors[int(label)] = plots.GOOD
            axes.bar(range(len(p[row])), p[row], color=colors)
            axes.set_title(f"{name} model: {winner}", loc="left")
            axes.set(ylim=(0, 1), xticks=range(len(p[row])))
            axes.grid(visible=False, axis="x")
    return figure
