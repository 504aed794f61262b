"""What is killed, starved and run twice: small runs of train, evaluate, export and compare, each in its own process.

    python -m tests.campaign.victims NAME FOLDER [--kill N]

Prints ``ready`` before it begins, and what it found at the end. With ``--kill`` the process kills itself just before (N
even) or just after (N odd) its rename number N // 2.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

DIGITS = {"limit": 80, "test_limit": 40, "model_options": {"filters": (2, 4)}, "batch_size": 16}


def train(folder: Path) -> dict[str, Any]:
    """Three epochs of an adversarial training; its weights and metrics."""
    from keras_fim.training import load_model, recipe, watching
    from keras_fim.training import train as trained

    config = recipe("mnist5k", epochs=3, defense="n-fgm", **DIGITS)
    run = trained(config, folder, resume=True, verbose=0)
    weights = [float(np.abs(values).sum(dtype=np.float64)) for values in load_model(run).get_weights()]
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in watching.read_history(run)]
    return {"weights": weights, "history": rows}


def evaluate(folder: Path) -> dict[str, Any]:
    """Two attacks at two budgets on two chunks; all figures but the seconds."""
    from keras_fim import attacks, data
    from keras_fim.evaluation import evaluate as evaluated
    from keras_fim.training import load_model

    result = evaluated(
        load_model("mnist-plain"),
        data.load("mnist5k", 64, test_limit=300)[1],
        attacks=[attacks.FGSM(), attacks.PGD(steps=3)],
        epsilons=[0.05, 0.1],
        folder=folder,
        spectrum=False,
        progress=None,
    )
    return {"rows": [{**row, "seconds": 0, "time": 0} for row in result.records()]}


def export(folder: Path) -> dict[str, Any]:
    """A new version; what the newest one answers."""
    import tensorflow as tf

    from keras_fim import models
    from keras_fim.export import saved_model

    tf.keras.utils.set_random_seed(0)
    path = saved_model(models.convnet(filters=(1, 1)), folder / "model", bounds=(0, 1))
    answer = tf.saved_model.load(str(path)).signatures["logits"](images=tf.fill((1, 28, 28, 1), 0.5))
    return {"logits": np.round(answer["logits"].numpy(), 5).tolist()}


def compare(folder: Path) -> dict[str, Any]:
    """Plain training and one defense, one epoch each; all figures but the cost."""
    from keras_fim.training import compare as compared

    changes = {**DIGITS, "epochs": 1}
    comparison = compared("mnist5k", folder, ["n-fgm"], max_samples=20, quick=True, changes=changes)
    return {"rows": [{**row, "cost": 0} for row in comparison.records()]}


VICTIMS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "train": train,
    "evaluate": evaluate,
    "export": export,
    "compare": compare,
}


def kill_at(number: int) -> None:
    """Let the process kill itself before or after one of its renames."""
    from keras_fim import records

    publish, done = records.publish, 0

    def fatal(unfinished: Path, path: Path) -> None:
        nonlocal done
        if done == number // 2 and number % 2 == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        publish(unfinished, path)
        if done == number // 2:
            os.kill(os.getpid(), signal.SIGKILL)
        done += 1

    records.publish = fatal
    from keras_fim.export import saved

    saved.publish = fatal


def main() -> None:
    """Run one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=VICTIMS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kill", type=int)
    parser.add_argument("--times", type=int, default=1)
    arguments = parser.parse_args()
    import keras_fim.export
    import keras_fim.training  # noqa: F401 - imports are no part of what is killed

    if arguments.kill is not None:
        kill_at(arguments.kill)
    print("ready", flush=True)
    for _ in range(arguments.times):
        print(json.dumps(VICTIMS[arguments.name](arguments.folder)), flush=True)


if __name__ == "__main__":
    main()
