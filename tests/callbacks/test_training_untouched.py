"""Training does not notice that it is watched: in processes of their own, for determinism and devices are theirs."""

from __future__ import annotations

import subprocess
import sys

import pytest

COMMON = """
import random, sys
import keras
import numpy as np
import tensorflow as tf
{setup}
from keras_fim import attacks
from keras_fim.callbacks import FisherSpectrum, RobustnessCurve


class Noise(keras.layers.Layer):
    "Draws from a seed of its own whether it trains or not."

    def __init__(self):
        super().__init__()
        self.seeds = keras.random.SeedGenerator(3)

    def call(self, inputs):
        return inputs + keras.random.normal(keras.ops.shape(inputs), stddev=0.01, seed=self.seeds)


class Draws(keras.callbacks.Callback):
    "What the three global generators give after each epoch."

    def __init__(self):
        super().__init__()
        self.drawn = []

    def on_epoch_end(self, epoch, logs=None):
        self.drawn.append((random.random(), np.random.rand(), float(tf.random.uniform([]))))


class Greedy(attacks.FixedBudgetAttack):
    "Draws from the three global generators."

    name, norm, compiled = "greedy", 2.0, False

    def prepare(self, logits_fn, task):
        random.random(), np.random.rand(), tf.random.uniform([])
        return (logits_fn(task.images),)

    def perturb(self, logits_fn, task, state):
        raise RuntimeError("and then fails")


def trained(strategy, watched):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        layers = [
            *(keras.Input((6, 6, 1)), keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.Flatten()),
            *(keras.layers.BatchNormalization(), keras.layers.Dropout(0.3), {noise}),
            keras.layers.Dense(4, activation="softmax"),
        ]
        model = keras.Sequential(layers)
        model.compile(keras.optimizers.Adam(0.01), loss="sparse_categorical_crossentropy")
    pgd = attacks.CleverHans("projected_gradient_descent", nb_iter=2, rand_init=True)
    epsilons = {{"l2": [0.5, 1], "linf": [0.1, 0.2]}}
    watching = [
        RobustnessCurve(test, [attacks.OSSA(), attacks.FGSM(), pgd, Greedy()], epsilons, log_dir=log_dir),
        FisherSpectrum(test, log_dir=log_dir),
    ]
    draws = Draws()
    data = tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(64).batch(16)
    history = model.fit(data, epochs=3, verbose=0, callbacks=[*(watching if watched else []), draws]).history
    assert ("val_fooling/ossa/eps_1" in history) == watched, list(history)
    assert ("fisher/largest_x/q50" in history) == watched, list(history)
    return [variable.numpy() for variable in (*model.variables, *model.optimizer.variables)], draws.drawn


log_dir = sys.argv[1]
generator = np.random.default_rng(0)
images, labels = generator.uniform(size=(64, 6, 6, 1)).astype("float32"), np.arange(64) % 4
test = tf.data.Dataset.from_tensor_slices((images, labels)).batch(16)
strategy = {strategy}
watched, alone = trained(strategy, True), trained(strategy, False)
assert watched[1] == alone[1], (watched[1], alone[1])
for ours, theirs in zip(watched[0], alone[0], strict=True):
    np.testing.assert_array_equal(ours, theirs)
print("identical", len(alone[0]))
"""

DEVICES = """
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
"""
PROGRAMS = {
    "one device": {
        "setup": "tf.config.experimental.enable_op_determinism()",
        "strategy": "tf.distribute.get_strategy()",
        "noise": "Noise()",
    },
    "mirrored": {
        "setup": f"{DEVICES}tf.config.experimental.enable_op_determinism()",
        "strategy": 'tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], tf.distribute.ReductionToOneDevice())',
        "noise": 'keras.layers.Activation("linear")',
    },
}


@pytest.mark.nightly
@pytest.mark.parametrize("program", PROGRAMS)
def test_weights_and_random_states_are_identical_with_and_without_the_callbacks(program, tmp_path):
    source = COMMON.format(**PROGRAMS[program])
    command = [sys.executable, "-c", source, str(tmp_path)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert finished.stdout.startswith("identical")
