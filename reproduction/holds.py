"""What remains of the defence under the strongest attack, with the signs of masked gradients beside it."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_fim import attacks
from keras_fim.evaluation import masking_report
from keras_fim.evaluation.report import encode
from reproduction.bench import PaperBench
from reproduction.figures import accuracy, fooling
from reproduction.recipes import model_name, study_models
from reproduction.report import Report

__all__ = ["strong"]

_MU = 0.02
_BUDGETS: dict[str, tuple[float, float]] = {"l2": (2, 1.5), "linf": (np.inf, 0.1)}


def strong(bench: PaperBench) -> Report:
    """`Strong` in each norm and the masking report: a plain model, eq. (4), and the label smoothing that it matches."""
    plain, defended = model_name(0.0, 0), model_name(_MU, 0)
    smoothed = study_models()["smoothing"][1]
    models = {"μ = 0": plain, f"eq. (4), μ = {_MU:g}": defended, "label smoothing 0.765": smoothed}
    quick = bench.scale.images < 1000
    rows = []
    for title, name in models.items():
        twin = None if name == plain else bench.paper_model(plain)
        one_step = [
            *fooling(bench, name, "mnist", attacks.OSSA(), (_BUDGETS["l2"][1],)),
            *fooling(bench, name, "mnist", attacks.FGSM(), (_BUDGETS["linf"][1],)),
        ]
        found = {
            key: fooling(bench, name, "mnist", attacks.Strong(norm=norm, twin=twin, quick=quick), (epsilon,))[0]
            for key, (norm, epsilon) in _BUDGETS.items()
        }
        suspects = [f"{check} ({key})" for key in _BUDGETS for check in _suspects(bench, name, key)]
        figures = (*one_step, *found.values())
        accurate = f"{100 * accuracy(bench, name):.2f}"
        rows.append((title, accurate, *(f"{100 * ratio:.1f}" for ratio in figures), ", ".join(suspects) or "none"))
    columns = (
        "model", "accuracy", "OSSA l2 1.5", "FGSM l∞ 0.1", "Strong l2 1.5", "Strong l∞ 0.1", "signs of masked "
        "gradients",
    )  # fmt: skip
    notes = (
        "Fooling ratio in %, seed 0. `Strong` sends each image on to the next attack while it stands: adversarials of "
        "the "
        "plain model, PGD on the margin (5 restarts), APGD-CE, APGD-DLR, Square. The last column names the checks of "
        "`keras_fim.evaluation.masking_report` that fire: attacks on the cross-entropy miss much.",
    )
    return Report("strong", "What holds under the strongest attack, MNIST", columns, tuple(rows), notes)


def _suspects(bench: PaperBench, name: str, norm: str) -> list[str]:
    """Names of the checks that fire."""
    model, limit = bench.paper_model(name), min(200, bench.scale.images)
    images, labels = bench.images(limit)
    settings = {"images": limit, "norm": norm}

    def measure() -> Any:
        return encode(masking_report(model, (images, labels), norm=_BUDGETS[norm][0], max_samples=None))

    report = bench.cell(f"masking/{name}/{norm}", model, settings, measure)
    return [check["name"] for check in report["checks"] if check["verdict"] == "suspect"]
