from __future__ import annotations

import dataclasses
import functools
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_fim import attacks, evaluation
from keras_fim.attacks import catalog
from tests.tables import read_csv

evaluate = functools.partial(evaluation.evaluate, bounds=(0, 1))
IMAGES = np.array([[0.55], [0.65], [0.75], [0.95], [0.2], [0.9]], "float32")
LABELS = np.array([0, 0, 0, 0, 1, 1])  # the last one is wrong before the attack


def boundary(scale=4.0):
    """Two classes that part at 0.5 of the only pixel, as a model that Keras knows."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    model.set_weights([np.array([[scale, -scale]]), np.array([-scale / 2, scale / 2])])
    return model


@pytest.mark.slow
def test_figures_of_a_model_with_known_distances():
    report = evaluate(
        boundary(),
        (IMAGES, LABELS),
        attacks=["fgsm", "bim", "minimal_fgm"],
        epsilons={"linf": [0.1, 0.26], "l2": 0.2},
        name="boundary",
    )
    assert (report.accuracy.count, report.accuracy.total) == (5, 6)
    counts = {(row.attack, row.epsilon): (row.fooling.count, row.robust.count) for row in report.rows}
    assert counts == {
        ("fgsm", 0.1): (1, 4),
        ("fgsm", 0.26): (3, 2),
        ("bim_linf", 0.1): (1, 4),
        ("bim_linf", 0.26): (3, 2),
        ("minimal_fgm", 0.2): (2, 3),
    }
    assert all(row.fooling.total == 5 and row.robust.total == 6 for row in report.rows)
    (distances,) = report.distances
    np.testing.assert_allclose(distances.distances, [0.05, 0.15, 0.25, 0.45, 0.3, 0], rtol=0.02)
    assert distances.median == pytest.approx(0.25, rel=0.02)
    assert report.row("fgsm", 0.1).fooling.value == 0.2
    with pytest.raises(ValueError, match="of fgsm at 0.1, .* Received: fgsm at 0.5"):
        report.row("fgsm", 0.5)
    printed = str(report)
    for text in ("boundary", "83.3 %", "fgsm", "Within ε", "Nearest adversarials", "λ_max(G_x)"):
        assert text in printed


def test_the_strongest_attack_of_each_budget_is_marked():
    """BIM with a single short step is weaker than FGSM."""
    weak = attacks.BIM(steps=1, step_size=0.3)
    report = evaluate(boundary(), (IMAGES, LABELS), attacks=["fgsm", weak], epsilons=[0.01, 0.2], spectrum=False)
    marks = [(row.attack, row.epsilon, row.strongest) for row in report.rows]
    assert marks == [
        ("fgsm", 0.01, True),
        ("fgsm", 0.2, True),
        ("bim_linf", 0.01, True),  # neither fools anyone: no attack fools more
        ("bim_linf", 0.2, False),
    ]


def test_data_sets_of_batches_and_their_number():
    dataset = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(4)
    whole = evaluate(boundary(), (IMAGES, LABELS), attacks=["fgsm"], epsilons=[0.1], spectrum=False)
    batches = evaluate(boundary(), dataset, attacks=["fgsm"], epsilons=[0.1], spectrum=False)
    assert batches.rows[0].fooling == whole.rows[0].fooling and batches.digests == whole.digests
    four = evaluate(boundary(), dataset, attacks=["fgsm"], epsilons=[0.1], spectrum=False, max_samples=4)
    assert four.accuracy.total == 4 and four.accuracy.count == 3  # two of each class


@pytest.mark.slow
def test_strong_by_default(monkeypatch):
    """Without options the strong attack and one step; the verdict quotes the attack that fools most."""
    images = np.random.default_rng(0).uniform(size=(12, 4, 4, 1)).astype("float32")
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])
    labels = model.predict(images, verbose=0).argmax(axis=-1)
    lines = []
    report = evaluate(model, (images, labels), progress=lines.append)
    assert [row.attack for row in report.rows] == ["fgsm"] * 4 + ["strong_linf"] * 4
    assert lines[0] == "pixels 0..1, as given"
    assert "at most" in lines[1] and "minutes for 12 images" in lines[1]
    for epsilon in (0.03, 0.1, 0.2, 0.3):
        row = report.row("strong_linf", epsilon)
        assert row.robust.count <= report.row("fgsm", epsilon).robust.count
        assert f"\nlinf {epsilon:g}: robust accuracy {row.robust} under " in str(report)
    names = [[attack.name for attack in evaluation.default_attacks(keys)] for keys in ({"l2": 1}, {2: 1, np.inf: 1})]
    assert names == [["fgm", "strong_l2"], ["fgm", "strong_l2", "fgsm", "strong_linf"]]
    preview = evaluate(model, (images, labels), attacks=[attacks.Strong(quick=True)], epsilons=[0.1])
    assert "a preview" in preview.verdict


def test_bounds_are_given_once():
    """The same images in [0, 255], behind a rescaling, give the same figures under the same attacks."""
    rescaled = keras.Sequential([keras.Input((1,)), keras.layers.Rescaling(1 / 255), *boundary().layers])
    names = ["fgsm", attacks.MinimalDistance(attacks.FGM()), attacks.FMN()]
    budgets = {"linf": [0.1, 0.26], "l2": [0.2]}
    small = evaluate(boundary(), (IMAGES, LABELS), attacks=names, epsilons=budgets)
    wide = {key: [255 * value for value in values] for key, values in budgets.items()}
    large = evaluate(rescaled, (255 * IMAGES, LABELS), attacks=names, epsilons=wide, bounds=(0, 255))
    assert [row.fooling for row in small.rows] == [row.fooling for row in large.rows]
    np.testing.assert_allclose(large.distances[0].median, 255 * small.distances[0].median, rtol=0.02)
    assert all("bounds=(0.0, 255.0)" in row.options for row in large.rows)


def test_results_are_saved_and_loaded(tmp_path):
    report = evaluate(boundary(), (IMAGES, LABELS), attacks=["fgsm", "deepfool"], epsilons={"fgsm": [0.1]})
    assert evaluation.Evaluation.load(report.save(tmp_path / "evaluation.json")) == report
    json.loads((tmp_path / "evaluation.json").read_text(), parse_constant=pytest.fail)  # no NaN or Infinity
    rows = read_csv(report.save(tmp_path / "evaluation.csv"))
    assert {row["table"] for row in rows} == set(dict(report._shown()))
    fgsm = next(row for row in rows if row.get("attack") == "fgsm")
    assert fgsm["fooling ratio"] == 0.2 and fgsm["fooling ratio count"] == 1 and fgsm["strongest"] is True
    assert "### Within ε\n\n| attack" in report.save(tmp_path / "evaluation.md").read_text(encoding="utf-8")


class Killed(BaseException):
    """Nobody catches this."""


def count_sweeps(monkeypatch, kill_at=None):
    """The chunks that PGD attacks, by their first image; number ``kill_at`` ends the process, so to speak."""
    seen, original = [], attacks.PGD.sweep

    def sweep(self, model, images, labels, epsilons, **options):
        if len(seen) == kill_at:
            raise Killed
        seen.append((float(images[0, 0]), tuple(epsilons)))
        return original(self, model, images, labels, epsilons, **options)

    monkeypatch.setattr(attacks.PGD, "sweep", sweep)
    return seen


def many(count=600):
    images = np.random.default_rng(0).uniform(size=(count, 1)).astype("float32")
    return images, (images[:, 0] < 0.5).astype(int)


def without_seconds(report):
    return dataclasses.replace(report, rows=tuple(dataclasses.replace(row, seconds=0.0) for row in report.rows))


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_in_the_middle_of_an_attack(tmp_path, monkeypatch):
    images, labels = many()
    options = {"attacks": ["fgsm", attacks.PGD(steps=2)], "epsilons": [0.1, 0.2], "name": "m", "max_samples": None}

    def batches():
        return ((images[i : i + 50], labels[i : i + 50]) for i in range(0, 600, 50))

    with monkeypatch.context() as patch:
        seen = count_sweeps(patch, kill_at=2)
        with pytest.raises(Killed):
            evaluate(boundary(), batches(), **options, folder=tmp_path)
        assert [first for first, _ in seen] == [images[0, 0], images[256, 0]]
    seen, lines = count_sweeps(monkeypatch), []
    report = evaluate(boundary(), batches(), **options, folder=tmp_path, progress=lines.append)
    assert seen == [(images[512, 0], (0.1, 0.2))]
    assert sum("(kept)" in line for line in lines) == 3 + 2 + 2  # chunks of FGSM, of PGD and of the spectrum
    fresh = evaluate(boundary(), batches(), **options)
    assert str(fresh) == str(report) and without_seconds(fresh) == without_seconds(report)
    seen.clear()
    assert evaluate(boundary(), batches(), **options, folder=tmp_path) == report and not seen


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
        them = [attack or attacks.PGD(steps=2)]
        evaluate(boundary(model), (images, labels), attacks=them, epsilons=[epsilon], folder=tmp_path, spectrum=False)

    run()
    run()
    assert len(seen) == 1
    run(**change)
    assert len(seen) == 2


DAMAGE = {
    "cut off": lambda cell: json.dumps(cell)[:-9],
    "not JSON": lambda cell: "{",
    "a list": lambda cell: "[1, 2]",
    "text": lambda cell: '"settings"',
    "no result": lambda cell: json.dumps({"settings": cell["settings"]}),
    "a result of another shape": lambda cell: json.dumps({**cell, "result": 3}),
    "a key is missing": lambda cell: json.dumps({**cell, "result": {"seconds": 1.0}}),
    "fewer samples": lambda cell: json.dumps({**cell, "result": {**cell["result"], "fooled": [[True]]}}),
    "other settings": lambda cell: json.dumps({**cell, "settings": {}}),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cell_is_measured_again(damage, tmp_path, monkeypatch):
    seen = count_sweeps(monkeypatch)
    options = {"attacks": [attacks.PGD(steps=2)], "epsilons": [0.1], "spectrum": False, "folder": tmp_path, "name": "m"}
    first = evaluate(boundary(), (IMAGES, LABELS), **options)
    (path,) = tmp_path.iterdir()
    whole = path.read_text(encoding="utf-8")
    path.write_text(DAMAGE[damage](json.loads(whole)), encoding="utf-8")
    again = evaluate(boundary(), (IMAGES, LABELS), **options)
    assert len(seen) == 2 and without_seconds(again) == without_seconds(first)
    assert json.loads(path.read_text(encoding="utf-8"))["settings"] == json.loads(whole)["settings"]


def test_a_cell_outlives_the_package_version_and_the_batch_size_but_no_revision(tmp_path, monkeypatch):
    seen = count_sweeps(monkeypatch)

    def run(**options):
        selected = [attacks.PGD(steps=2, **options)]
        evaluate(boundary(), (IMAGES, LABELS), attacks=selected, epsilons=[0.1], spectrum=False, folder=tmp_path)

    run()
    monkeypatch.setattr("keras_fim.__version__", "99.0")
    run(batch_size=3)
    assert len(seen) == 1
    monkeypatch.setattr(attacks.PGD, "revision", 1_000, raising=False)
    run()
    assert len(seen) == 2
    run(seed=1)
    assert len(seen) == 3


def test_layers_that_differ_are_other_models_whatever_the_weights():
    images = np.random.default_rng(0).uniform(size=(8, 3)).astype("float32")
    from keras_fim.evaluation.plans import model_digest
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
    from keras_fim.evaluation.plans import _coarse

    rng, same = np.random.default_rng(0), 0
    for _ in range(200):
        logits = rng.normal(size=(8, 10)) * 10
        levels = [_coarse(item) for item in (logits, logits * (1 + 1e-6 * rng.normal(size=logits.shape)), 2 * logits)]
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
    for item in (model, twin, other):
        item.set_weights([rng.normal(size=(9, 2)), rng.normal(size=2)])
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
    "search of a search": (dict(attacks=["minimal_deepfool"]), "should be one with a budget after minimal_"),
    "no attack": (dict(attacks=[]), "different attacks, at least one"),
    "the same attack twice": (dict(attacks=["pgd", "pgd_linf"]), "different attacks, at least one"),
    "one list for two norms": (dict(attacks=["ossa", "fgsm"], epsilons=[1]), r"of different norms \(l2, linf\)"),
    "budget of no attack": (dict(epsilons={"ossa": 1}), r"names of the attacks \(fgsm\) for keys. Received: 'ossa'"),
    "unknown norm": (dict(epsilons={"l3": 1}), "should have norms .* Received: 'l3'"),
    "no budget": (dict(epsilons=[]), "at least one budget"),
    "NaN budget": (dict(epsilons=[np.nan]), "Received: epsilon=nan"),
    "negative budget": (dict(epsilons={"linf": -1}), "Received: epsilon=-1"),
    "no samples wanted": (dict(max_samples=0), "`max_samples` should be a positive integer"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input(case):
    options, message = CASES[case]
    dataset = options.pop("dataset", (IMAGES, LABELS))
    with pytest.raises(ValueError, match=message):
        evaluate(boundary(), dataset, **{"attacks": ["fgsm"], **options})
