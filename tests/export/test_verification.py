from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from keras_fim import cli, export
from keras_fim.export import runner


@pytest.mark.slow
def test_an_exported_model_is_verified_in_a_process_without_keras(exported, capsys):
    assert cli.main(["verify", str(exported.path.parent)]) == 0
    (verdict,) = capsys.readouterr().out.splitlines()
    assert "digits/1: verified (6 signatures, " in verdict
    assert cli.main(["verify", str(exported.path.parent), "--verbose"]) == 0
    table = capsys.readouterr().out
    assert table.strip().endswith(verdict)
    for name in ("serving_default", "logits", "fisher", "trust", "detect", "image_bytes"):
        assert name in table
    assert "MISMATCH" not in table


@pytest.mark.slow
def test_runner_cannot_import_keras(exported):
    """What its process does before it loads the model."""
    program = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("runner", {runner.__file__!r})
runner = importlib.util.module_from_spec(spec)
spec.loader.exec_module(runner)
assert not {{"tensorflow", "keras", "keras_fim"}} & set(sys.modules)
runner._without_keras()
checks = runner.check_model({type(exported.path).__name__}({str(exported.path)!r}))
assert all(check["passed"] for check in checks)
for name in ("keras", "keras_fim", "tf_keras"):
    assert not [module for module in sys.modules if module.startswith(name + ".")]
    try:
        __import__(name)
    except ImportError:
        continue
    raise AssertionError(name)
"""
    subprocess.run([sys.executable, "-c", "from pathlib import *\n" + program], check=True, timeout=600)


@pytest.fixture
def copy(exported, tmp_path):
    return Path(shutil.copytree(exported.path, tmp_path / "m" / "1"))


def tampered(path, **changes):
    file = path / runner.EXTRA / runner.REFERENCES
    with np.load(file) as stored:
        arrays = {name: stored[name] for name in stored.files}
    for name, change in changes.items():
        key = name.replace("__", "/")
        arrays[key] = change(arrays[key])
    np.savez(file, **arrays)
    return {(check["signature"], check["output"]) for check in runner.check_model(path) if not check["passed"]}


@pytest.mark.slow
def test_every_deviation_beyond_the_tolerance_is_found(copy):
    def once(change):
        def changed(values):
            values = values.copy()
            values[3] = change(values[3])
            return values

        return changed

    changes = {
        "serving_default__probabilities": once(lambda p: p + 2e-5),
        "serving_default__classes": once(lambda c: (c + 1) % 10),
        "logits__logits": once(lambda z: z * 1.0002),
        "fisher__lambda_max": once(lambda x: x * 1.0002),
        "fisher__kl_radius": once(lambda x: x * 0.9998),
        "fisher__direction": once(lambda v: v + 0.1 * np.roll(v, 1)),
        "trust__boundary_radius": once(lambda r: r * 1.0002),
        "trust__calibrated_radius": once(lambda r: r * np.nan),
        "trust__confidence": once(lambda p: p * 0.9998),
        "detect__score": once(lambda s: s + 2e-4 * max(1, abs(s))),
        "detect__is_adversarial": once(lambda b: ~b),
        "image_bytes__probabilities": once(lambda p: p - 2e-5),
    }
    assert tampered(copy, **changes) == {tuple(name.split("__")) for name in changes}


@pytest.mark.slow
def test_what_is_within_the_tolerance_or_free_passes(copy):
    changes = {
        "serving_default__probabilities": lambda p: p + 5e-6,
        "fisher__lambda_max": lambda x: x * 1.00005,
        "fisher__direction": lambda v: -v,
    }
    assert tampered(copy, **changes) == set()


def test_a_mismatch_ends_the_command_with_an_error(copy, capsys, monkeypatch):
    check = export.Check("fisher", "lambda_max", "16", 0.5, 1e-4, passed=False)
    monkeypatch.setattr("keras_fim.export.verify", lambda path, **options: export.Verification(str(path), (check,)))
    with pytest.raises(SystemExit) as exit:
        cli.main(["verify", str(copy)])
    assert exit.value.code == 1 and "MISMATCH" in capsys.readouterr().out


@pytest.mark.slow
def test_a_model_that_does_not_load_is_not_verified(copy):
    (copy / "variables" / "variables.index").write_bytes(b"nonsense")
    report = export.verify(copy)
    assert not report.passed and "NOT as the trained model" in str(report)
    assert json.dumps(report.as_dict())


def test_a_damaged_graph_is_named(copy):
    (copy / "saved_model.pb").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"saved_model\.pb should be a SavedModel of TensorFlow"):
        export.verify(copy)


def test_something_else_is_refused(tmp_path, capsys):
    assert cli.main(["verify", str(tmp_path)]) == 2
    assert "`path` should be a version that export.saved_model wrote" in capsys.readouterr().err
