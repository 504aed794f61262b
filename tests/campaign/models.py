"""Many new models in one process: memory and the number of live compiled functions do not grow with them."""

from __future__ import annotations

import gc
import os

import keras
import numpy as np
import tensorflow as tf

from keras_fim import attacks
from keras_fim.evaluation import evaluate

WARM = 20


def models(trials: int, seed: int) -> tuple[list[str], str]:
    """Evaluate new models one after the other.

    Returns:
        An entry for each model beyond the 20th, empty if memory and functions are what they were at the 20th; a remark.
    """
    rng, figures = np.random.default_rng(seed), list[tuple[int, float]]()
    images, labels = rng.uniform(size=(20, 8, 8, 1)).astype("float32"), np.arange(20) % 3
    for index in range(trials):
        keras.utils.set_random_seed(seed + index)
        layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3, activation="softmax")]
        options = {"attacks": [attacks.FGSM(), attacks.PGD(steps=2)], "epsilons": [0.1], "progress": None}
        evaluate(keras.Sequential(layers), (images, labels), bounds=(0, 1), **options)
        gc.collect()
        figures.append((live_functions(), memory()))
    if len(figures) <= WARM:
        return [], f"too few models: {figures}"
    functions, start = figures[WARM - 1]
    allowed = 1.1 * start
    lost = [
        "" if count <= functions and used <= allowed else f"model {index}: {count} functions, {used:.0f} MB"
        for index, (count, used) in enumerate(figures[WARM:], start=WARM + 1)
    ]
    end = figures[-1]
    return lost, f"20th: {functions} functions, {start:.0f} MB; last: {end[0]} functions, {end[1]:.0f} MB"


def live_functions() -> int:
    """The number of compiled functions that are alive."""
    kind = type(tf.function(lambda: None))
    return sum(isinstance(thing, kind) for thing in gc.get_objects())


def memory() -> float:
    """The memory of this process, in MB."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
