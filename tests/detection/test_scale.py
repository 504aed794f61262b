"""Whatever the range of the pixels, the detector gives the same verdicts."""

from __future__ import annotations

import numpy as np
import pytest

from keras_fim import attacks
from keras_fim.detection import FisherDetector
from tests.attacks.test_scale import BOUNDS, IMAGES, LABELS, UNIT, scaled

ATTACKED = attacks.FGSM()(UNIT, IMAGES, LABELS, epsilon=0.15).adversarials


@pytest.mark.parametrize("bounds", BOUNDS, ids=str)
def test_without_attacked_images_scores_and_threshold_move_by_the_same(bounds):
    """λ is an inverse squared length, so its logarithm falls by twice that of the range."""
    low, high = bounds
    unit = FisherDetector.fit(UNIT, IMAGES, false_positive_rate=0.25, bounds=(0, 1))
    other = FisherDetector.fit(scaled(*bounds), low + (high - low) * IMAGES, false_positive_rate=0.25, bounds=bounds)
    shift = 2 * np.log(high - low)
    assert other.threshold + shift == pytest.approx(unit.threshold, abs=1e-6)
    expected = unit.scores(UNIT, ATTACKED, bounds=(0, 1))
    result = other.scores(scaled(*bounds), low + (high - low) * ATTACKED, bounds=bounds)
    np.testing.assert_allclose(result + shift, expected, atol=1e-6)
    clear = np.abs(expected - unit.threshold) > 1e-6
    np.testing.assert_array_equal((result > other.threshold)[clear], (expected > unit.threshold)[clear])
    assert 0 < (expected > unit.threshold).sum() < len(expected)


@pytest.mark.parametrize("bounds", BOUNDS, ids=str)
def test_with_attacked_images_scores_are_the_same(bounds):
    pytest.importorskip("sklearn", reason="needs the extra [detection]")
    low, high = bounds
    unit = FisherDetector.fit(UNIT, IMAGES, ATTACKED, bounds=(0, 1))
    other = FisherDetector.fit(
        scaled(*bounds), low + (high - low) * IMAGES, low + (high - low) * ATTACKED, bounds=bounds
    )
    assert other.threshold == pytest.approx(unit.threshold, abs=1e-4)
    result = other.scores(scaled(*bounds), low + (high - low) * ATTACKED, bounds=bounds)
    np.testing.assert_allclose(result, unit.scores(UNIT, ATTACKED, bounds=(0, 1)), atol=1e-4)
