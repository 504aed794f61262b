"""What the served signature ``trust`` costs over ``fisher``: the ratio of their CPU times at batch 64.

    python benchmarks/trust.py --out results/benchmarks/trust.json

Stored weights are exported, loaded back and asked in turn, so that a change in the machine's speed meets both. The
ratio is the median over rounds, of CPU seconds of all threads, which other processes hardly change.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf

from keras_fim import data, export
from keras_fim.evaluation import samples
from keras_fim.evaluation.report import table
from keras_fim.records import versions, write_json
from keras_fim.training.trained import load_model, record_of


def cpu_seconds(signature: Callable[..., Any], images: tf.Tensor, calls: int) -> float:
    begin = time.process_time()
    for _ in range(calls):
        signature(images=images)
    return time.process_time() - begin


def measure(name: str, arguments: argparse.Namespace) -> dict[str, float]:
    """The median ratio for one model, and the range over rounds."""
    model, source = load_model(name), record_of(name)["config"]["data"]
    test = data.load(source, test_limit=arguments.batch_size, data_dir=arguments.data_dir)[1]
    images = tf.constant(samples(test)[0])
    with tempfile.TemporaryDirectory() as folder:
        signatures = tf.saved_model.load(str(export.saved_model(model, Path(folder) / name))).signatures
        ratios = []
        for round_ in range(arguments.rounds + 1):
            pair = [cpu_seconds(signatures[key], images, arguments.calls) for key in ("trust", "fisher")]
            ratios += [pair[0] / pair[1]] if round_ else []  # the first one warms up
    return {"ratio": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["mnist-plain", "gtsrb-plain"])
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=3)
    parser.add_argument("--data-dir")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/trust.json"))
    arguments = parser.parse_args()
    cases = {name: measure(name, arguments) for name in arguments.models}
    config = {name: getattr(arguments, name) for name in ("batch_size", "rounds", "calls")}
    write_json(arguments.out, {"config": config, "cases": cases, "versions": versions()})
    print(table([{"model": name, **case} for name, case in cases.items()]))


if __name__ == "__main__":
    main()
