from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.util import event_pb2

from keras_fim import cli, data, records
from keras_fim.evaluation import samples
from keras_fim.training import load_model, recipe, train, trained, watching
from keras_fim.training import run as running
from keras_fim.training.run import build_model, compile_model
from reproduction.storing import store_run

SCRIPT = Path(__file__).parents[2] / "training" / "train_mnist.py"
SMALL = {"limit": 300, "test_limit": 100, "model_options": {"filters": (2, 4)}, "augment": False}


def small(**changes):
    return recipe("mnist5k", **{**SMALL, "epochs": 2, **changes})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of two epochs."""
    return train(small(mu_warmup_epochs=1.0), tmp_path_factory.mktemp("runs") / "run")


@pytest.mark.slow
def test_run_folder_holds_everything(run):
    record = json.loads((run / "run.json").read_text())
    assert record["config"] == {**small(mu_warmup_epochs=1.0).as_dict()}
    assert record["versions"]["keras"] == keras.__version__ and record["versions"]["git"]
    assert record["results"]["epochs"] == 2 and 0 < record["results"]["test_accuracy"] <= 1
    names = {path.name for path in run.iterdir()}
    files = {"run.json", "model.keras", "best.weights.h5", "history.csv", "training_images.npy", ".lock"}
    assert names == files | {"checkpoints", "tensorboard"}
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["epoch-0002.weights.h5"]
    assert [row["epoch"] for row in watching.read_history(run)] == [1, 2]


def test_quoted_accuracy_is_that_of_the_saved_model(run):
    from keras_fim import data

    model = load_model(run)
    test = data.load_splits("mnist5k", limit=300, test_limit=100, validation=0.05).test
    accuracy = model.evaluate(test, return_dict=True, verbose=0)["accuracy"]
    assert accuracy == pytest.approx(json.loads((run / "run.json").read_text())["results"]["test_accuracy"])


@pytest.mark.slow
@pytest.mark.parametrize("error", [None, KeyboardInterrupt, ValueError])
def test_global_dtype_policy_is_restored(error, tmp_path, monkeypatch):
    seen = []

    def build(config, fresh=False):
        seen.append(keras.config.dtype_policy().name)
        if error:
            raise error
        return build_model(config, fresh=fresh)

    monkeypatch.setattr(running, "build_model", build)
    keras.config.set_dtype_policy("mixed_bfloat16")
    with pytest.raises(error) if error else contextlib.nullcontext():
        train(small(epochs=1), tmp_path / "run")
    assert set(seen) == {"float32"} and keras.config.dtype_policy().name == "mixed_bfloat16"


def test_finished_run_is_not_trained_again(run):
    before = (run / "model.keras").stat().st_mtime_ns
    train(small(mu_warmup_epochs=1.0), run, resume=True)
    assert (run / "model.keras").stat().st_mtime_ns == before


def test_folder_with_a_run_is_not_overwritten(run):
    with pytest.raises(ValueError, match="already holds a run: resume it .--resume. or choose another"):
        train(small(), run)
    with pytest.raises(ValueError, match=r"set up otherwise.*'mu_warmup_epochs': \(1.0, 0.0\)"):
        train(small(), run, resume=True)


@pytest.mark.slow
def test_resumed_model_has_the_weights_the_optimizer_and_the_metrics_of_the_interrupted_one(tmp_path):
    images, labels = np.random.default_rng(0).uniform(size=(20, 28, 28, 1)), np.arange(20) % 10

    def compiled():
        config = small(epochs=3)
        model = build_model(config)
        compile_model(model, config, steps_per_epoch=5)
        return model

    first, second = compiled(), compiled()
    keeper = watching.RunCheckpoint(tmp_path)
    first.fit(images, labels, 4, validation_data=(images, labels), epochs=2, callbacks=[keeper], verbose=0)
    (tmp_path / "best.weights.h5").unlink(missing_ok=True)
    if keeper.history[-1]["val_accuracy"] < keeper.history[0]["val_accuracy"]:
        (tmp_path / "best.weights.h5").touch()  # nothing to mend
    rows = watching.resume(second, tmp_path)
    assert (tmp_path / "best.weights.h5").exists()
    assert rows == keeper.history and [row["epoch"] for row in rows] == [1, 2]
    assert int(second.optimizer.iterations.numpy()) == 10 and len(second.optimizer.variables) > 10
    states = (model.variables + model.optimizer.variables for model in (second, first))
    for resumed, whole in zip(*states, strict=True):
        np.testing.assert_array_equal(resumed.numpy(), whole.numpy(), err_msg=whole.path)


def scalars(run):
    """All that TensorBoard shows, by file, tag and step; an entry for each time that it was written."""
    events = {}
    for path in (run / "tensorboard").rglob("events.out.*"):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            event = event_pb2.Event.FromString(record)
            for value in event.summary.value:
                if value.HasField("tensor") and value.tensor.dtype == 1:
                    figure = tf.make_ndarray(value.tensor).tolist()
                    events.setdefault((path.parent.name, value.tag, event.step), []).append(figure)
    return events


@pytest.mark.slow
@pytest.mark.parametrize("fatal", [0, 2])
def test_interrupted_run_ends_as_an_uninterrupted_one_and_repeats_no_step(fatal, tmp_path, monkeypatch):
    config = small(epochs=3, limit=128, augment=True, defense="n-fgm")
    whole = train(config, tmp_path / "whole")

    class Interrupted(watching.RunCheckpoint):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == fatal:  # after TensorBoard's writing
                raise KeyboardInterrupt
            super().on_epoch_end(epoch, logs)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(watching, "RunCheckpoint", Interrupted)
        train(config, tmp_path / "run")
    written = next((tmp_path / "run" / "tensorboard" / "train").iterdir())
    written.write_bytes(written.read_bytes()[:-5])  # nor what was half written
    run = train(config, tmp_path / "run", resume=True)
    rows = [[{**row, "seconds": 0} for row in watching.read_history(folder)] for folder in (whole, run)]
    assert rows[0] == rows[1]
    for values, expected in zip(load_model(run).get_weights(), load_model(whole).get_weights(), strict=True):
        np.testing.assert_array_equal(values, expected)
    left_out = ("hparams", "epoch_seconds")
    whole, once = (
        {key: figures for key, figures in scalars(folder).items() if not set(left_out) & set(key)}
        for folder in (whole, run)
    )
    assert once == whole and len(once) > 20
    assert all(len(figures) == 1 for figures in once.values())


@pytest.mark.slow
def test_two_processes_do_not_write_one_run(tmp_path):
    program = (
        "import sys; from keras_fim import records\nwith records.locked(sys.argv[1]):\n print(1, flush=True), input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline()
        with pytest.raises(ValueError, match=f"{tmp_path} is being written by process {other.pid} on .*choose another"):
            train(small(), tmp_path)
        other.kill()
    assert (tmp_path / ".lock").read_text()
    with records.locked(tmp_path):  # what a killed process leaves locks nothing
        pass


@pytest.mark.slow
def test_unfinished_files_of_killed_processes_are_removed(tmp_path):
    program = """
