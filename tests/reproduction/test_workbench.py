"""Stored models and measured cells."""

from __future__ import annotations

import numpy as np
import pytest

from keras_fim import attacks
from keras_fim.records import read_json, write_json
from keras_fim.training import load_model, recipe
from keras_fim.training.run import build_model
from reproduction.storing import source, store
from reproduction.workbench import Workbench, same_attack

CONFIG = {"model_options": {"filters": (2, 4)}}


def test_stored_model_of_another_recipe_is_refused(tmp_path):
    config = recipe("mnist5k", **CONFIG, defense="none")
    store(build_model(config), "mine", {"config": config.as_dict()}, tmp_path / "models")
    bench = Workbench(tmp_path, models=tmp_path / "models", say=lambda line: None)
    other = recipe("mnist5k", **CONFIG, defense="none", seed=1)
    with pytest.raises(ValueError, match=r"mine was trained otherwise.*'seed': \(0, 1\).*Delete"):
        bench.model("mine", other)
    model = bench.model("mine", config)
    calls = []
    for twin in (model, model, build_model(config, fresh=True)):  # another twin is another cell
        bench.cell("cell", model, {"twin": twin}, lambda: calls.append(1) or len(calls))
    assert len(calls) == 2


def test_cell_of_an_attack_that_has_got_another_option_is_found_again(tmp_path):
    bench = Workbench(tmp_path, say=lambda line: None)
    attack = attacks.PGD(norm=2, steps=20)
    measured = [bench.cell("cell", None, {"attack": repr(attack), "images": 5}, lambda: 1)]
    cell = read_json(tmp_path / "cells" / "cell.json")
    cell["settings"]["attack"] = cell["settings"]["attack"].replace("PGD(", "PGD(removed=MIM(norm=2.0), ")
    write_json(tmp_path / "cells" / "cell.json", cell)
    for settings in ({"images": 5}, {"images": 6}):
        measured.append(bench.cell("cell", None, {"attack": repr(attack), **settings}, lambda: 2))
    assert measured == [1, 1, 2]
    assert not same_attack(repr(attack), repr(attacks.PGD(norm=2, steps=21)))
    assert not same_attack(repr(attack), repr(attacks.MIM(norm=2, steps=20)))


def test_stored_weights_come_back_as_float16(tmp_path):
    config = recipe("mnist5k", **CONFIG)
    model = build_model(config)
    loaded = load_model(store(model, "small", {"config": config.as_dict()}, tmp_path))
    for actual, expected in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(actual, expected.astype(np.float16).astype(np.float32))
    assert source("small", tmp_path) == tmp_path / "small" and source("mnist-plain", tmp_path) == "mnist-plain"
    assert source("nothing", tmp_path) is None
    model.layers[-2].bias.assign(np.full(10, 1e6))
    with pytest.raises(ValueError, match="not finite in float16"):
        store(model, "large", {}, tmp_path)
