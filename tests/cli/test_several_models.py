"""``keras-fim evaluate`` on several models at once."""

import json

import keras
import numpy as np
import pytest

from keras_fim import cli
from keras_fim.training import trained


@pytest.fixture(scope="module")
def models(tmp_path_factory, digits):
    """Nearest-center classifiers of the digits, and one that is blind to the lower half of an image."""
    images, labels = digits[0].reshape(len(digits[0]), -1), digits[1]
    centers = np.stack([images[labels == digit].mean(axis=0) for digit in range(10)])
    folder = tmp_path_factory.mktemp("models")
    for name, shown in (("whole", 784), ("upper", 392)):
        part = np.where(np.arange(784) < shown, centers, 0)
        model = keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])
        model.set_weights([2 * part.T, -(part**2).sum(axis=-1)])
        model.save(folder / f"{name}.keras")
    return folder


def test_models_are_put_side_by_side_and_judged_one_by_one(models, tmp_path, capsys):
    options = ["--data", "mnist5k", "--max-samples", "30", "--no-spectrum", "--attacks", "fgsm", "--epsilons", "0.05"]
    repeated = ["--model", str(models / "whole.keras"), "--model", str(models / "upper.keras")]
    command = ["evaluate", *options, *repeated, "--out", str(tmp_path)]
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert printed.index("whole") < printed.index("upper") < printed.index("on the front")
    assert f"report: {tmp_path / 'report.html'}" in printed.splitlines()[-1]
    page = (tmp_path / "report.html").read_text()
    assert "What robustness costs in accuracy" in page
    folders = [tmp_path / f"{name}-mnist5k" for name in ("whole", "upper")]
    results = [json.loads((folder / "evaluation.json").read_text()) for folder in folders]
    robust = [result["rows"][0]["robust"]["value"] for result in results]
    assert robust[1] < robust[0]  # so one threshold is reached by one of them only
    middle = str(sum(robust) / 2)
    with pytest.raises(SystemExit, match="3"):
        cli.main([*command, "--fail-under", middle, "--json"])
    records = json.loads(capsys.readouterr().out)
    assert [record["report"] for record in records] == [str(folder / "report.html") for folder in folders]
    assert cli.main([*command[:-2], "--out", str(tmp_path / "one"), "--model", str(models / "whole.keras")]) == 2
    assert "`--model` should be of different names" in capsys.readouterr().err


def test_a_model_is_called_by_its_file_or_its_run(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    names = {"model.keras": "model", "./model.keras": "model", "../model.keras": tmp_path.name, "b.keras": "b"}
    for source, name in {
        **names,
        "runs/a/model.keras": "a",
        "runs/a": "a",
        ".": "here",
        "mnist-plain": "mnist-plain",
    }.items():
        assert trained.name_of(source) == name
