from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from keras_fim import attacks, evaluation
from keras_fim.logits import logits_function
from tests.tables import read_csv

WIDE = (-100.0, 100.0)


def half_spaces(normal, offset=0.0):
    """Two classes that part at ``normal @ x = offset``; class 0 is where it is larger."""
    normal = tf.constant(normal, tf.float32)[:, None]
    return logits_function(lambda x: tf.concat([x @ normal - offset, offset - x @ normal], -1), from_logits=True)


NORMAL = [2.0, -1.0, 2.0]
POINTS = np.array([[1.0, 0, 0], [0, -3, 0], [0, 0, 0.5], [1, 1, 1], [-1.0, 0, 0]], "float32")
LABELS = np.zeros(5, int)  # the last point is wrong before
HEIGHTS = np.array([2.0, 3.0, 1.0, 3.0])  # of the correct ones: distances are these over the dual norm of NORMAL


@pytest.mark.parametrize(("attack", "dual"), [("fgm", 3.0), ("fgsm", 5.0), ("deepfool_l2", 3.0)])
def test_minimal_distances_of_a_linear_model(attack, dual):
    attack = attacks.attack_by_name(attack, bounds=WIDE)
    actual = evaluation.minimal_distances(half_spaces(NORMAL), POINTS, LABELS, attack)
    optimum = HEIGHTS / dual
    np.testing.assert_allclose(actual.distances, [*optimum, 0], rtol=0.03)
    assert actual.was_correct == (True, True, True, True, False)
    assert actual.median == pytest.approx(np.median(optimum), rel=0.03)
    assert actual.mean == pytest.approx(optimum.mean(), rel=0.03)
    assert actual.success_share.count == actual.success_share.total == actual.num_correct == 4
    assert actual.quantiles["0.25"] == pytest.approx(optimum.min(), rel=0.03)
    size, scale = 3, WIDE[1] - WIDE[0]
    squares = (optimum / scale) ** 2 / size if actual.norm == "l2" else optimum / scale
    assert actual.foolbox_mean == pytest.approx(squares.mean(), rel=0.06)


def test_a_sample_that_stands_counts_as_inf_in_the_median_and_not_in_the_mean():
    """Within [0, 1] the second image's class cannot change: 1 - 2 * 0.1 > 0.5."""
    model = logits_function(
        lambda x: tf.stack([x[:, 0] + x[:, 1] - 0.5, 0.5 - x[:, 0] - x[:, 1]], -1), from_logits=True
    )
    bounded = attacks.MinimalDistance(attacks.FGSM(), largest=0.2)
    actual = evaluation.minimal_distances(model, [[0.3, 0.4], [1.0, 1.0], [1.0, 0.9]], [0, 0, 0], bounded)
    assert actual.distances[0] == pytest.approx(0.1, rel=0.02) and actual.distances[1:] == (np.inf, np.inf)
    assert actual.median == np.inf and actual.mean == pytest.approx(0.1, rel=0.02)
    assert (actual.success_share.count, actual.success_share.total) == (1, 3)
    assert actual.interval("median").high == np.inf
    with pytest.raises(ValueError, match="`statistic` should be median or mean"):
        actual.interval("mode")
    assert "inf" in str(actual)


def test_transfer_between_two_half_spaces():
    """What crosses 0.5 from above is still above 0.3, what crosses 0.3 is below 0.5 as well."""
    models = [half_spaces([1.0, 0.0], offset) for offset in (0.5, 0.3)]
    images = np.array([[0.9, 0], [0.7, 0], [0.4, 0], [0.2, 0]], "float32")  # 0.4 is right for the second model only
    actual = evaluation.transfer(*models, images, [0, 0, 0, 1], ["fgsm"], names=("plain", "shifted"))
    there, back = actual.rows
    assert (there.source, there.target, there.epsilon) == ("plain", "shifted", None)
    assert (there.fooled.count, there.fooled.total) == (3, 3)
    # class 1 at 0.2 crosses both 0.3 and 0.5 on its way to the first model's boundary
    assert (there.accuracy.count, there.accuracy.total) == (2, 3)
    assert (back.fooled.count, back.fooled.total) == (4, 4)
    assert (back.accuracy.count, back.accuracy.total) == (1, 3)  # 0.2 -> 0.3 is class 1 still
    assert (back.accuracy_of_all.count, back.accuracy_of_all.total) == (1, 4)
    assert [line.split()[0] for line in str(actual).splitlines()] == ["attack", "minimal_fgsm", "minimal_fgsm"]


@pytest.mark.slow
def test_transfer_at_a_given_budget():
    models = [half_spaces([1.0, 0.0], offset) for offset in (0.5, 0.3)]
    images = np.array([[0.9, 0], [0.7, 0]], "float32")
    actual = evaluation.transfer(*models, images, [0, 0], ["fgsm", "ossa"], epsilons={"ossa": 0.25})
    assert [(row.attack, row.epsilon) for row in actual.rows[2:]] == [("ossa", 0.25), ("ossa", 0.25)]
    assert (actual.rows[2].fooled.count, actual.rows[2].fooled.total) == (1, 2)
    assert np.isnan(actual.rows[3].accuracy.value) and actual.rows[3].fooled.value == 0
    with pytest.raises(ValueError, match=r"names of the attacks \(ossa\) for keys. Received: 'pgd'"):
        evaluation.transfer(*models, images, [0, 0], ["ossa"], epsilons={"pgd": 0.25})
    with pytest.raises(ValueError, match="`labels` should be from 0 to 1. Received: 5"):
        evaluation.transfer(*models, images, [0, 5], ["ossa"])


@pytest.mark.parametrize("name", ["distances", "transfer", "curve"])
def test_results_are_saved_and_loaded(name, tmp_path):
    model = half_spaces(NORMAL)
    result = {
        "distances": lambda: evaluation.minimal_distances(model, POINTS * 0 + 0.4, LABELS, "fgm"),
        "transfer": lambda: evaluation.transfer(model, half_spaces(NORMAL, 0.1), POINTS * 0 + 0.4, LABELS, ["fgm"]),
        "curve": lambda: evaluation.robustness_curve(model, POINTS * 0 + 0.4, LABELS, "fgm", [0.1, 0.2]),
    }[name]()
    assert type(result).load(result.save(tmp_path / "r.json")) == result
    rows = read_csv(result.save(tmp_path / "r.csv"))
    assert len(rows) == len(result.records()) and rows[0]["norm"] == "l2"
    for row, record in zip(rows, result.records(), strict=True):
        for column, value in row.items():
            assert value == record[column] or np.isnan(value)
    markdown = result.save(tmp_path / "r.md").read_text(encoding="utf-8").splitlines()
    assert markdown[1].startswith("| --") and len({len(line) for line in markdown}) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.csv", "r.json", "r.md"]
    with pytest.raises(ValueError, match="`path` should end in .json, .csv or .md"):
        result.save(tmp_path / "r.txt")
    (tmp_path / "r.json").write_text('{"type": "Other"}')
    with pytest.raises(ValueError, match=f"should hold a {type(result).__name__}"):
        type(result).load(tmp_path / "r.json")
