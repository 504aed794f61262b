"""Several devices, which have to be there before TensorFlow starts: hence in a process of its own."""

from __future__ import annotations

import json
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


DEVICES = """
import json, sys

import keras
import numpy as np
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

from keras_fim import attacks, callbacks, evaluation
from keras_fim.attacks import draws, lp

seen = []


class Spy(keras.layers.Layer):
    def call(self, x):
        record = tf.numpy_function(lambda n: (seen.append(int(n)), n)[1], [tf.shape(x)[0]], tf.int32)
        with tf.control_dependencies([record]):
            return tf.identity(x)

    def compute_output_shape(self, shape):
        return shape


def build():
    layers = [keras.layers.Conv2D(6, 3, activation="tanh"), keras.layers.BatchNormalization(), keras.layers.Flatten()]
    return keras.Sequential([keras.Input((6, 6, 1)), Spy(), *layers, keras.layers.Dense(5)])


def equal(mine, theirs):
    return float(np.mean(np.asarray(mine) == np.asarray(theirs)))


devices = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice())
with devices.scope():
    two = build()
one = build()
weights = [np.random.default_rng(1).normal(size=w.shape) ** 2 if "variance" in w.path
           else np.random.default_rng(2).normal(size=w.shape) for w in one.weights]
one.set_weights(weights)
two.set_weights(weights)
images = np.random.default_rng(0).uniform(size=(101, 6, 6, 1)).astype("float32")
labels = one(images).numpy().argmax(axis=-1)
found = {}
for name in sys.argv[1].split(","):
    attack = attacks.attack_by_name(name)
    epsilon = {0: 20, 1: 6.0, 2: 1.5, np.inf: 0.2}[attack.norm]
    result = attack(two, images, labels, epsilon=epsilon)
    ours = attack(one, images, labels, epsilon=epsilon)
    found[name] = [equal(result.success, ours.success), int(ours.success.sum())]
options = {"attacks": ["fgsm"], "epsilons": [0.03], "bounds": (0, 1), "progress": None, "name": "m"}
reports = [evaluation.evaluate(model, (images, labels), **options) for model in (one, two)]
curves = [callbacks.RobustnessCurve((images, labels), attacks.FGSM(), [0.03]).measure(model) for model in (one, two)]
spectra = [evaluation.spectrum_summary(model, images).values for model in (one, two)]
for figures in curves:
    del figures["robustness_seconds/fgsm"]
seen.clear()
attacks.DeepFool()(two, images, labels)
keys = draws.keys_of(0, tf.range(9, dtype=tf.int64))
noise = [lp.random_in_ball(tf.zeros([9, 6, 6, 1]), tf.ones([9]), np.inf, keys).numpy()]
with devices.scope():
    noise.append(lp.random_in_ball(tf.zeros([9, 6, 6, 1]), tf.ones([9]), np.inf, keys).numpy())
print(json.dumps({
    "attacks": found,
    "reports": [row.fooling.count for report in reports for row in report.rows],
    "curves": curves,
    "spectra": spectra,
    "noise": equal(*noise),
    "batches": seen,
}))
"""


def on_two_devices(names):
    finished = subprocess.run([sys.executable, "-c", DEVICES, names], capture_output=True, text=True, timeout=3000)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return json.loads(finished.stdout.splitlines()[-1])


def check_devices(measured):
    print(measured["attacks"])
    for name, (equal, fooled) in measured["attacks"].items():
        assert equal >= 0.99 and fooled >= 10, name
    assert measured["noise"] == 1 and measured["reports"][0] == measured["reports"][1] > 0
    assert measured["curves"][0] == pytest.approx(measured["curves"][1], abs=0.01)
    for mine, theirs in zip(*(spectra.values() for spectra in measured["spectra"]), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)


@pytest.mark.slow
def test_images_are_divided_among_two_devices():
    """After each compaction, evenly: the layer that counts sees pairs of batches that differ by one image at most."""
    measured = on_two_devices("fgsm,pgd")
    check_devices(measured)
    pairs = list(zip(measured["batches"][0::2], measured["batches"][1::2], strict=True))
    assert len({sum(pair) for pair in pairs}) > 3 and all(abs(first - second) <= 1 for first, second in pairs)


@pytest.mark.nightly
def test_every_attack_on_two_devices():
    names = (
        "ossa,fgm,otcm,bim,mim,apgd_ce,apgd_dlr,apgd_t,square,strong,autoattack,deepfool,fmn,fab,carlini_wagner,jsma"
    )
    check_devices(on_two_devices(names))
