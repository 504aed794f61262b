"""FAB against the exact distances of linear classifiers inside the pixel bounds."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from keras_fim import attacks
from keras_fim.attacks.boundaries import to_hyperplane
from keras_fim.logits import logits_function
from tests.oracles import near_bounds, nearest_boundary, shortest

NORMS = (1, 2, np.inf)


@pytest.mark.parametrize("norm", NORMS)
def test_the_projection_onto_a_hyperplane_is_exact(norm):
    rng = np.random.default_rng(1)
    points, slopes = near_bounds(60, 15), rng.normal(size=(60, 15)) * 10.0 ** rng.integers(-20, 5, size=(60, 1))
    slopes[:, 3] = 0
    reach = (np.abs(slopes) * np.where(slopes > 0, 1 - points, points)).sum(axis=1)
    back = (np.abs(slopes) * np.where(slopes < 0, 1 - points, points)).sum(axis=1)
    gaps = np.where(np.arange(60) % 2, reach, -back) * rng.uniform(0, 1.2, size=60)
    gaps[:2] = 0
    shifts = to_hyperplane(*(tf.constant(part) for part in (points, slopes, gaps)), norm).numpy()
    assert (points + shifts >= -1e-12).all() and (points + shifts <= 1 + 1e-12).all()
    for point, slope, gap, shift in zip(points, slopes, gaps, shifts, strict=True):
        signed = slope if gap >= 0 else -slope
        expected = shortest(point, signed, abs(gap), norm)
        if np.isinf(expected):  # as far as it goes
            far = np.where(signed > 0, 1 - point, np.where(signed < 0, -point, 0))
            np.testing.assert_allclose(shift, far, atol=1e-9)
        else:
            assert slope @ shift == pytest.approx(gap, rel=1e-7, abs=1e-300)
            assert np.linalg.norm(shift, ord=norm) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("targeted", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["fab_t", "fab"])
@pytest.mark.parametrize("num_classes", [2, pytest.param(10, marks=pytest.mark.slow)])
@pytest.mark.parametrize("norm", NORMS)
def test_it_is_at_the_optimum_of_linear_classes_inside_the_bounds(norm, num_classes, targeted):
    images = near_bounds(24, 36)
    weights = np.random.default_rng(num_classes).normal(size=(36, num_classes))
    labels = (images @ weights).argmax(axis=-1)
    optimum = nearest_boundary(images, weights, norm)
    fn = logits_function(lambda x: x @ weights, from_logits=True)
    result = attacks.FAB(norm=norm, targeted=targeted)(fn, images, labels)
    ratio = result.distances / optimum
    print(f"l{norm}, {num_classes} classes: {np.median(ratio):.4f} of the optimum in the median, at most {ratio.max()}")
    assert result.success.all()
    # which boundary is the nearest inside the bounds, the untargeted version guesses from the slopes alone
    assert 1 - 1e-6 <= ratio.min() and (ratio.max() if targeted else np.median(ratio)) <= 1.02


def test_samples_that_are_done_leave():
    """With an ε, a sample takes no more steps once an adversarial within it is there; the model counts its rows."""
    weights = np.random.default_rng(0).normal(size=(36, 4))
    rows = []

    def logits(x):
        tf.py_function(lambda points: rows.append(len(points)), [x], [])
        return x @ weights

    images, fn = near_bounds(8, 36), logits_function(logits, from_logits=True)
    labels, attack = (images @ weights).argmax(axis=-1), attacks.FAB(steps=10)
    problem = attack._problem(fn, images, labels)
    search, counts = attack._function(attacks.FAB.search, fn), []
    for epsilon in (0.0, 10.0):
        rows.clear()
        points = search(problem.task._replace(epsilon=problem.budgets(epsilon))).adversarials
        assert ((points.numpy() @ weights).argmax(axis=-1) != labels).all()
        counts.append(sum(rows))
    assert counts[0] == 8 * (1 + 3 * 10 * 2) and counts[1] <= 8 * 5
    (compiled,) = [f for key, f in fn._compiled.items() if key[0].__name__ == "search"]
    assert compiled.experimental_get_tracing_count() == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": 0}, "`norm` should be one of 1, 2, np.inf"),
        ({"steps": 0}, "`steps` should be a positive integer"),
        ({"num_targets": 0}, "`num_targets` should be a positive integer"),
        ({"alpha_max": 1.5}, r"`alpha_max` should be in \[0, 1\]"),
        ({"eta": 0.9}, "`eta` should be a number >= 1"),
        ({"beta": 0.0}, r"`beta` should be in \(0, 1\]"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        attacks.FAB(**options)
