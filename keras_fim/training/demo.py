"""The package at work: a plain and two defended classifiers of real digits under attack."""

import shutil
from pathlib import Path
from typing import Any

from keras_fim import attacks, data
from keras_fim.arguments import expect
from keras_fim.evaluation import Evaluation, SideBySide, evaluate, report
from keras_fim.export import saved_model
from keras_fim.records import read_run, write_json, write_text
from keras_fim.training.config import TrainingConfig, differences, recipe
from keras_fim.training.run import train
from keras_fim.training.trained import load_model

_EPSILONS = {"fgsm": [0.1, 0.2, 0.3], "ossa": [1.0, 2.0, 3.0], "strong_l2": [0.5, 1.5]}
_SAMPLES = 200
_PLAN = """\
Three classifiers of 5,000 embedded digits are trained and attacked, which takes about five minutes on two cores:
one without a defense, one with the paper's Fisher trace, and one with N-FGM, the defense that we recommend."""


def run_demo(folder: Path, export_folder: Path, *, mu: float = 0.02, epochs: int = 12, seed: int = 0) -> str:
    """Train on the embedded digits without a defense, with the Fisher trace and with N-FGM, and attack all three.

    Each model is attacked on 200 test images with one step and with a quarter of the steps of `attacks.Strong`. Prints
    what it does and who is fooled, and writes the table, a report of each model and one of all side by side, and a
    SavedModel. An interrupted demo continues where it stopped; a finished one starts anew.

    Args:
        folder: The folder for results and runs.
        export_folder: The folder in which the SavedModel of the N-FGM model becomes the next version.
        mu: The weight of the Fisher trace, > 0.
        epochs: The number of passes over the training digits.
        seed: The random seed of weights and shuffling.

    Returns:
        The table, the verdict on the three models, and the files that were written.

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
    print(_PLAN, flush=True)
    results: dict[str, Evaluation] = {}
    options: dict[str, Any] = {"epsilons": _EPSILONS, "max_samples": _SAMPLES, "progress": None}
    options["class_names"] = data.info("mnist5k").class_names
    for number, (name, config) in enumerate(configs.items(), 1):
        print(f"\n{number}/{len(configs)} {name}: training on 3,800 digits, {epochs} epochs", flush=True)
        train(config, runs[name], resume=True, verbose=0)
        print(f"    attacking {_SAMPLES} test digits", flush=True)
        strong = attacks.Strong(norm=2, twin=load_model(runs["plain"]) if results else None, quick=True)
        options |= {"attacks": [attacks.FGSM(), attacks.OSSA(), strong], "name": name, "folder": runs[name] / "cells"}
        results[name] = evaluate(load_model(runs[name]), data.load("mnist5k", 500)[1], **options)
        results[name].save(runs[name] / "report.html")
        print("\n".join(f"    {sentence}" for sentence in _story(results[name])), flush=True)
    comparison = SideBySide(tuple(results.values()))
    files = {
        "report": comparison.save(folder / "report.html"),
        "SavedModel": saved_model(load_model(runs["N-FGM"]), export_folder),
        "TensorBoard": f"keras-fim board {folder}",
    }
    rows = _rows(results)
    write_text(folder / "table.md", report.table(rows, markdown=True) + "\n")
    measured = {name: result.as_dict() for name, result in results.items()}
    write_json(folder / "results.json", {name: {**m, "samples": None, "examples": []} for name, m in measured.items()})
    listed = "\n".join(f"{what + ':':13}{path}" for what, path in files.items())
    return f"\n{report.table(rows)}\n\n{' '.join(comparison.sentences)}\n\n{listed}"


def _story(result: Evaluation) -> list[str]:
    """The verdict, and the image that is fooled most easily."""
    fragile = result.examples[0]
    image = f"image {fragile.index}, a {fragile.label} ({100 * fragile.confidence:.0f} % sure)"
    taken = f"taken for a {fragile.prediction} ({100 * fragile.confidence_after:.0f} % sure) under {fragile.attack}"
    easiest = f"Most easily fooled: {image}, is {taken}."
    return [*result.sentences, *([easiest] if fragile.prediction != fragile.label else [])]


def _rows(results: dict[str, Evaluation]) -> list[report.Row]:
    """Accuracy and robust accuracy, one column for each model."""
    rows: list[report.Row] = [{"": "accuracy", **{name: result.accuracy for name, result in results.items()}}]
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
