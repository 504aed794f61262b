"""The package at work: a plain and two defended classifiers of real digits under attack."""

import shutil
from pathlib import Path
from typing import Any

from keras_fim import attacks, data
from keras_fim.arguments import expect
from keras_fim.evaluation import Evaluation, SideBySide, evaluate
from keras_fim.evaluation.report import Row, table
from keras_fim.export import saved_model
from keras_fim.records import read_run, write_json, write_text
from keras_fim.training.config import TrainingConfig, differences, recipe
from keras_fim.training.run import train
from keras_fim.training.trained import load_model

_EPSILONS = {"fgsm": [0.1, 0.2, 0.3], "ossa": [1.0, 2.0, 3.0], "strong_l2": [0.5, 1.0, 1.5]}
_SAMPLES = 300


def run_demo(folder: Path, export_folder: Path, *, mu: float = 0.02, epochs: int = 20, seed: int = 0) -> str:
    """Train on the embedded digits without a defense, with the Fisher trace and with N-FGM, and attack all three.

    Each model is attacked on 300 test images with one step and with a quarter of the steps of `attacks.Strong`. Writes
    the table, a report of each model and one of all side by side, and a SavedModel. An interrupted demo continues where
    it stopped; a finished one starts anew.

    Args:
        folder: The folder for results and runs.
        export_folder: The folder in which the SavedModel of the N-FGM model becomes the next version.
        mu: The weight of the Fisher trace, > 0.
        epochs: The number of passes over the training digits.
        seed: The random seed of weights and shuffling.

    Returns:
        The table, a verdict on each model, and the files that were written.

    Raises:
        ValueError: If ``mu`` is not positive.
    """
    expect(mu > 0, "mu", "positive, to compare with plain training", mu)
    configs = {
        "plain": recipe("mnist5k", mu=0.0, epochs=epochs, seed=seed),
        f"Fisher trace, μ={mu:g}": recipe("mnist5k", mu=mu, epochs=epochs, seed=seed),
        "N-FGM": recipe("mnist5k", defense="n-fgm", epochs=epochs, seed=seed),
    }
    runs = dict(zip(configs, [folder / name for name in ("plain", "fisher-trace", "n-fgm")], strict=True))
    _begin(folder, list(zip(runs.values(), configs.values(), strict=True)))
    results: dict[str, Evaluation] = {}
    options: dict[str, Any] = {"epsilons": _EPSILONS, "max_samples": _SAMPLES, "progress": None}
    options["class_names"] = data.info("mnist5k").class_names
    for name, config in configs.items():
        print(f"training on 3,800 digits, {epochs} epochs: {name}", flush=True)
        train(config, runs[name], resume=True, verbose=0)
        print(f"attacking on {_SAMPLES} test digits: {name}", flush=True)
        strong = attacks.Strong(norm=2, twin=load_model(runs["plain"]) if results else None, quick=True)
        options |= {"attacks": [attacks.FGSM(), attacks.OSSA(), strong], "name": name, "folder": runs[name] / "cells"}
        results[name] = evaluate(load_model(runs[name]), data.load("mnist5k", 500)[1], **options)
        results[name].save(runs[name] / "report.html")
    files = {
        "report": SideBySide(tuple(results.values())).save(folder / "report.html"),
        "of the N-FGM model": runs["N-FGM"] / "report.html",
        "of the plain model": runs["plain"] / "report.html",
        "table": folder / "table.md",
        "TensorBoard logs": folder,
        "SavedModel": saved_model(load_model(runs["N-FGM"]), export_folder),
    }
    rows = _rows(results)
    write_text(folder / "table.md", table(rows, markdown=True) + "\n")
    measured = {name: result.as_dict() for name, result in results.items()}
    write_json(folder / "results.json", {name: {**m, "samples": None, "examples": []} for name, m in measured.items()})
    verdicts = "\n".join(f"{name + ':':21} {' '.join(result.sentences)}" for name, result in results.items())
    return f"\n{table(rows)}\n\n{verdicts}\n\n" + "\n".join(f"{what + ':':20} {path}" for what, path in files.items())


def _rows(results: dict[str, Evaluation]) -> list[Row]:
    """Accuracy and robust accuracy, one column for each model."""
    rows: list[Row] = [{"": "accuracy", **{name: result.accuracy for name, result in results.items()}}]
    for index, row in enumerate(next(iter(results.values())).rows):
        title = f"under {row.attack.partition('_')[0].upper()}, {row.norm} {row.epsilon:g}"
        rows.append({"": title, **{name: result.rows[index].robust for name, result in results.items()}})
    return rows


def _begin(folder: Path, runs: list[tuple[Path, TrainingConfig]]) -> None:
    """Remove an earlier demo's runs and results, and nothing else, unless it is an unfinished demo of these runs."""
    begun = [(path / "run.json", config) for path, config in runs if (path / "run.json").is_file()]
    unfinished = bool(begun) and not (folder / "results.json").exists()
    if unfinished and not any(differences(read_run(path)["config"], config) for path, config in begun):
        return
    for run, _ in runs:
        if run.exists() and not (run / "run.json").is_file() and any(run.iterdir()):
            raise ValueError(f"{run} should be a run of the demo or not exist. Received: a folder without run.json")
        shutil.rmtree(run, ignore_errors=True)
    (folder / "results.json").unlink(missing_ok=True)
