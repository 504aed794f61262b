"""The line about what is left of a long measurement."""

from __future__ import annotations

import io
import re
import sys

import keras
import numpy as np
import pytest

from keras_fim import evaluation
from keras_fim.evaluation import plans
from keras_fim.evaluation.plans import Progress, say


class Terminal(io.StringIO):
    def __init__(self, *, tty):
        super().__init__()
        self.tty = tty

    def isatty(self):
        return self.tty


def test_the_line_replaces_the_last_one_and_is_not_wrapped(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setattr(sys, "stderr", Terminal(tty=True))
    for line in ("a" * 50, "short", ""):
        say(line)
    assert sys.stderr.getvalue() == f"\r\x1b[K{'a' * 19}\r\x1b[Kshort\r\x1b[K"


def test_a_pipe_stays_empty(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal(tty=False))
    say("nobody reads this")
    assert sys.stderr.getvalue() == ""


def test_time_left_follows_from_what_was_measured(monkeypatch):
    """A slow attack and one with a tenth of its gradients, on 4 chunks of 100 images, the first of which was kept."""
    clock, lines = [0.0], []
    monkeypatch.setattr(plans.time, "perf_counter", lambda: clock[0])
    work = Progress(lines.append, [("slow", 10.0), ("fast", 1.0)], 400)
    for chunk in range(4):
        for index, seconds in enumerate((100.0, 10.0)):
            work.begin(index)
            clock[0] += 0 if chunk == 0 else seconds
            work.end(index, 100, kept=chunk == 0)
    assert lines == [
        "slow: at most 400 images left",
        "fast: at most 400 images left",
        "slow: at most 300 images left",
        "fast: at most 300 images left, about 4 min left",  # 200 s of the slow one, 30 s of the fast one
        "slow: at most 200 images left, about 4 min left",
        "fast: at most 200 images left, about 2 min left",
        "slow: at most 100 images left, about 2 min left",
        "fast: at most 100 images left, about 10 s left",
    ]


def test_of_unknown_length_it_counts_what_is_done():
    lines = []
    work = Progress(lines.append, [("pgd", 10.0)], None)
    work.end(0, 1256, kept=False)
    work.begin(0)
    assert lines == ["pgd: 1,256 images done"]


@pytest.mark.parametrize("tty", [True, False])
def test_an_evaluation_shows_one_line_on_a_terminal_and_clears_it(monkeypatch, tty):
    monkeypatch.setattr(sys, "stderr", Terminal(tty=tty))
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    data = np.random.default_rng(0).uniform(size=(300, 3)), np.arange(300) % 2
    evaluation.evaluate(model, data, attacks=["fgsm"], epsilons=[0.1], max_samples=300, bounds=(0, 1), spectrum=False)
    shown = sys.stderr.getvalue()
    assert "\n" not in shown and bool(shown) == tty
    if tty:
        assert "fgsm: at most 300 images left" in shown
        assert re.search(r"fgsm: at most 44 images left, about \d+ (s|min) left", shown)
        assert shown.endswith("\r\x1b[K")


def test_lines_hold_the_figures_of_all_chunks_so_far():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    images, lines = np.random.default_rng(0).uniform(size=(600, 3)).astype("float32"), []
    labels = model.predict(images, verbose=0).argmax(axis=-1)
    options = {"attacks": ["fgsm"], "epsilons": [0.05, 0.1], "bounds": (0, 1), "spectrum": False}
    result = evaluation.evaluate(model, (images, labels), max_samples=None, progress=lines.append, **options)
    ended = [re.sub(r" \(.* s\)", "", line) for line in lines if " images (" in line]
    assert [line.partition(" images: ")[0] for line in ended] == ["256", "512", "600"]
    assert ended[-1] == f"600 images: {'; '.join(row.line() for row in result.rows)}"
    half = evaluation.evaluate(model, (images[:512], labels[:512]), max_samples=None, progress=None, **options)
    assert ended[1] == f"512 images: {'; '.join(row.line() for row in half.rows)}"
