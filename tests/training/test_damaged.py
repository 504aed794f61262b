"""Damaged files of a run end in one sentence that names the file, not in a traceback or a wrong result."""

from __future__ import annotations

import json
import shutil

import pytest

from keras_fim import cli
from keras_fim.training import load_model, recipe, train
from keras_fim.training.trained import record_of

SMALL = {"limit": 100, "test_limit": 50, "model_options": {"filters": (2, 4)}, "augment": False, "mu": 0.0}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return train(recipe("mnist5k", epochs=2, **SMALL), tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def run(finished, tmp_path):
    """A copy that has not written its results yet."""
    shutil.copytree(finished, tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps({**record, "results": None}))
    return tmp_path / "run"


@pytest.mark.parametrize("text", ["[]", "null", '{"config": null}', '{"config": {}}', "{", ""])
def test_records(run, text):
    (run / "run.json").write_text(text)
    for use in (record_of, lambda folder: train(recipe("mnist5k", epochs=2, **SMALL), folder, resume=True)):
        with pytest.raises(ValueError, match=r"run\.json should hold the record of a run.*restore the file"):
            use(run)


@pytest.mark.parametrize(
    "text", ["", "epoch,val_accuracy\n1,1\n", "epoch,loss\n1,1\n2,1\n", "epoch,val_accuracy\n1,x\n"]
)
def test_histories(run, text):
    (run / "history.csv").write_text(text)
    with pytest.raises(ValueError, match=r"history\.csv should h"):
        train(recipe("mnist5k", epochs=3, **SMALL), _with_epochs(run, 3), resume=True)


@pytest.mark.parametrize("damage", [lambda text: text[:-4], lambda text: text.replace("seconds", "secunds")])
def test_histories_without_a_column_that_the_record_needs(run, damage):
    path = run / "history.csv"
    path.write_text(damage(path.read_text()))
    with pytest.raises(ValueError, match=r"history\.csv should h"):
        train(recipe("mnist5k", epochs=3, **SMALL), _with_epochs(run, 3), resume=True)


def test_checkpoints(run):
    _with_epochs(run, 3)
    (run / "checkpoints" / "epoch-notes.weights.h5").write_text("a stray file")
    path = run / "checkpoints" / "epoch-0002.weights.h5"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"epoch-0002\.weights\.h5 should hold the weights of this run.*delete it"):
        train(recipe("mnist5k", epochs=3, **SMALL), run, resume=True)


def _with_epochs(run, epochs):
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "config": recipe("mnist5k", epochs=epochs, **SMALL).as_dict()}))
    return run


def test_models_and_detectors(run, tmp_path, capsys):
    whole = (run / "model.keras").read_bytes()
    for content in (whole[: len(whole) // 2], b"no model"):
        (tmp_path / "bad.keras").write_bytes(content)
        with pytest.raises(ValueError, match=r"bad\.keras should be a model that Keras .* can load"):
            load_model(tmp_path / "bad.keras")
    for text in ("{}", "[]", "{"):
        (tmp_path / "detector.json").write_text(text)
        arguments = ["--out", str(tmp_path / "served"), "--detector", str(tmp_path / "detector.json")]
        assert cli.main(["export", "mnist-plain", *arguments]) == 2
        assert (
            f"`--detector` {tmp_path / 'detector.json'} should be a file that keras-fim detect wrote"
            in capsys.readouterr().err
        )
    assert not (tmp_path / "served").exists()
