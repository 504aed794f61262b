"""What the default callbacks cost: their CPU time after each epoch over that of the epoch, on all of MNIST.

    python benchmarks/callbacks.py --out results/benchmarks/callbacks.json

The ConvNet trains on the 60,000 images in batches of 128; `RobustnessCurve` in its default configuration, and
`FisherSpectrum` as training runs use it, measure on test images: after every so many steps, so that a change in the
machine's speed meets both. CPU time is what other processes change least; the attacks' own seconds are the clock's. The
first round, in which all is compiled, stands apart. Memory is that of the process.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import keras

import keras_fim
from keras_fim.callbacks import FisherSpectrum, RobustnessCurve
from keras_fim.records import versions, write_json


class Stamp(keras.callbacks.Callback):
    """Notes when it is called, at the begin and at the end of an epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.begins: list[float] = []
        self.ends: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Note it."""
        self.begins.append(time.process_time())

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Note it."""
        self.ends.append(time.process_time())


def megabytes() -> float:
    """Memory of this process, where Linux says."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=60, help="of training, in a round")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/callbacks.json"))
    arguments = parser.parse_args()
    keras.utils.set_random_seed(0)
    train, test = keras_fim.data.load(arguments.data, 128)
    model = keras_fim.models.convnet()
    model.compile("adam", loss=keras_fim.FisherTraceLoss(0.02), metrics=["accuracy"])
    before, between, after = Stamp(), Stamp(), Stamp()
    memory: list[float] = []
    watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: memory.append(megabytes()))
    with tempfile.TemporaryDirectory() as folder:
        curve = RobustnessCurve(test, log_dir=folder)
        spectrum = FisherSpectrum(test, log_dir=folder, max_samples=100)
        callbacks = [keras.callbacks.ProgbarLogger(), before, curve, between, spectrum, after, watch]
        options = {"epochs": arguments.rounds, "steps_per_epoch": arguments.steps, "callbacks": callbacks}
        history = model.fit(train.repeat(), verbose=2, **options).history
    rows = []
    for epoch in range(arguments.rounds):
        seconds = (before.ends[epoch] - before.begins[epoch]) * len(train) / arguments.steps
        robustness, fisher = between.ends[epoch] - before.ends[epoch], after.ends[epoch] - between.ends[epoch]
        parts = {key.split("/")[1]: values[epoch] for key, values in history.items() if key.startswith("robustness_s")}
        callbacks_took = {"RobustnessCurve": robustness, "FisherSpectrum": fisher}
        rows.append({"epoch": seconds, **callbacks_took, "attacks by the clock": parts})
    result = {
        "data": arguments.data,
        "overhead": {
            name: statistics.median(row[name] / row["epoch"] for row in rows[1:])
            for name in ("RobustnessCurve", "FisherSpectrum")
        },
        "steps": {"of an epoch": len(train), "of a round": arguments.steps},
        "cpu_seconds": rows,
        "megabytes_after_round": memory,
        "cpus": os.cpu_count(),
        "versions": versions(),
    }
    write_json(arguments.out, result)
    shares = ", ".join(f"{name} {100 * share:.1f} %" for name, share in result["overhead"].items())
    print(f"CPU time of an epoch on {arguments.data}: {shares} ({arguments.out})")


if __name__ == "__main__":
    main()
