"""Accuracy of the lines that open the README, typed as they stand, over several seeds.

    python benchmarks/front_door.py --seeds 0 1 2 --out results/front_door/mnist.json

Each finished seed is kept in the result file; a second call goes on with those that are missing.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import keras

import keras_fim
from keras_fim.records import read_json, versions, write_json


def train_and_test(seed: int) -> dict[str, float]:
    """The user's lines, verbatim but for the seed and the measurement."""
    keras.utils.set_random_seed(seed)
    start = time.perf_counter()
    train, test = keras_fim.data.load("mnist")
    model = keras_fim.models.convnet()
    model.compile("adam", loss=keras_fim.FisherTraceLoss(mu=0.02), metrics=["accuracy"])
    model.fit(train, epochs=10, verbose=2)
    seconds = time.perf_counter() - start
    accuracy = model.evaluate(test, return_dict=True, verbose=0)["accuracy"]
    return {"seed": seed, "test_accuracy": accuracy, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("results/front_door/mnist.json"))
    arguments = parser.parse_args()
    rows = read_json(arguments.out)["runs"] if arguments.out.exists() else []
    for seed in arguments.seeds:
        if all(row["seed"] != seed for row in rows):
            rows.append(train_and_test(seed))
            accuracies = [row["test_accuracy"] for row in rows]
            summary = {"mean": sum(accuracies) / len(accuracies), "lowest": min(accuracies)}
            write_json(arguments.out, {"runs": rows, **summary, "versions": versions()})
    print(arguments.out.read_text())


if __name__ == "__main__":
    main()
