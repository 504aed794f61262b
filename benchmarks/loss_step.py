"""Time of a training step with the Fisher-trace loss over that with plain cross-entropy, on the ConvNet.

    python benchmarks/loss_step.py --out results/benchmarks/loss_step.json

Steps of both are taken in turn on the same batch, so that a change in the machine's speed meets both.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import keras_fim
from keras_fim.records import versions, write_json


def step(loss: keras.losses.Loss, images: np.ndarray, labels: np.ndarray) -> Callable[[], object]:
    keras.utils.set_random_seed(0)
    model = keras_fim.models.convnet()
    model.compile("adam", loss=loss)
    batch = tf.constant(images), tf.constant(labels)
    dataset = tf.data.Dataset.from_tensors(batch).repeat()
    function = model.make_train_function() or model.train_function
    iterator = iter(dataset)
    return lambda: function(iterator)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=60, help="rounds of ten steps each")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/loss_step.json"))
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(arguments.batch_size, 28, 28, 1)).astype("float32")
    labels = rng.integers(0, 10, arguments.batch_size)
    steps = {
        "cross-entropy": step(keras.losses.SparseCategoricalCrossentropy(), images, labels),
        "FisherTraceLoss": step(keras_fim.FisherTraceLoss(0.02), images, labels),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for index in range(arguments.rounds + 3):
        for name, function in steps.items():
            start = time.perf_counter()
            for _ in range(10):
                function()
            if index >= 3:  # the first rounds compile and warm up
                seconds[name].append((time.perf_counter() - start) / 10)
    ratios = [penalized / plain for plain, penalized in zip(*seconds.values(), strict=True)]
    result = {
        "batch_size": arguments.batch_size,
        "milliseconds": {name: 1000 * statistics.median(values) for name, values in seconds.items()},
        "ratio": statistics.median(ratios),
        "versions": versions(),
    }
    write_json(arguments.out, result)
    print(arguments.out.read_text())


if __name__ == "__main__":
    main()
