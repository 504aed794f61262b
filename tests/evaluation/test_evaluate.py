from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_fim import attacks, evaluation
from keras_fim.attacks import catalog
from keras_fim.evaluation import evaluate
from tests.tables import read_csv

IMAGES = np.array([[0.55], [0.65], [0.75], [0.95], [0.2], [0.9]], "float32")
LABELS = np.array([0, 0, 0, 0, 1, 1])  # the last one is wrong before the attack


def boundary(scale=4.0):
    """Two classes that part at 0.5 of the only pixel, as a model that Keras knows."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    model.set_weights([np.array([[scale, -scale]]), np.array([-scale / 2, scale / 2])])
    return model


@pytest.mark.slow
def test_figures_of_a_model_with_known_distances():
    found = evaluate(
        boundary(),
        (IMAGES, LABELS),
        attacks=["fgsm", "bim", "minimal_fgm"],
        epsilons={"linf": [0.1, 0.26], "l2": 0.2},
        name="boundary",
    )
    assert (found.accuracy.count, found.accuracy.total) == (5, 6)
    counts = {(row.attack, row.epsilon): (row.fooling.count, row.robust.count) for row in found.rows}
    assert counts == {
        ("fgsm", 0.1): (1, 4),
        ("fgsm", 0.26): (3, 2),
        ("bim_linf", 0.1): (1, 4),
        ("bim_linf", 0.26): (3, 2),
        ("minimal_fgm", 0.2): (2, 3),
    }
    assert all(row.fooling.total == 5 and row.robust.total == 6 for row in found.rows)
    (distances,) = found.distances
    np.testing.assert_allclose(distances.distances, [0.05, 0.15, 0.25, 0.45, 0.3, 0], rtol=0.02)
    assert distances.median == pytest.approx(0.25, rel=0.02)
    assert found.row("fgsm", 0.1).fooling.value == 0.2
    with pytest.raises(ValueError, match="of fgsm at 0.1, .* Received: fgsm at 0.5"):
        found.row("fgsm", 0.5)
    printed = str(found)
    for text in ("boundary", "83.3 %", "fgsm", "Within ε", "Nearest adversarials", "λ_max(G_x)"):
        assert text in printed


def test_the_strongest_attack_of_each_budget_is_marked():
    """BIM with a single short step is weaker than FGSM."""
    weak = attacks.BIM(steps=1, step_size=0.3)
    found = evaluate(boundary(), (IMAGES, LABELS), attacks=["fgsm", weak], epsilons=[0.01, 0.2], spectrum=False)
    marks = [(row.attack, row.epsilon, row.strongest) for row in found.rows]
    assert marks == [
        ("fgsm", 0.01, True),
        ("fgsm", 0.2, True),
        ("bim_linf", 0.01, True),  # neither fools anyone: no attack fools more
        ("bim_linf", 0.2, False),
    ]


def test_data_sets_of_batches_and_limits():
    dataset = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(4)
    whole = evaluate(boundary(), (IMAGES, LABELS), attacks=["fgsm"], epsilons=[0.1], spectrum=False)
    batches = evaluate(boundary(), dataset, attacks=["fgsm"], epsilons=[0.1], spectrum=False)
    assert batches.rows[0].fooling == whole.rows[0].fooling and batches.digests == whole.digests
    first = evaluate(boundary(), dataset, attacks=["fgsm"], epsilons=[0.1], spectrum=False, limit=3)
    assert first.accuracy.total == 3


def test_results_are_saved_and_loaded(tmp_path):
    found = evaluate(boundary(), (IMAGES, LABELS), attacks=["fgsm", "deepfool"], epsilons={"fgsm": [0.1]})
    assert evaluation.Evaluation.load(found.save(tmp_path / "evaluation.json")) == found
    json.loads((tmp_path / "evaluation.json").read_text(), parse_constant=pytest.fail)  # no NaN or Infinity
    rows = read_csv(found.save(tmp_path / "evaluation.csv"))
    assert {row["table"] for row in rows} == set(dict(found._shown()))
    fgsm = next(row for row in rows if row.get("attack") == "fgsm")
    assert fgsm["fooling ratio"] == 0.2 and fgsm["fooling ratio count"] == 1 and fgsm["strongest"] is True
    assert "### Within ε\n\n| attack" in found.save(tmp_path / "evaluation.md").read_text(encoding="utf-8")


class Killed(BaseException):
    """Nobody catches this."""


def count_sweeps(monkeypatch, kill_at=None):
    """Counts the cells that PGD measures; the one with the number ``kill_at`` ends the process, so to speak."""
    seen, original = [], attacks.PGD.sweep

    def sweep(self, model, images, labels, epsilons):
        if len(seen) == kill_at:
            raise Killed
        seen.extend(epsilons)
        return original(self, model, images, labels, epsilons)

    monkeypatch.setattr(attacks.PGD, "sweep", sweep)
    return seen


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_at_the_first_missing_cell(tmp_path, monkeypatch):
    options = {"attacks": [attacks.PGD(steps=2)], "epsilons": [0.1, 0.2, 0.3], "folder": tmp_path, "name": "m"}
    with monkeypatch.context() as patch:
        seen = count_sweeps(patch, kill_at=2)
        with pytest.raises(Killed):
            evaluate(boundary(), (IMAGES, LABELS), **options)
        assert seen == [0.1, 0.2]
    seen, lines = count_sweeps(monkeypatch), []
    found = evaluate(boundary(), (IMAGES, LABELS), **options, on_cell=lines.append)
    assert seen == [0.3]
    assert [line.endswith("(kept)") for line in lines] == [True, True, False, False]
    fresh = evaluate(boundary(), (IMAGES, LABELS), attacks=options["attacks"], epsilons=options["epsilons"])
    assert [row.fooling for row in fresh.rows] == [row.fooling for row in found.rows]
    seen.clear()
    assert evaluate(boundary(), (IMAGES, LABELS), **options) == found and not seen


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"model": 5.0},
        {"images": IMAGES + 0.01},
        {"labels": np.array([0, 0, 0, 0, 1, 0])},
        {"attack": attacks.PGD(steps=3)},
        {"epsilon": 0.2},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_has_changed_is_measured_again(change, tmp_path, monkeypatch):
    seen = count_sweeps(monkeypatch)

    def run(model=4.0, images=IMAGES, labels=LABELS, attack=None, epsilon=0.1):
        chosen = [attack or attacks.PGD(steps=2)]
        evaluate(boundary(model), (images, labels), attacks=chosen, epsilons=[epsilon], folder=tmp_path, spectrum=False)

    run()
    run()
    assert len(seen) == 1
    run(**change)
    assert len(seen) == 2


def test_a_damaged_cell_is_measured_again(tmp_path, monkeypatch):
    seen = count_sweeps(monkeypatch)
    for _ in range(2):
        for path in tmp_path.iterdir():
            path.write_text("{")
        evaluate(
            boundary(),
            (IMAGES, LABELS),
            attacks=[attacks.PGD(steps=2)],
            epsilons=[0.1],
            folder=tmp_path,
            spectrum=False,
        )
    assert len(seen) == 2


def test_layers_that_differ_are_other_models_whatever_the_weights():
    images = np.random.default_rng(0).uniform(size=(8, 3)).astype("float32")
    from keras_fim.evaluation.cells import model_digest
    from keras_fim.logits import logits_function

    digests = []
    for activation in ("relu", "tanh", "relu"):
        layers = [keras.Input((3,)), keras.layers.Dense(4, activation=activation), keras.layers.Dense(2)]
        model = keras.Sequential(layers)
        model.set_weights([np.ones((3, 4)), np.zeros(4), np.ones((4, 2)), np.array([0.0, 1.0])])
        digests.append(model_digest(logits_function(model), images))
    assert digests[0] == digests[2] != digests[1]


def test_rounding_makes_no_other_model_but_a_scale_does():
    """Logits of another processor differ in their last bits; one in a thousand lies within those of a level's edge."""
    from keras_fim.evaluation.cells import _coarse

    rng, same = np.random.default_rng(0), 0
    for _ in range(200):
        logits = rng.normal(size=(8, 10)) * 10
        levels = [_coarse(each) for each in (logits, logits * (1 + 1e-6 * rng.normal(size=logits.shape)), 2 * logits)]
        same += all(np.array_equal(a, b) for a, b in zip(levels[0], levels[1], strict=True))
        assert levels[0][1] != levels[2][1]
    assert same > 190


