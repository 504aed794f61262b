from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from keras_fim import evaluation


def test_wilson_is_the_root_of_the_score_equation():
    """Each end p solves ``|p - p̂| = z √(p (1 - p) / n)``."""
    z = 1.959963984540054
    for count, total in ((0, 10), (3, 10), (97, 1000), (10, 10)):
        actual = evaluation.wilson(count, total)
        for end in {actual.low, actual.high} - {0.0, 1.0}:
            assert abs(end - count / total) == pytest.approx(z * np.sqrt(end * (1 - end) / total), rel=1e-9)
        assert actual.low <= actual.value <= actual.high
    assert np.isnan(evaluation.wilson(0, 0).value)


def test_intervals_cover_at_their_level():
    rng = np.random.default_rng(0)
    shares = rng.uniform(size=2000)
    actual = [evaluation.wilson(int(rng.binomial(100, share)), 100) for share in shares]
    covered = [interval.low <= share <= interval.high for interval, share in zip(actual, shares, strict=True)]
    assert 0.94 < np.mean(covered) < 0.96
    means = [evaluation.bootstrap(np.mean, rng.normal(size=60), resamples=300, seed=i) for i in range(300)]
    assert 0.88 < np.mean([actual.low <= 0 <= actual.high for actual in means]) < 0.98


def test_bootstrap_is_seeded_paired_and_knows_infinity():
    x = np.random.default_rng(0).normal(size=50)
    assert evaluation.bootstrap(np.mean, x, seed=3) == evaluation.bootstrap(np.mean, x, seed=3)
    assert evaluation.bootstrap(np.mean, x, seed=3) != evaluation.bootstrap(np.mean, x, seed=4)
    paired = evaluation.bootstrap(lambda a, b: np.mean(a - b), x, x + 1)
    assert (paired.low, paired.high) == pytest.approx((-1, -1))
    half = evaluation.bootstrap(np.median, np.array([1.0] * 5 + [np.inf] * 4))
    assert (half.value, half.low, half.high) == (1, 1, np.inf)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: evaluation.wilson(3, 2), "`count` should be from 0 to total=2. Received: count=3"),
        (lambda: evaluation.wilson(1, 2, confidence=1.0), r"`confidence` should be in \(0, 1\)"),
        (lambda: evaluation.bootstrap(np.mean, []), "one length, at least 1. Received: lengths .0."),
        (lambda: evaluation.bootstrap(np.mean, [1.0], [1.0, 2.0]), "one length"),
        (lambda: evaluation.bootstrap(np.mean, [1.0], resamples=0), "`resamples` should be a positive"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@dataclasses.dataclass(frozen=True)
class Mixed(evaluation.Report):
    """Rows of different columns, such as those of attacks with different stages."""

    def tables(self):
        return {"": [{"attack": "one", "figure": 0.5}, {"attack": "two", "stages": 3, "strongest": True}]}


def test_a_table_has_the_columns_of_all_its_rows(tmp_path):
    assert str(Mixed()).splitlines() == [
        "attack  figure  stages  strongest",
        "one        0.5",
        "two                  3  yes",
    ]
    assert Mixed().markdown().splitlines()[-1] == "| two    |        |      3 | yes       |"
    assert Mixed().save(tmp_path / "mixed.csv").read_text().splitlines()[1:] == ["one,0.5,,", "two,,3,True"]
