"""Time of a training step of each defence over that of plain training, on the model and the shape of a data set.

    python benchmarks/defense_step.py --data mnist --out results/benchmarks/defense_step_mnist.json

Steps of all are taken in turn on the same batch, so that a change in the machine's speed meets all of them. The ratios
are of CPU seconds, which other processes disturb least, and of wall-clock seconds.
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

from keras_fim import data
from keras_fim.experiments import recipe
from keras_fim.experiments.defending import NAMES, defended
from keras_fim.records import versions, write_json
from keras_fim.experiments.training import build_model, compile_model

KRYLOV = {"direction": "krylov"}
VARIANTS = {
    **{name: (name, {}) for name in NAMES},
    "spectral, Krylov": ("spectral", KRYLOV),
    "spectral, central": ("spectral", {"difference": "central"}),
    "spectral, share 0.5": ("spectral", {"share": 0.5}),
    "spectral, share 0.25": ("spectral", {"share": 0.25}),
    "n-fgm, inference": ("n-fgm", {"attack_mode": "inference"}),
    "pgd, inference": ("pgd", {"attack_mode": "inference"}),
    "spectral+n-fgm": ("spectral+n-fgm", {}),
    "trades, 10 steps": ("trades", {"attack_steps": 10}),
}


def step(name: str, defense: str, options: dict, batch: tuple[tf.Tensor, tf.Tensor]) -> Callable[[], object]:
    keras.utils.set_random_seed(0)
    config = recipe(name, defense=defense, defense_options=options)
    model = defended(build_model(config), defense, mu=config.mu, seed=0, options=config.defense_options)
    compile_model(model, config, steps_per_epoch=100)
    iterator = iter(tf.data.Dataset.from_tensors(batch).repeat())
    function = model.make_train_function() or model.train_function
    return lambda: function(iterator)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=data.names(), default="mnist")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=12, help="rounds of three steps each")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    names = {"none", *arguments.only}
    facts, rng = data.info(arguments.data), np.random.default_rng(0)
    images = rng.uniform(size=(arguments.batch_size, *facts.image_shape)).astype("float32")
    batch = tf.constant(images), tf.constant(rng.integers(0, facts.num_classes, arguments.batch_size))
    steps = {name: step(arguments.data, *variant, batch) for name, variant in VARIANTS.items() if name in names}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for index in range(arguments.rounds + 1):
        for name, function in steps.items():
            start = time.process_time(), time.perf_counter()
            for _ in range(3):
                function()
            if index:  # the first round compiles
                seconds[name].append((time.process_time() - start[0], time.perf_counter() - start[1]))
    plain = seconds["none"]
    ratios = {
        kind: {
            name: statistics.median(ours[i] / theirs[i] for ours, theirs in zip(values, plain, strict=True))
            for name, values in seconds.items()
        }
        for i, kind in enumerate(("cpu", "wall"))
    }
    milliseconds = 1000 * statistics.median(wall for _, wall in plain) / 3
    result = {"data": arguments.data, "batch_size": arguments.batch_size, "rounds": arguments.rounds}
    out = arguments.out or Path(f"results/benchmarks/defense_step_{arguments.data}.json")
    write_json(out, {**result, "plain_milliseconds": milliseconds, "ratios": ratios, "versions": versions()})
    print(f"a plain step takes {milliseconds:.0f} ms; the others, times that (CPU, wall):")
    for name in steps:
        print(f"{name:30} {ratios['cpu'][name]:5.2f} {ratios['wall'][name]:5.2f}")


if __name__ == "__main__":
    main()
