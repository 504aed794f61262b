"""From stored weights to a verified export, on the command line; TensorFlow's own tool on the result."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import keras_fim
from keras_fim import cli
from keras_fim.detection import FisherDetector
from reproduction.storing import store

pytestmark = pytest.mark.slow


@pytest.fixture
def stored(tmp_path, digit_model):
    """The folder of stored weights of a small model."""
    config = {"data": "mnist5k", "mu": 0.02, "label_smoothing": 0.0}
    config |= {"model": "convnet", "model_options": {"filters": [8, 16]}}
    record = {"config": config, "results": {"stored": {"test_accuracy": 0.9}}}
    return store(digit_model, "tiny", record, tmp_path / "weights")


def test_export_command(stored, tmp_path, capsys):
    detector = tmp_path / "detector.json"
    detector.write_text(json.dumps(FisherDetector(threshold=0.5, false_positive_rate=0.1).as_dict()))
    command = ["export", str(stored), "--out", str(tmp_path / "m"), "--max-samples", "30", "--direction", "--verbose"]
    assert cli.main([*command, "--detector", str(detector)]) == 0
    table = capsys.readouterr().out
    assert "m/1: verified (" in table.splitlines()[-1] and "direction" in table and "is_adversarial" in table
    card = json.loads((tmp_path / "m" / "1" / "model_card.json").read_text())
    assert card["report"]["mu"] == 0.02 and card["report"]["accuracy"] == 0.9 and card["report"]["data"] == "mnist5k"
    robustness = card["report"]["robustness"]
    assert robustness["num_images"] == 30
    assert [curve["rows"][0]["attack"] for curve in robustness["curves"]] == ["fgsm", "pgd_linf", "ossa"]
    assert card["detector"]["threshold"] == 0.5
    assert (tmp_path / "m" / "1" / "assets" / "labels.txt").read_text().splitlines()[7]


def test_a_calibrated_radius_is_exported_and_verified(stored, tmp_path, capsys):
    command = ["export", str(stored), "--out", str(tmp_path / "m"), "--calibrated", "--verbose", "--max-samples"]
    assert cli.main([*command, "200"]) == 0
    assert "calibrated_radius" in capsys.readouterr().out
    calibration = json.loads((tmp_path / "m" / "1" / "model_card.json").read_text())["calibration"]
    assert calibration["share"] == 0.9 and calibration["norm"] == "l2" and 0.1 < calibration["factor"] < 10
    assert calibration["num_samples"] + calibration["num_without_radius"] == 200
    for count, message in (("30", "at least 200 with a boundary radius. Received: 30"), ("0", "Received: no images")):
        assert cli.main([*command, count]) == 2
        assert message in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["1"]


def test_named_weights_are_exported_without_their_dataset(tmp_path, capsys):
    assert cli.main(["export", "mnist-plain", "--out", str(tmp_path / "m"), "--data-dir", str(tmp_path / "no")]) == 0
    printed = capsys.readouterr()
    assert printed.err.startswith("warning: The dataset 'mnist' is not on this machine")
    assert "m/1: verified (" in printed.out
    assert "robustness" not in json.loads((tmp_path / "m" / "1" / "model_card.json").read_text())["report"]


def test_training_exports_and_verifies(tmp_path, capsys):
    command = ["train", "--data", "mnist5k", "--quick", "--limit", "300", "--test-limit", "60"]
    command += ["--out", str(tmp_path / "run"), "--export", str(tmp_path / "m")]
    assert cli.main(command) == 0
    assert "m/1: verified" in capsys.readouterr().out


@pytest.mark.nightly
def test_detect_command(stored, tmp_path, capsys):
    pytest.importorskip("sklearn")
    command = ["detect", str(stored), "--max-samples", "120", "--max-adaptive", "10"]
    command += ["--out", str(tmp_path / "detection")]
    assert cli.main(command) == 0
    table = capsys.readouterr().out
    for name in ("fgsm", "pgd_linf", "ossa", "deepfool_l2", "carlini_wagner_l2", "adaptive_pgd_linf on lambda"):
        assert name in table
    result = json.loads((tmp_path / "detection" / "tiny.json").read_text())
    rows = [row for row in result["rows"] if row["attack"] == "deepfool_l2" and row["epsilon"] is None]
    assert rows[0]["detectors"]["lambda"]["auc"] > 0.85 and result["versions"]["tensorflow"]
    FisherDetector(**json.loads((tmp_path / "detection" / "tiny.lambda.json").read_text()))


def saved_model_cli(*arguments):
    command = Path(sys.executable).with_name("saved_model_cli")
    assert command.exists() or shutil.which("saved_model_cli")
    return subprocess.run([str(command), *arguments], capture_output=True, text=True, timeout=300)


@pytest.mark.nightly
def test_tensorflows_own_command_shows_and_runs_it(exported, tmp_path):
    shown = saved_model_cli("show", "--dir", str(exported.path), "--all")
    assert shown.returncode == 0, shown.stderr
    for name in ("serving_default", "logits", "fisher", "detect", "image_bytes", "lambda_max", "is_adversarial"):
        assert name in shown.stdout
    np.save(tmp_path / "images.npy", exported.images[:3])
    options = ["--dir", str(exported.path), "--tag_set", "serve", "--signature_def", "fisher"]
    options += ["--inputs", f"images={tmp_path / 'images.npy'}", "--outdir", str(tmp_path)]
    done = saved_model_cli("run", *options)
    assert done.returncode == 0, done.stderr
    spectrum = keras_fim.fisher_spectrum(exported.model, exported.images[:3], max_steps=1)
    np.testing.assert_allclose(np.load(tmp_path / "lambda_max.npy"), spectrum.eigenvalues[:, 0], rtol=1e-4)


def test_only_known_weights_are_exported(tmp_path, capsys):
    assert cli.main(["export", "nobody", "--out", str(tmp_path / "m")]) == 2
    assert "The model should be a .keras file, a run folder" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()
