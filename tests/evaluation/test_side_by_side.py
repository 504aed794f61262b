"""Evaluations of several models side by side: the front, the verdict, what is doubtful, and the page."""

from __future__ import annotations

import dataclasses
import itertools
import re

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_fim import evaluation
from keras_fim.evaluation import SideBySide
from keras_fim.evaluation.side_by_side import pareto_front
from tests.evaluation.test_page import EVIL, NAMES, Parser, check_in_a_browser

OPTIONS = {"attacks": ["fgsm", "pgd"], "epsilons": {"linf": [0.02, 0.1, 0.25]}, "bounds": (0, 1), "progress": None}


def linear(weights):
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])
    model.set_weights([weights, np.zeros(3)])
    return model


@pytest.fixture(scope="module")
def results():
    """The true classes are those of the first model; the others lose accuracy, the second gains a wider margin."""
    rng = np.random.default_rng(0)
    images, weights = rng.uniform(size=(60, 4, 4, 1)).astype("float32"), rng.normal(size=(16, 3))
    labels = linear(weights).predict(images, verbose=0).argmax(axis=-1)
    models = {EVIL: weights, "noisy": weights + 0.1 * rng.normal(size=(16, 3)), "worse": rng.normal(size=(16, 3))}
    return tuple(
        evaluation.evaluate(linear(w), (images, labels), name=name, class_names=NAMES, **OPTIONS)
        for name, w in models.items()
    )


@pytest.fixture(scope="module")
def path(results, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    return SideBySide(results, ({"cost": 1.0}, {"cost": 2.0}, {"cost": 3.5})).save(path)


@given(st.dictionaries(st.integers(), st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=8))
def test_the_front_is_what_no_other_point_dominates(points):
    front = pareto_front(points)
    for name, point in points.items():
        beaten = any(all(np.less_equal(p, point)) and any(np.less(p, point)) for p in points.values())
        assert (name in front) == (not beaten)


def test_the_figures_are_those_of_the_results(results):
    comparison = SideBySide(results)
    assert comparison.budgets == [("linf", 0.02), ("linf", 0.1), ("linf", 0.25)]
    (rows,) = comparison.tables().values()
    for row, result in zip(rows, results, strict=True):
        assert row["no attack"] == result.accuracy and row["linf 0.1"] == result.strongest["linf", 0.1].robust
        assert row["on the front"] == (row["model"] in comparison.front(*comparison.headline))
    left = {result.model: result.strongest[comparison.headline].robust.value for result in results}
    best = max(left, key=left.get)
    assert f"leaves most correct of {best}, {100 * left[best]:.1f} %" in comparison.sentences[0]
    assert comparison.sentences[1] == f"Without an attack {EVIL} is the most accurate, 100.0 %."
    assert comparison.flags == ()


def test_a_model_within_the_uncertainty_of_the_best_is_named(results):
    twin = dataclasses.replace(results[0], model="twin")
    assert SideBySide((results[0], twin)).sentences[0].endswith(": no clear difference.")
    third = results[2]  # 1 of 60 images against 6: p = 0.11; 10 of 60 would be told from it
    assert "leaves about as much correct" in SideBySide((results[0], third)).sentences[0]
    assert "; within the uncertainty of that: " in SideBySide(results).sentences[0]


def test_other_images_and_other_attacks_are_flagged(results):
    other = dataclasses.replace(
        results[1], digests={**results[1].digests, "data": "0"}, flags=("zero gradients: some",)
    )
    (flag, images) = SideBySide((results[0], other)).flags
    assert flag == "noisy: zero gradients: some" and images.startswith("other images: ")
    weaker = dataclasses.replace(results[1], rows=results[1].rows[:3])  # without PGD
    assert [flag.split(":")[0] for flag in SideBySide((results[0], weaker)).flags] == ["other attacks"] * 3


def test_results_that_cannot_be_compared(results):
    with pytest.raises(ValueError, match="`results` should be two or more with different names"):
        SideBySide(results[:1])
    with pytest.raises(ValueError, match="`results` should be two or more with different names"):
        SideBySide((results[0], results[0]))
    rows = tuple(dataclasses.replace(row, epsilon=row.epsilon / 2) for row in results[1].rows)
    with pytest.raises(ValueError, match="`results` should share a norm and an ε"):
        SideBySide((results[0], dataclasses.replace(results[1], rows=rows)))


def test_it_survives_json(results, tmp_path):
    comparison = SideBySide(results, ({"cost": 1.0},) * 3)
    assert SideBySide.load(comparison.save(tmp_path / "comparison.json")) == comparison


def test_the_page_holds_a_point_for_each_model_and_nothing_runs(results, path):
    page = path.read_text(encoding="utf-8")
    parsed = Parser(page)
    text = " ".join(" ".join(parsed.texts).split())
    assert "<script" not in page and "http" not in page and all(link.startswith("data:") for link in parsed.links)
    for result in results:
        row = result.strongest["linf", 0.1]
        tip = f"{result.model}: {100 * result.accuracy.value:.1f} % without an attack, {100 * row.robust.value:.1f} %"
        assert tip in text
    assert len(re.findall('class="front"', page)) == 3 and len(parsed.images) == 9
    for heading in ("What robustness costs in accuracy", "By class", "The most fragile image of each model"):
        assert heading in text
    assert "3.5" in text


def test_the_front_is_drawn_as_stairs_down_to_the_right(path):
    page = path.read_text(encoding="utf-8")
    for points in re.findall(r'class="front" points="([^"]*)"', page):
        corners = [tuple(map(float, corner.split(","))) for corner in points.split()]
        for (left, top), (right, bottom) in itertools.pairwise(corners):
            assert left <= right and top <= bottom and (left == right or top == bottom)
        assert corners[-1][1] == 220  # the lower end of the axis


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_in_a_browser_without_a_network(path, width, scheme):
    check_in_a_browser(path, width, scheme)
