from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_fim import cli, defenses, losses
from keras_fim.data import info
from keras_fim.training import TrainingConfig, load_model, recipe, run, train, watching
from keras_fim.training.defending import NAMES, default_options, defended, overfitting_watch

IMAGES = np.random.default_rng(0).uniform(size=(12, 5)).astype("float32")
SMALL = {"limit": 300, "test_limit": 100, "epochs": 2, "model_options": {"filters": (2, 4)}, "augment": False}


def classifier():
    return keras.Sequential([keras.Input((5,)), keras.layers.Dense(3, activation="softmax")])


@pytest.mark.slow
@pytest.mark.parametrize("name", [*NAMES, "spectral+n-fgm", "pgd+fisher-trace"])
def test_each_trains_a_step(name):
    config = recipe("mnist", defense=name, seed=1)
    model = defended(config, classifier())
    run.compile_model(model, config, steps_per_epoch=10)
    start = model.get_weights()
    logs = model.train_on_batch(IMAGES, np.arange(12) % 3, return_dict=True)
    assert np.isfinite(logs["loss"])
    plain = name in ("none", "fisher-trace", "fisher-eigenvalue", "label-smoothing")
    assert isinstance(model, defenses.Defense) != plain
    assert any((a != b).any() for a, b in zip(start, model.get_weights(), strict=True))
    if isinstance(model, defenses.Defense):
        assert model.seed == 1


def test_what_a_name_stands_for():
    assert (recipe("mnist").defense, recipe("mnist").mu, recipe("mnist").defense_options) == ("fisher-trace", 0.02, {})
    assert recipe("mnist", defense="none").mu == 0
    trained = recipe("mnist", trained=True)
    assert (trained.defense, trained.mu, trained.defense_options["epsilon"]) == ("n-fgm", 0.0, 2.0)
    assert recipe("mnist", trained=True, mu=0.0).defense == "fisher-trace"  # plain training, as everywhere
    assert recipe("mnist", defense="label-smoothing").label_smoothing == 0.765  # what μ = 0.02 comes to
    spectral = recipe("gtsrb", defense="spectral", defense_options={"step": 0.05})
    assert (spectral.mu, spectral.mu_warmup_epochs, spectral.defense_options["step"]) == (0.02, 3.0, 0.05)
    for data, norm, epsilon in (("mnist", "l2", 2.0), ("mnist", "linf", 0.1), ("cifar10", "linf", 2 / 255)):
        assert default_options("pgd", info(data), {"norm": norm})["epsilon"] == epsilon
    assert default_options("n-fgsm", info("gtsrb"), {})["epsilon"] == 2 / 255
    options = default_options("spectral+n-fgm", info("mnist"), {})
    outer = defended(recipe("mnist", defense="spectral+n-fgm", defense_options=options, mu=0.3), classifier())
    assert isinstance(outer, defenses.SpectralDefense) and outer.mu.numpy() == pytest.approx(0.3)
    assert isinstance(outer.inner, defenses.AdversarialTraining) and outer.inner.epsilon == 2.0
    model = classifier()
    run.compile_model(model, recipe("mnist", defense="fisher-eigenvalue"), steps_per_epoch=5)
    assert isinstance(model.loss, losses.FisherEigenvalueLoss) and model.loss.mu.numpy() == pytest.approx(0.02)


