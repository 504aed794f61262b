"""The cells of an evaluation, divided among processes."""

from __future__ import annotations

import dataclasses
import os
import pickle
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_fim import attacks, evaluation, models
from keras_fim.evaluation import cells
from keras_fim.logits import logits_function, predict_logits

OPTIONS = {"attacks": ["fgsm", attacks.PGD(steps=2)], "epsilons": [0.1, 0.2], "bounds": (0, 1), "progress": None}


def linear():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.set_weights([np.array([[4.0, -4.0], [1.0, 0.0], [0.0, 1.0]]), np.array([-2.0, 2.0])])
    return model


def many(count=600):
    images = np.random.default_rng(0).uniform(size=(count, 3)).astype("float32")
    return images, (images[:, 0] < 0.5).astype(int)


def timeless(report):
    """The report without what the clock said."""
    return dataclasses.replace(report, rows=tuple(dataclasses.replace(row, seconds=0.0) for row in report.rows))


def test_parts_of_a_job_array_and_what_gathers_them(tmp_path):
    model, data = linear(), many()
    parts = [
        evaluation.evaluate(model, data, **OPTIONS, max_samples=None, chunk=(number, 2), folder=tmp_path)
        for number in (1, 2)
    ]
    assert [part.accuracy.total for part in parts] == [256 + 88, 256]
    lines, options = [], {**OPTIONS, "max_samples": None}
    gathered = evaluation.evaluate(model, data, **{**options, "progress": lines.append}, folder=tmp_path)
    ended = [line for line in lines if " images (" in line]
    assert len(ended) == 3 * (2 + 1) and all("(kept)" in line for line in ended)
    whole = evaluation.evaluate(model, data, **options)
    assert timeless(gathered) == timeless(whole) and str(gathered) == str(whole)


@pytest.mark.parametrize("chunk", [(0, 2), (3, 2), (1,), [1, 2], (1.0, 2), "1/2"])
def test_a_part_that_cannot_be(chunk):
    with pytest.raises(ValueError, match=r"`chunk` should be (two integers, such as \(3, 16\)|of type tuple)"):
        evaluation.evaluate(linear(), many(8), **OPTIONS, chunk=chunk)


def test_a_part_of_a_small_dataset_and_a_backend_that_are_not_there():
    with pytest.raises(ValueError, match=r"Received: chunk=\(2, 2\), where nothing is left to measure"):
        evaluation.evaluate(linear(), many(8), **OPTIONS, chunk=(2, 2))
    with pytest.raises(ValueError, match="`backend` should be one of .*'local', 'ray'.* Received: backend='dask'"):
        evaluation.evaluate(linear(), many(8), **OPTIONS, backend="dask")


@pytest.mark.nightly
def test_four_processes_one_of_which_is_killed(tmp_path, digits):
    """``--chunk``: all write to one folder at once; the report is that of a single process, to the last digit."""
    images, labels = digits[0].reshape(len(digits[0]), -1), digits[1]
    centers = np.stack([images[labels == digit].mean(axis=0) for digit in range(10)])
    layers = [keras.Input((28, 28, 1)), keras.layers.Flatten(), keras.layers.Dense(10, activation="softmax")]
    model = keras.Sequential(layers)
    model.set_weights([2 * centers.T, -(centers**2).sum(axis=-1)])
    model.save(tmp_path / "centers.keras")

    def start(*more, out="shared"):
        shared = ["--data", "mnist5k", "--attacks", "fgsm,pgd", "--epsilons", "linf=0.05,0.1", "--max-samples", "1000"]
        where = ["--model", str(tmp_path / "centers.keras"), "--out", str(tmp_path / out)]
        command = [sys.executable, "-m", "keras_fim", "evaluate", *shared, *where, *more]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)

    running = {f"{number}/4": start("--chunk", f"{number}/4") for number in range(1, 5)}
    cells = tmp_path / "shared" / "cells"
    while len(list(cells.glob("*.json"))) < 4:
        assert any(process.poll() is None for process in running.values())
        time.sleep(0.05)
    part = next(part for part, process in running.items() if process.poll() is None)
    running[part].send_signal(signal.SIGKILL)
    assert running[part].wait() == -signal.SIGKILL
    running[part] = start("--chunk", part)
    for process, count in zip(running.values(), (256, 256, 256, 232), strict=True):
        printed, errors = process.communicate(timeout=600)
        assert process.returncode == 0 and printed.startswith(f"{count} images in "), errors
    before = {path.name: path.stat().st_mtime_ns for path in cells.glob("*.json")}
    assert len(before) == 4 * 3
    printed, errors = start().communicate(timeout=600)
    alone, _ = start(out="alone").communicate(timeout=600)
    assert before == {path.name: path.stat().st_mtime_ns for path in cells.glob("*.json")}
    assert printed.replace("shared", "alone") == alone and "images." in alone
    gathered, single = (evaluation.Evaluation.load(tmp_path / out / "evaluation.json") for out in ("shared", "alone"))
    assert timeless(gathered) == timeless(single) and gathered.samples == single.samples


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clocked(attacks.PGD):
    """Kills the process that runs it first, and writes down how much CPU time the others have taken."""

    folder: str = ""

    def sweep(self, *args, **options):
        try:
            (Path(self.folder) / "died").touch(exist_ok=False)
        except FileExistsError:
            results = super().sweep(*args, **options)
            (Path(self.folder) / f"{os.getpid()}.seconds").write_text(str(time.process_time()))
            return results
        os.kill(os.getpid(), signal.SIGKILL)


