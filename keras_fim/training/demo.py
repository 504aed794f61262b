"""The package at work: a plain and two defended classifiers of real digits under attack."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_fim import attacks, data, plots
from keras_fim.evaluation import Confidence, RobustnessCurve, clean_performance, robustness_curve, samples
from keras_fim.evaluation.report import encode, table
from keras_fim.export import saved_model
from keras_fim.records import read_json, versions, write_json, write_text
from keras_fim.training.config import TrainingConfig, differences, recipe
from keras_fim.training.run import train
from keras_fim.training.trained import load_model

__all__ = ["DemoReport", "run_demo"]

_ATTACKS = {
    attacks.FGSM(): (0.05, 0.1, 0.15, 0.2, 0.25, 0.3),
    attacks.OSSA(): (0.5, 1.0, 1.5, 2.0, 2.5, 3.0),
}
_STRONG_EPSILONS, _STRONG_IMAGES = (0.5, 1.0, 1.5, 2.0), 300


@dataclasses.dataclass(frozen=True)
class DemoReport:
    """What the demo measured; prints as a table.

    Attributes:
        clean: accuracy and confidence of each model.
        curves: fooling ratios of each model under each attack.
        files: what was written, by what it is.
    """

    clean: dict[str, Confidence]
    curves: dict[str, list[RobustnessCurve]]
    files: dict[str, str]

    def measured(self) -> dict[str, Any]:
        """All but the files, ready for JSON."""
        return {"clean": encode(self.clean), "curves": encode(self.curves)}

    def table(self) -> str:
        """Accuracy, mean confidence and fooling ratios as Markdown, one column for each model."""
        rows = [
            {"": "accuracy", **{name: f"{100 * clean.accuracy:.1f} %" for name, clean in self.clean.items()}},
            {"": "mean confidence", **{name: f"{clean.mean_confidence:.3f}" for name, clean in self.clean.items()}},
        ]
        for curves in zip(*self.curves.values(), strict=True):
            for index, epsilon in enumerate(curves[0].epsilons):
                ratios = [f"{100 * curve.fooling_ratios[index]:.1f} %" for curve in curves]
                name = curves[0].attack.removesuffix(f"_{curves[0].norm}").upper()
                title = f"fooled by {name}, {curves[0].norm} {epsilon:g}"
                rows.append({"": title, **dict(zip(self.clean, ratios, strict=True))})
        return table(rows, markdown=True)

    def __str__(self) -> str:
        files = "\n".join(f"{what + ':':18} {path}" for what, path in self.files.items())
        return f"\n{self.table()}\n\n{files}"


def run_demo(folder: Path, export_folder: Path, *, mu: float = 0.02, epochs: int = 20, seed: int = 0) -> DemoReport:
    """Train on the embedded digits without a defense, with the Fisher trace and with N-FGM, and attack all three.

    Writes table, plot, results and a SavedModel. One-step attacks see all test images, `attacks.Strong` with a quarter
    of its steps 300 of them.

    An interrupted demo goes on where it stopped; a finished one is done anew.

    Args:
        folder: where results and runs go.
        export_folder: where the SavedModel of the N-FGM model goes, as its next version.
        mu: weight of the Fisher trace, > 0.
        epochs: passes over the training digits.
        seed: of weights and shuffling.

    Returns:
        `DemoReport`.

    Raises:
        ValueError: if ``mu`` is not positive.
    """
    if not mu > 0:
        raise ValueError(f"`mu` should be positive, to compare with plain training. Received: mu={mu}")
    configs = {
        "plain": recipe("mnist5k", mu=0.0, epochs=epochs, seed=seed),
        f"Fisher trace, μ={mu:g}": recipe("mnist5k", mu=mu, epochs=epochs, seed=seed),
        "N-FGM": recipe("mnist5k", defense="n-fgm", epochs=epochs, seed=seed),
    }
    runs = dict(zip(configs, [folder / name for name in ("plain", "fisher-trace", "n-fgm")], strict=True))
    if not _interrupted(folder, list(zip(runs.values(), configs.values(), strict=True))):
        _clear(folder, list(runs.values()))
    models = {name: load_model(train(config, runs[name], resume=True)) for name, config in configs.items()}
    clean, curves = {}, {}
    for name, model in models.items():
        print(f"attacking: {name}")
        clean[name] = clean_performance(model, *_test_images())
        curves[name] = _curves(model, twin=None if name == "plain" else models["plain"])
    exported = saved_model(models["N-FGM"], export_folder)
    files = {
        "table": folder / "table.md",
        "plot": folder / "robustness.png",
        "results": folder / "results.json",
        "TensorBoard logs": folder,
        "SavedModel": exported,
    }
    report = DemoReport(clean, curves, {what: str(path) for what, path in files.items()})
    write_text(files["table"], report.table() + "\n")
    plots.robustness_figure(curves).savefig(files["plot"], dpi=120)
    settings = {name: config.as_dict() for name, config in configs.items()}
    write_json(files["results"], {**report.measured(), "configs": settings, "versions": versions()})
    return report


def _curves(model: keras.Model, twin: keras.Model | None) -> list[RobustnessCurve]:
    """Of one-step attacks and of the strongest."""
    curves = [robustness_curve(model, *_test_images(), *attack) for attack in _ATTACKS.items()]
    strong = attacks.Strong(norm=2, twin=twin, quick=True)
    return [*curves, robustness_curve(model, *_test_images(_STRONG_IMAGES), strong, _STRONG_EPSILONS)]


def _test_images(max_samples: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    return samples(data.load("mnist5k", 500)[1], max_samples)


def _clear(folder: Path, runs: list[Path]) -> None:
    """Remove an earlier demo's runs and results, and nothing else."""
    for run in runs:
        if run.exists() and not (run / "run.json").is_file() and any(run.iterdir()):
            raise ValueError(f"{run} should be a run of the demo or not exist. Received: a folder without run.json")
        shutil.rmtree(run, ignore_errors=True)
    (folder / "results.json").unlink(missing_ok=True)


def _interrupted(folder: Path, runs: list[tuple[Path, TrainingConfig]]) -> bool:
    """Whether ``folder`` holds an unfinished demo of these very runs."""
    if (folder / "results.json").exists():
        return False
    begun = [(path / "run.json", config) for path, config in runs if (path / "run.json").is_file()]
    return bool(begun) and not any(differences(read_json(path)["config"], config) for path, config in begun)
