"""What a training step costs relative to a step of plain training."""

import statistics
import time
from collections.abc import Callable, Mapping

import keras
import numpy as np
import tensorflow as tf

from keras_fim.training.config import TrainingConfig
from keras_fim.training.defending import defended
from keras_fim.training.run import build_model, compile_model

_STEPS = 3  # timed together


def step_costs(configs: Mapping[str, TrainingConfig], *, rounds: int = 12) -> dict[str, dict[str, float]]:
    """Measure the time of a training step: CPU time, which other processes disturb least, and wall-clock time.

    The configurations take turns on the same random images, so that changes in the machine's speed affect all of them.

    Args:
        configs: Configurations by name, for images of one shape in batches of one size. The others are compared with
            the first one. Weights of ``init_from`` are not loaded.
        rounds: The number of rounds of three steps each, after a first one that compiles.

    Returns:
        By name, ``cpu`` and ``wall``, the medians over the rounds of the ratio to the first configuration; and
        ``seconds``, the median time of a step.
    """
    first = next(iter(configs.values()))
    facts, rng = first.facts, np.random.default_rng(0)
    images = rng.uniform(size=(first.batch_size, *facts.image_shape)).astype("float32")
    batch = tf.constant(images), tf.constant(rng.integers(0, facts.num_classes, first.batch_size))
    steps = {name: _step(config, batch) for name, config in configs.items()}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in configs}
    for index in range(rounds + 1):
        for name, step in steps.items():
            begin = time.process_time(), time.perf_counter()
            for _ in range(_STEPS):
                step()
            if index:  # the first round compiles
                taken[name].append((time.process_time() - begin[0], time.perf_counter() - begin[1]))
    base = next(iter(taken.values()))
    return {
        name: {
            "cpu": statistics.median(time[0] / plain[0] for time, plain in zip(times, base, strict=True)),
            "wall": statistics.median(time[1] / plain[1] for time, plain in zip(times, base, strict=True)),
            "seconds": statistics.median(wall for _, wall in times) / _STEPS,
        }
        for name, times in taken.items()
    }


def _step(config: TrainingConfig, batch: tuple[tf.Tensor, tf.Tensor]) -> Callable[[], object]:
    keras.utils.set_random_seed(0)
    model = build_model(config, fresh=True)
    model = defended(model, config.defense, mu=config.mu, seed=0, options=config.all_options)
    compile_model(model, config, steps_per_epoch=100)
    iterator = iter(tf.data.Dataset.from_tensors(batch).repeat())
    function = model.make_train_function() or model.train_function
    return lambda: function(iterator)
