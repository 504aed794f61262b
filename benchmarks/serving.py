"""Throughput of an exported model's signatures on two threads, batch 64: what does the Fisher score cost?

    python benchmarks/serving.py --out results/benchmarks/serving.json

Stored weights are exported, loaded back and asked for test images, signature by signature in turn, so that a change in
the machine's speed meets all. ``ratio`` is the median over rounds of a signature's time over that of
``serving_default`` before and after it.
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
from keras_fim.detection import FisherDetector
from keras_fim.evaluation import samples
from keras_fim.records import versions, write_json
from keras_fim.training.trained import load_model, record_of

MODELS = ("mnist-plain", "mnist-fisher", "gtsrb-plain", "gtsrb-fisher")


def seconds(signature: Callable[..., Any], images: tf.Tensor, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        signature(images=images)
    return (time.perf_counter() - start) / calls


def measure(name: str, batch_size: int, rounds: int, calls: int) -> dict[str, Any]:
    model, record = load_model(name), record_of(name)
    images, _ = samples(data.load(record["config"]["data"], test_limit=batch_size)[1])
    detector = FisherDetector.fit(model, images)
    with tempfile.TemporaryDirectory() as folder:
        path = export.saved_model(model, Path(folder) / name, detector=detector)
        signatures = tf.saved_model.load(str(path)).signatures
        batch = tf.constant(images)
        times: dict[str, list[float]] = {key: [] for key in ("serving_default", "fisher", "trust", "detect")}
        ratios: dict[str, list[float]] = {key: [] for key in ("fisher", "trust", "detect")}
        for key in times:
            seconds(signatures[key], batch, calls)  # warms up
        before = seconds(signatures["serving_default"], batch, calls)
        for _ in range(rounds):
            for key in ratios:
                own = seconds(signatures[key], batch, calls)
                after = seconds(signatures["serving_default"], batch, calls)
                ratios[key].append(2 * own / (before + after))
                times[key].append(own)
                times["serving_default"].append(after)
                before = after
    row: dict[str, Any] = {"classes": model.output_shape[-1]}
    row["images_per_second"] = {key: batch_size / statistics.median(values) for key, values in times.items()}
    row["ratio"] = {key: statistics.median(values) for key, values in ratios.items()}
    row["ratio_range"] = {key: [min(values), max(values)] for key, values in ratios.items()}
    return row


def table(rows: dict[str, dict[str, Any]]) -> str:
    lines = ["model            K   serving_default/s   fisher/s   ratio (range)"]
    for name, row in rows.items():
        speed, (low, high) = row["images_per_second"], row["ratio_range"]["fisher"]
        lines.append(
            f"{name:14} {row['classes']:3} {speed['serving_default']:17.0f} {speed['fisher']:10.0f} "
            f"{row['ratio']['fisher']:7.2f} ({low:.2f}-{high:.2f})"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=4, help="of a signature in a round")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/serving.json"))
    arguments = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    options = {"batch_size": arguments.batch_size, "rounds": arguments.rounds, "calls": arguments.calls}
    rows = {name: measure(name, **options) for name in arguments.models}
    config = {**options, "threads": arguments.threads, "fisher_steps": 1}
    write_json(arguments.out, {"config": config, "cases": rows, "versions": versions()})
    print(table(rows))


if __name__ == "__main__":
    main()
