"""Training on several devices, which have to be there before TensorFlow starts: hence in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import keras
import numpy as np
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

import keras_fim


def trained(strategy):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        layers = [keras.layers.Dense(8, activation="relu"), keras.layers.Dense(4, activation="softmax")]
        model = keras.Sequential([keras.Input((3,)), *layers])
        loss = keras_fim.FisherTraceLoss(0.05)
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss=loss)
    start = model.get_weights()
    warm_up = keras_fim.callbacks.MuSchedule(0.05, warmup_steps=6)
    model.fit(images, labels, batch_size=16, epochs=3, shuffle=False, verbose=0, callbacks=[warm_up])
    return start, model.get_weights()


def largest_difference(ours, theirs):
    return max(np.abs(a - b).max() for a, b in zip(ours, theirs, strict=True))


images = np.random.default_rng(0).normal(size=(64, 3)).astype("float32")
labels = np.arange(64) % 4
mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice())
assert mirrored.num_replicas_in_sync == 2
start, single = trained(tf.distribute.get_strategy())
start_of_both, both = trained(mirrored)
assert largest_difference(start, start_of_both) == 0 and largest_difference(start, single) > 1e-2
print(largest_difference(single, both))
"""


@pytest.mark.slow
def test_two_devices_train_to_the_weights_of_one():
    finished = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert float(finished.stdout.split()[-1]) < 1e-5
