"""Kills of train, evaluate, export and compare, at random moments and at renames; and several of them on one folder."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.util import event_pb2

from keras_fim import records
from keras_fim.export import saved
from keras_fim.training import watching
from keras_fim.training.trained import record_of
from tests.campaign.victims import VICTIMS

RENAMES = {"train": 17, "evaluate": 4, "export": 1, "compare": 30}  # about as many as a whole run has


def start(name: str, folder: Path, *options: str, **pipes: Any) -> subprocess.Popen[str]:
    """A victim that has printed ``ready``."""
    command = [sys.executable, "-m", "tests.campaign.victims", name, str(folder), *options]
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=quiet, **pipes)
    return process


def finished(process: subprocess.Popen[str]) -> tuple[dict[str, Any] | None, str]:
    """What a victim found, None if it did not come to an end, and the last line of its errors."""
    output, errors = process.communicate()
    lines = output.splitlines()
    error = (errors.strip().splitlines() or [""])[-1]
    return (json.loads(lines[-1]) if process.returncode == 0 else None), error


def kills(name: str, trials: int, seed: int, folder: Path) -> tuple[list[str], str]:
    """Kill and continue runs of one kind until each has ended; every second kill is at a rename.

    Returns:
        What was lost, an entry for each trial, empty if nothing was; and a remark.
    """
    generator, lost, number = random.Random(seed), list[str](), 0
    begin = time.monotonic()
    expected, error = finished(start(name, folder / "whole"))
    length = time.monotonic() - begin
    assert expected is not None, error
    while len(lost) < trials:
        number += 1
        run = folder / f"run{number}"
        for _ in range(generator.randint(1, 3)):
            at_rename = len(lost) % 2 == 0
            number_of_rename = generator.randrange(2 * RENAMES[name])
            process = start(name, run, *(["--kill", str(number_of_rename)] if at_rename else []))
            if not at_rename:
                process.stdout.readline()  # type: ignore[union-attr]
                time.sleep(generator.uniform(0, length))
                process.kill()
            process.communicate()
            lost.append(damage(name, run))
        outcome, error = finished(start(name, run))
        if outcome != expected:
            lost[-1] = lost[-1] or f"continued, it ends otherwise: {error or outcome}"
        lost[-1] = lost[-1] or repeated(run) or leftovers(run)
    return lost, f"{number} runs, killed up to three times each"


class Killed(BaseException):
    """What a kill is in one process: nothing catches it, and nothing is tidied up."""


@contextlib.contextmanager
def fatal_rename(number: int) -> Iterator[None]:
    """In it, the process ends before (even) or after (odd) rename ``number // 2``."""
    publish, remove, done = records.publish, records._remove, 0

    def fatal(unfinished: Path, path: Path) -> None:
        nonlocal done
        if 2 * done == number:
            raise Killed
        publish(unfinished, path)
        if 2 * done + 1 == number:
            raise Killed
        done += 1

    records._remove = lambda path: None
    records.publish = saved.publish = fatal
    try:
        yield
    finally:
        records.publish, saved.publish, records._remove = publish, publish, remove


def renames(trials: int, seed: int, folder: Path) -> tuple[list[str], str]:
    """End runs at each of their renames, one after the other in this process, and continue them."""
    lost, names = list[str](), ("train", "evaluate", "export")
    expected = {name: VICTIMS[name](folder / f"whole-{name}") for name in names}
    for index in range(trials):
        name, run = names[index % 3], folder / f"end{index}"
        with contextlib.suppress(Killed), fatal_rename((seed + index // 3) % (2 * RENAMES[name])):
            VICTIMS[name](run)
        lost.append(damage(name, run))
        outcome = json.loads(json.dumps(VICTIMS[name](run)))
        if outcome != json.loads(json.dumps(expected[name])):
            lost[-1] = lost[-1] or f"{name}, continued, ends otherwise: {outcome!r:.200}"
        lost[-1] = lost[-1] or repeated(run)
    return lost, "train, evaluate and export in turns"


def damage(name: str, run: Path) -> str:
    """What is wrong after a kill: a run that cannot be read, a version that is not whole."""
    try:
        if name == "train" and (run / "run.json").is_file():
            record_of(run) if (run / "model.keras").is_file() else json.loads((run / "run.json").read_text())
            if (run / "history.csv").is_file():
                watching.read_history(run)
        for version in (run / "model").glob("*") if name == "export" else ():
            whole = version.name.isdecimal() and (version / "model_card.json").is_file()
            if not whole or not tf.saved_model.load(str(version)).signatures["trust"]:
                return f"{version} is not whole"
    except (ValueError, OSError) as error:
        return f"{error!r:.200}"
    return ""


def repeated(run: Path) -> str:
    """A step of TensorBoard's that was written twice."""
    counts: collections.Counter[tuple[str, str, int]] = collections.Counter()
    for path in run.rglob("events.out.tfevents.*"):
        if path.parent.name in ("train", "validation"):
            for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
                event = event_pb2.Event.FromString(record)
                counts.update((str(path.parent), value.tag, event.step) for value in event.summary.value)
    return "; ".join(f"{key} was written {count} times" for key, count in counts.items() if count > 1)[:200]


def leftovers(run: Path) -> str:
    """Unfinished files that nobody will finish, in folders that the last process wrote to."""
    left = [path for path in run.rglob(".*.tmp.*") if not (path.parent / ".lock").exists()]
    return f"left behind: {left[:3]}" if left else ""


def concurrent(trials: int, seed: int, folder: Path) -> tuple[list[str], str]:
    """Two processes on one folder: train lets one in, evaluate and export let both."""
    lost, names = list[str](), ("train", "evaluate", "export")
    for index in range(trials):
        name, run = names[(seed + index) % len(names)], folder / f"both{index}"
        both = [start(name, run) for _ in range(2)]
        outcomes = [finished(process) for process in both]
        ended = [outcome for outcome, _ in outcomes if outcome is not None]
        errors = [error for outcome, error in outcomes if outcome is None]
        refused = all("is being written by process" in error for error in errors)
        agreed = all(outcome == ended[0] for outcome in ended) and damage(name, run) == ""
        allowed = len(ended) == 2 or (name == "train" and len(ended) == 1 and refused)
        lost.append("" if ended and agreed and allowed else f"{name}: {outcomes!r:.300}")
    return lost, ""