BAD = {
    "unknown": ({"defense": "fgsm"}, "`defense` should be one of none, fisher-trace.* Received: 'fgsm'"),
    "none and another": ({"defense": "none+pgd"}, "`defense` should join at most one"),
    "two with a mu": ({"defense": "spectral+fisher-trace"}, "`defense` should join at most one part with a mu"),
    "two with an epsilon": ({"defense": "pgd+n-fgm"}, "at most one part with a mu and one with an epsilon"),
    "one twice": ({"defense": "pgd+pgd"}, "`defense` should join at most one"),
    "unknown option": (
        {"defense": "spectral", "defense_options": {"epsilon": 1}},
        "`defense_options` of spectral should be some of .*step. Received: epsilon",
    ),
    "option of none": ({"defense": "none", "defense_options": {"step": 1}}, "of none should be empty"),
    "norm": ({"defense": "pgd", "defense_options": {"norm": "l3"}}, "`norm` should be l2 or linf. Received: norm='l3'"),
    "norm in a list": ({"defense": "pgd", "defense_options": {"norm": ["l2"]}}, "`norm` should be a string. Received"),
    "noise in words": (
        {"defense": "n-fgm", "defense_options": {"noise": "two"}},
        "`noise` should be a number. Received: noise='two'",
    ),
    "epsilon in words": ({"defense": "n-fgm", "defense_options": {"epsilon": "big"}}, "`epsilon` should be a number"),
    "beta missing": ({"defense": "trades", "defense_options": {"beta": None}}, "`beta` should be a number"),
    "half a step": ({"defense": "pgd", "defense_options": {"attack_steps": 2.5}}, "`attack_steps` should be an int"),
    "mu without a use": ({"defense": "n-fgm", "mu": 0.1}, "`mu` should be 0 with the defense n-fgm. Received: mu=0.1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_names_and_options(case):
    options, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        recipe("mnist", **options)


def test_command_line(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    seen = []

    def finish(config, folder, **options):
        seen.append(config)
        record = {"results": {"test_accuracy": 0.9, "best_epoch": 1, "epochs": 1, "training_seconds": 1.0}}
        Path(folder).mkdir(parents=True)
        (Path(folder) / "run.json").write_text(json.dumps(record))

    monkeypatch.setattr(run, "train", finish)
    arguments = ["--defense", "spectral+n-fgm", "--epsilon", "2", "--mu", "0.5", "--option", "step=0.2"]
    assert cli.main(["train", "--data", "mnist", *arguments]) == 0
    expected = recipe("mnist", defense="spectral+n-fgm", mu=0.5, defense_options={"epsilon": 2.0, "step": 0.2})
    assert seen == [expected]
    output = capsys.readouterr().out
    assert "spectral+n-fgm, mu = 0.5, step = 0.2" in output and "epsilon = 2.0" in output
    assert str(Path("results/runs/mnist-spectral+n-fgm-mu0.5-eps2-step0.2-seed0")) in output
    for noise, folder in {"1": "mnist-n-fgm-eps2-seed0", "2": "mnist-n-fgm-eps2-noise2-seed0"}.items():
        assert cli.main(["train", "--data", "mnist", "--defense", "n-fgm", "--option", f"noise={noise}"]) == 0
        assert str(Path("results/runs") / folder) in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["train", "--data", "mnist", "--defense", "nothing"])
    assert "there is no defense 'nothing'. The defenses are none" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["train", "--data", "mnist", "--option", "step"])
    assert "should be KEY=VALUE. Received: 'step'" in capsys.readouterr().err


@pytest.mark.slow
def test_interrupted_run_of_a_defense_goes_on_with_its_optimizer(tmp_path, monkeypatch):
    def note(model):
        states.append([variable.numpy() for variable in (*model.variables, *model.optimizer.variables)])

    class Interrupted(watching.RunCheckpoint):
        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, logs)
            note(self.model)
            raise KeyboardInterrupt

    def resume(model, folder, monitor):
        rows = going_on(model, folder, monitor=monitor)
        note(model)
        return rows

    def watch(*arguments):
        watches.extend(overfitting_watch(*arguments))
        return watches[-1:]

    states, watches, going_on = [], [], watching.resume
    monkeypatch.setattr(run.defending, "overfitting_watch", watch)
    config = recipe("mnist5k", **SMALL, defense="spectral+n-fgm", mu=0.3, mu_warmup_epochs=1.0)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(watching, "RunCheckpoint", Interrupted)
        train(config, tmp_path)
    (tmp_path / "best.weights.h5").unlink()  # as if killed before these were kept
    monkeypatch.setattr(watching, "resume", resume)
    record = json.loads((train(config, tmp_path, resume=True) / "run.json").read_text())
    for before, after in zip(*states, strict=True):
        np.testing.assert_array_equal(after, before)
    rows = watching.read_history(tmp_path)
    assert [row["epoch"] for row in rows] == [1, 2] and rows[1]["mu"] == pytest.approx(0.3)
    assert all(row["penalty"] > 0 and row["eigenvalue"] > 0 and row["fooled_iterative"] > 0 for row in rows)
    assert [watch.lowest for watch in watches] == [np.inf, rows[0]["fooled_iterative"]]  # a collapse is still seen
    assert record["results"]["catastrophic_overfitting_in_epochs"] == [r["epoch"] for r in rows if r["overfits"]]
    model = load_model(tmp_path)
    assert type(model).__name__ == "Functional" and model.name == "convnet"
    model.load_weights(tmp_path / "best.weights.h5")  # of the plain classifier, too


def test_run_recorded_before_there_were_defenses_is_readable(tmp_path):
    config = recipe("mnist5k", **{**SMALL, "epochs": 1}, mu=0.0)
    old = {key: value for key, value in config.as_dict().items() if not key.startswith("defense")}
    (tmp_path / "run.json").write_text(json.dumps({"config": old, "versions": {}, "results": {"epochs": 1}}))
    assert train(config, tmp_path, resume=True) == tmp_path
    with pytest.raises(ValueError, match="set up otherwise.*'defense': .'fisher-trace', 'none'"):
        train(TrainingConfig(**{**config.as_dict(), "defense": "none"}), tmp_path, resume=True)


def test_option_that_is_not_valid_leaves_no_run(tmp_path):
    config = recipe("mnist5k", **SMALL, defense="spectral", defense_options={"krylov_steps": 0})
    with pytest.raises(ValueError, match="`krylov_steps` should be a positive integer"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