@pytest.mark.slow
def test_strong_says_what_each_stage_took_and_knows_its_twin(tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.uniform(size=(8, 3, 3, 1)).astype("float32"), rng.integers(2, size=8)
    model, twin, other = (
        keras.Sequential([keras.Input((3, 3, 1)), keras.layers.Flatten(), keras.layers.Dense(2)]) for _ in range(3)
    )
    for each in (model, twin, other):
        each.set_weights([rng.normal(size=(9, 2)), rng.normal(size=2)])
    labels = model.predict(images, verbose=0).argmax(axis=-1)

    def run(twin):
        strong = attacks.Strong(quick=True, twin=twin)
        options = {"attacks": [strong], "epsilons": [0.3], "folder": tmp_path, "spectrum": False}
        return evaluate(model, (images, labels), **options)

    (row,) = run(twin).rows
    assert sum(row.stages.values()) == pytest.approx(row.fooling.value) and set(row.stages) == set(
        attacks.Strong.stages
    )
    assert "Fooled by each stage" in run(twin).tables() and len(list(tmp_path.iterdir())) == 1
    run(other)
    assert len(list(tmp_path.iterdir())) == 2


def test_names_of_the_catalog():
    for name in catalog.attack_names():
        attack = attacks.attack_by_name(name)
        assert attack.name == catalog.full_name(name)
        assert attacks.attack_by_name(attack) is attack
    minimal = attacks.attack_by_name("minimal_pgd", bounds=(0, 255), steps=3)
    assert minimal.name == "minimal_pgd_linf" and minimal.bounds == (0, 255) and minimal.attack.steps == 3


def test_budgets():
    ossa, fgsm, pgd = (attacks.attack_by_name(name) for name in ("ossa", "fgsm", "pgd"))
    resolve, default = attacks.resolve_epsilons, attacks.DEFAULT_EPSILONS
    assert resolve([ossa, fgsm]) == [default[2], default[np.inf]]
    assert resolve([fgsm, pgd], [0.1, 0.2]) == [(0.1, 0.2)] * 2
    assert resolve([ossa, fgsm, pgd], {np.inf: 0.1, "pgd": [0.2, 0.3]}) == [default[2], (0.1,), (0.2, 0.3)]
    assert resolve([ossa], {2: [1], "linf": [0.1]}) == [(1.0,)]
    assert resolve([fgsm], np.array([0.1])) == [(0.1,)]
    wide = attacks.attack_by_name("fgsm", bounds=(0, 255))
    assert resolve([wide]) == [tuple(255 * e for e in default[np.inf])]


CASES = {
    "no sample": (dict(dataset=(IMAGES[:0], LABELS[:0])), "`dataset` should not be empty"),
    "empty data set": (
        dict(dataset=tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(2).take(0)),
        "`dataset` should not be empty",
    ),
    "label out of range": (dict(dataset=(IMAGES, LABELS + 1)), "`labels` should be from 0 to 1. Received: 2"),
    "fewer labels": (dict(dataset=(IMAGES, LABELS[:2])), "as many labels as images. Received: 6 images and 2 labels"),
    "NaN": (dict(dataset=(IMAGES * np.nan, LABELS)), "`images` should be finite"),
    "out of bounds": (dict(dataset=(IMAGES * 255, LABELS)), "within the bounds"),
    "unknown attack": (dict(attacks=["fsgm"]), "one of ossa, fgsm, .*minimal_ and one with a budget. .*'fsgm'"),
    "search of a search": (dict(attacks=["minimal_deepfool"]), "should have a budget after minimal_"),
    "no attack": (dict(attacks=[]), "different attacks, at least one"),
    "the same attack twice": (dict(attacks=["pgd", "pgd_linf"]), "different attacks, at least one"),
    "one list for two norms": (dict(attacks=["ossa", "fgsm"], epsilons=[1]), r"of different norms \(l2, linf\)"),
    "budget of no attack": (dict(epsilons={"ossa": 1}), r"names of the attacks \(fgsm\) for keys. Received: 'ossa'"),
    "unknown norm": (dict(epsilons={"l3": 1}), "should have norms .* Received: 'l3'"),
    "no budget": (dict(epsilons=[]), "at least one budget"),
    "NaN budget": (dict(epsilons=[np.nan]), "Received: epsilon=nan"),
    "negative budget": (dict(epsilons={"linf": -1}), "Received: epsilon=-1"),
    "limit 0": (dict(limit=0), "`limit` should be a positive integer"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input(case):
    options, message = CASES[case]
    dataset = options.pop("dataset", (IMAGES, LABELS))
    with pytest.raises(ValueError, match=message):
        evaluate(boundary(), dataset, **{"attacks": ["fgsm"], **options})