def cpu_seconds(folder):
    return sum(float(path.read_text()) for path in folder.glob("*.seconds"))


@pytest.mark.nightly
def test_ray_on_two_workers_one_of_which_is_killed(tmp_path, capsys, monkeypatch):
    """The same report as a single process. CPU and wall time relative to it are printed."""
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "0")  # other processes' memory is no reason to kill a worker
    images, model = np.random.default_rng(0).uniform(size=(1000, 28, 28, 1)).astype("float32"), models.convnet()
    data = images, model.predict(images, verbose=0).argmax(axis=-1)
    options = {"attacks": [Clocked(folder=str(tmp_path), steps=100)], "epsilons": [0.01], "bounds": (0, 1)}
    ray.init(num_cpus=2, log_to_driver=False, logging_level="ERROR")
    own, begin = time.process_time(), time.perf_counter()
    try:
        report = evaluation.evaluate(model, data, **options, backend="ray", folder=tmp_path / "cells")
    finally:
        ray.shutdown()
    wall = time.perf_counter() - begin
    cpu = time.process_time() - own + cpu_seconds(tmp_path)
    assert (tmp_path / "died").exists() and len(list((tmp_path / "cells").glob("*.json"))) == 4 * 2
    own, begin = time.process_time(), time.perf_counter()
    alone = evaluation.evaluate(model, data, **options)
    single = time.process_time() - own
    with capsys.disabled():
        ratios = (
            f"{cpu / single:.2f} times the CPU time, {wall / (time.perf_counter() - begin):.2f} times the wall time"
        )
        print(f"\nRay, two workers, one killed: {ratios} of a single process, which took {single:.0f} CPU seconds")
    assert timeless(report) == timeless(alone) and str(report) == str(alone)


@pytest.mark.slow
def test_what_is_sent_to_other_processes(tmp_path):
    """A logits function arrives without what was compiled, and as the same model; so does one of a SavedModel."""
    model, (images, _) = linear(), many(5)
    logits_fn = logits_function(model)
    logits_fn.in_batches(predict_logits, images)
    model.export(tmp_path / "saved", verbose=False)
    for fn in (logits_fn, logits_function(tmp_path / "saved", from_logits=True)):
        received = pickle.loads(pickle.dumps(fn))
        assert received.form == fn.form and not received._compiled
        np.testing.assert_array_equal(received(images), fn(images))


def labels_of(logits_fn, chunk):
    return {"labels": chunk.labels}


class Slow(cells.Here):
    """A backend of several processes: results are there only when they are waited for, or all at once."""

    def __init__(self, cells, all_ready):
        super().__init__(None, cells)
        self.submitted, self.all_ready = [], all_ready

    def submit(self, index, chunk):
        self.submitted.append(int(chunk.indices[0]))
        return super().submit(index, chunk)

    def ready(self, task):
        return self.all_ready


@pytest.mark.parametrize("all_ready", [True, False])
def test_chunks_come_in_order_and_are_let_go(tmp_path, all_ready):
    """A chunk that is ready is handed on before the next is read, and none stays in memory."""
    parts = [evaluation.Chunk(np.array([index]), np.zeros((1, 2)), np.array([index])) for index in range(4)]
    references = []

    def read():
        for number, part in enumerate(parts):
            assert not all_ready or len(seen) == number
            images = part.images.copy()
            references.append(weakref.ref(images))
            yield part._replace(images=images), str(number)

    cell = cells.Cell("labels", {}, ("labels",), labels_of, 1)
    for run in ("measured", "kept"):
        seen, references = [], []
        backend = Slow([cell], all_ready or run == "kept")
        for chunk, figures in cells.finished(backend, [cell], cells.Cells(tmp_path), "model", read()):
            ((columns, took),) = figures
            assert columns["labels"].tolist() == chunk.labels.tolist() and (took == "kept") == (run == "kept")
            seen.append(int(chunk.labels[0]))
        del chunk
        assert seen == [0, 1, 2, 3] and backend.submitted == ([] if run == "kept" else seen)
        assert all(reference() is None for reference in references)
