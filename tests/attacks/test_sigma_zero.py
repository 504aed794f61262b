"""σ-zero on linear classes, where the fewest changes are counted by sorting."""

from __future__ import annotations

import numpy as np
import pytest

from keras_fim import attacks
from keras_fim.logits import logits_function
from tests.oracles import near_bounds


def fewest(image, weights):
    """The smallest number of values whose change inside the unit cube changes the class."""
    logits = image @ weights
    label, counts = logits.argmax(), []
    for rival in range(len(logits)):
        if rival != label:
            slope = weights[:, rival] - weights[:, label]
            gains = np.sort(np.abs(slope) * np.where(slope > 0, 1 - image, image))[::-1]
            counts.append(np.searchsorted(gains.cumsum(), logits[label] - logits[rival], side="right") + 1)
    return min(counts)


@pytest.mark.parametrize("num_classes", [2, 10])
def test_it_is_within_one_value_of_the_optimum_of_linear_classes(num_classes):
    images, weights = near_bounds(40, 100), np.random.default_rng(num_classes).normal(size=(100, num_classes))
    labels, fn = (images @ weights).argmax(axis=-1), logits_function(lambda x: x @ weights, from_logits=True)
    result = attacks.SigmaZero()(fn, images, labels)
    excess = result.distances - [fewest(image, weights) for image in images]
    print(f"{num_classes} classes: {np.mean(excess == 0):.2f} at the optimum, at most {excess.max():g} more")
    assert result.success.all() and set(excess) <= {0, 1} and np.mean(excess == 0) > 0.8
    np.testing.assert_array_equal(result.distances, (result.adversarials != images).sum(axis=1))
    (search,) = [f for key, f in fn._compiled.items() if key[0].__name__ == "search"]
    assert search.experimental_get_tracing_count() == 1


@pytest.mark.slow
def test_it_changes_fewer_pixels_of_digits_than_jsma(digit_model, digits):
    images, labels = digits[2][:30], digits[3][:30]
    sparse, pairs = (attack(digit_model, images, labels) for attack in (attacks.SigmaZero(), attacks.JSMA()))
    assert sparse.adversarials.min() >= 0 and sparse.adversarials.max() <= 1
    both = sparse.success & pairs.success
    print(np.median(sparse.distances[both]), np.median(pairs.distances[both]))
    assert sparse.success.sum() >= pairs.success.sum()
    assert np.median(sparse.distances[both]) <= np.median(pairs.distances[both])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "`steps` should be a positive integer"),
        ({"sigma": 0.0}, "`sigma` should be a positive number"),
        ({"step_size": -1.0}, "`step_size` should be a positive number"),
        ({"threshold": 1.5}, r"`threshold` should be in \[0, 1\]"),
        ({"rate": -0.1}, r"`rate` should be in \[0, 1\]"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        attacks.SigmaZero(**options)