import os, sys
from keras_fim import records
with records.aside(sys.argv[1]) as path:
    path.mkdir(), (path / "half").write_text("half"), print(path, flush=True)
    os.kill(os.getpid(), 9)
"""
    for _ in range(2):
        command = [sys.executable, "-c", program, str(tmp_path / "a.json")]
        left = Path(subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip())
        assert (left / "half").is_file() and len(list(tmp_path.iterdir())) == 1
    with records.aside(tmp_path / "own") as own:  # of this process, which is alive
        own.touch()
        records.write_text(tmp_path / "b.json", "")
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([own.name, "b.json"])


@pytest.mark.slow
def test_interrupted_run_in_float16_goes_on_with_its_loss_scale(tmp_path, monkeypatch):
    def note(model):
        states.append([variable.numpy() for variable in (*model.variables, *model.optimizer.variables)])
        scales.append((float(model.optimizer.dynamic_scale.numpy()), int(model.optimizer.step_counter.numpy())))

    class Interrupted(watching.RunCheckpoint):
        def on_epoch_end(self, epoch, logs=None):
            self.model.optimizer.dynamic_scale.assign(512.0)  # not what a new one starts from
            self.model.optimizer.step_counter.assign(3)
            super().on_epoch_end(epoch, logs)
            note(self.model)
            raise KeyboardInterrupt

    def resume(model, folder, monitor):
        rows = going_on(model, folder, monitor=monitor)
        note(model)
        return rows

    states, scales, going_on = [], [], watching.resume
    config = small(mixed_precision="mixed_float16", mu_warmup_epochs=1.0)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(watching, "RunCheckpoint", Interrupted)
        train(config, tmp_path)
    monkeypatch.setattr(watching, "resume", resume)
    record = json.loads((train(config, tmp_path, resume=True) / "run.json").read_text())
    assert scales == [(512, 3), (512, 3)] and record["results"]["epochs"] == 2
    for before, after in zip(*states, strict=True):
        np.testing.assert_array_equal(after, before)
    assert [row["epoch"] for row in watching.read_history(tmp_path)] == [1, 2]


@pytest.mark.nightly
def test_killed_in_the_middle_of_an_epoch_and_resumed(tmp_path):
    command = [sys.executable, str(SCRIPT), "--data", "mnist5k", "--epochs", "4", "--out", str(tmp_path / "run")]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list((tmp_path / "run").glob("checkpoints/epoch-0002*")):
        assert process.poll() is None and time.monotonic() < deadline, "ended before its second epoch"
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = len(watching.read_history(tmp_path / "run"))
    assert 2 <= finished < 4
    output = subprocess.run([*command, "--resume"], env=environment, capture_output=True, text=True, check=True).stdout
    assert f"Epoch {finished + 1}/4" in output and f"Epoch {finished}/4" not in output
    assert [row["epoch"] for row in watching.read_history(tmp_path / "run")] == [1, 2, 3, 4]
    assert "test accuracy" in output


def test_starting_from_other_weights(run, tmp_path):
    finished = load_model(run)
    for source in (run, run / "model.keras", run / "best.weights.h5"):
        model = keras.models.clone_model(finished)
        trained.load_into(model, source)
        for values, expected in zip(model.get_weights(), finished.get_weights(), strict=True):
            np.testing.assert_array_equal(values, expected)


@pytest.mark.slow
def test_record_holds_the_whole_history_of_the_weights(run, tmp_path):
    def record_of(folder):
        return json.loads((folder / "run.json").read_text())

    child = train(small(epochs=1, init_from=str(run)), tmp_path / "child")
    stored = store_run(child, "child", models=tmp_path / "models")
    grandchild = train(small(epochs=1, init_from=str(tmp_path / "models" / "child")), tmp_path / "grandchild")
    assert "init_from_record" not in record_of(run)
    assert stored["init_from_record"] == record_of(child)["init_from_record"] == record_of(run)
    assert record_of(grandchild)["init_from_record"] == record_of(tmp_path / "models" / "child") == stored
    assert stored["results"]["stored"] and record_of(run)["results"] and record_of(run)["versions"]


def test_bare_weights_have_no_record_and_missing_ones_leave_no_run(run, tmp_path, monkeypatch):
    def stop(*arguments):
        raise InterruptedError

    monkeypatch.setattr(running._Run, "train", stop)
    for name in ("best.weights.h5", "model.keras"):
        shutil.copy(run / name, tmp_path / f"bare-{name}")
        config = small(init_from=str(tmp_path / f"bare-{name}"))
        with pytest.raises(InterruptedError):
            train(config, tmp_path / name)
        record = json.loads((tmp_path / name / "run.json").read_text())
        assert record == {"config": config.as_dict(), "versions": record["versions"], "init_from_record": None}
    with pytest.raises(ValueError, match="Received: 'nothing'"):
        train(small(init_from="nothing"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_run_without_the_record_of_its_parent_is_resumed(run, tmp_path):
    config = small(epochs=1, init_from=str(run))
    (tmp_path / "run.json").write_text(json.dumps({"config": config.as_dict(), "versions": {}}))
    record = json.loads((train(config, tmp_path, resume=True) / "run.json").read_text())
    assert record["results"]["epochs"] == 1 and "init_from_record" not in record


def test_named_weights_come_with_the_package():
    datasets = ("cifar10", "gtsrb", "mnist")
    assert trained.stored_names() == tuple(f"{name}-{kind}" for name in datasets for kind in ("fisher", "plain"))
    assert load_model("mnist-fisher").count_params() > 50_000
    assert trained.record_of("mnist-fisher")["config"]["mu"] == 0.02


def test_schedule_ends_at_a_learning_rate_of_zero():
    config = small(epochs=3, warmup_epochs=1.0, optimizer="sgd", learning_rate=0.5, weight_decay=1e-3)
    model = build_model(config)
    compile_model(model, config, steps_per_epoch=10)
    rates = [float(model.optimizer._learning_rate(step)) for step in (0, 5, 10, 20, 30)]
    assert rates == pytest.approx([0.0, 0.25, 0.5, 0.25, 0.0], abs=1e-6)


def test_command_line_turns_errors_into_one_line(capsys, tmp_path):
    assert cli.main(["train", "--data", "mnist5k", "--mu", "-1", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.strip() == "error: `mu` should be a finite number >= 0. Received: mu=-1.0"


def test_models_of_two_runs_are_trained_on_in_two_folders():
    from keras_fim.cli.train import _default_folder

    configs = [recipe("mnist5k", model=f"runs/{name}/model.keras") for name in ("first", "second")]
    folders = [_default_folder(config, quick=False, sweep=False).name for config in configs]
    assert [folder.partition("-mnist5k-")[0] for folder in folders] == ["first", "second"]


def test_bare_command_says_why_this_mu(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def finish(config, folder, **options):
        record = {"results": {"test_accuracy": 0.9, "best_epoch": 1, "epochs": 1, "training_seconds": 1.0}}
        Path(folder).mkdir(parents=True)
        (Path(folder) / "run.json").write_text(json.dumps(record))

    monkeypatch.setattr(running, "train", finish)
    assert cli.main(["train", "--data", "mnist"]) == 0
    output = capsys.readouterr().out
    assert "mu = 0.02 has the optimum of label smoothing 0.765 at 10 classes" in output
    assert str(Path("results/runs/mnist-mu0.02-seed0")) in output


def test_hashes_of_the_training_images_are_kept(run):
    """Each image that is trained on is recognized, none of the test images is, and neither is a changed one."""
    train_images, test_images = (samples(part)[0] for part in data.load("mnist5k", limit=300))
    hashes = trained.seen_images(run)
    assert hashes.dtype == np.uint64 and (np.diff(hashes.astype(object)) >= 0).all()
    kept = samples(data.load_splits("mnist5k", limit=300, validation=0.05).train)[0]
    assert len(kept) == 300 == len(hashes) and trained.was_seen(kept, hashes).all()
    assert not trained.was_seen(test_images[:200], hashes).any()
    changed = np.clip(kept[:50] + 0.01, 0, 1)
    assert not trained.was_seen(changed, hashes).any() and len(train_images) == 300
    assert trained.seen_images(run / "model.keras") is not None and trained.seen_images("nothing") is None


@pytest.mark.parametrize("header", ["{'descr': ('<u8", "\0" * 20, "{'descr': 1}", ""])
def test_damaged_hashes_are_an_error_that_says_what_to_do(header, tmp_path):
    content = np.lib.format.magic(1, 0) + len(header).to_bytes(2, "little") + header.encode() + bytes(64)
    (tmp_path / "training_images.npy").write_bytes(content)
    with pytest.raises(ValueError, match="training_images.npy should hold hashes .*; delete the file to evaluate"):
        trained.seen_images(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("defense", ["n-fgm", "none"])
def test_the_most_robust_epoch_is_kept(defense, tmp_path):
    """Without an epsilon there is nothing to tell, and the last epoch is kept."""
    config = small(defense=defense, keep="robustness", epochs=3, learning_rate=0.02)
    results = json.loads((train(config, tmp_path) / "run.json").read_text())["results"]
    rows = watching.read_history(tmp_path)
    if defense == "n-fgm":
        scores = [row["val_accuracy"] * (1 - row["fooled_iterative"]) for row in rows]
        assert [row["score"] for row in rows] == pytest.approx(scores)
        assert results["best_epoch"] == max((1, 2, 3), key=lambda epoch: (scores[epoch - 1], epoch))
    else:
        assert results["best_epoch"] == 3
    kept = build_model(config)
    kept.load_weights(tmp_path / "best.weights.h5")
    for one, other in zip(kept.get_weights(), load_model(tmp_path).get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_model_of_one_class_is_never_the_most_robust():
    """Nothing fools it, and with two classes its accuracy is a half."""
    images, labels = np.linspace(0, 1, 8, dtype="float32")[:, None], np.arange(8) // 4
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, "sigmoid")])
    scores = []
    for weight in (0.0, 9.0):
        model.set_weights([np.array([[weight]]), np.array([-4.5])])
        score = watching.Score("robustness", (images, labels))
        score.set_model(model)
        logs = {"val_accuracy": 0.5, "fooled_iterative": 0.0}
        score.on_epoch_end(0, logs)
        scores.append(logs["score"])
    assert scores == [0.0, 0.5]
