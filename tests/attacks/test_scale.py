"""Whatever the range of the pixels, an attack does the same."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import tensorflow as tf

from keras_fim import attacks
from keras_fim.logits import logits_function

BOUNDS = [(0.0, 255.0), (-1.0, 1.0), (0.0, 1e-3), (-1000.0, 1000.0)]
ATTACKS = [
    attacks.FGSM,
    attacks.FGM,
    attacks.OTCM,
    lambda **o: attacks.OTCM(target="random", norm=2, **o),
    attacks.OSSA,
    *[lambda norm=norm, **o: attacks.BIM(norm=norm, **o) for norm in (1, 2, np.inf)],
    *[lambda norm=norm, **o: attacks.PGD(norm=norm, **o) for norm in (1, 2, np.inf)],
    *[lambda norm=norm, **o: attacks.MIM(norm=norm, **o) for norm in (1, np.inf)],
    *[lambda norm=norm, **o: attacks.APGD(norm=norm, **o) for norm in (2, np.inf)],
    lambda **o: attacks.APGD(loss="dlr", **o),
    lambda **o: attacks.APGD(norm=2, loss="dlr_targeted", **o),
    *[lambda norm=norm, **o: attacks.Square(norm=norm, queries=100, **o) for norm in (2, np.inf)],
    *[lambda norm=norm, **o: attacks.DeepFool(norm=norm, **o) for norm in (2, np.inf)],
    *[lambda norm=norm, **o: attacks.FMN(norm=norm, gamma=0.05, **o) for norm in (1, 2, np.inf)],
    *[lambda norm=norm, **o: attacks.FAB(norm=norm, **o) for norm in (1, 2, np.inf)],
    attacks.CarliniWagner,
    attacks.JSMA,
    lambda **o: attacks.MinimalDistance(attacks.FGSM(**o)),
    lambda **o: attacks.MinimalDistance(attacks.PGD(steps=5, **o)),
    lambda **o: attacks.Strong(quick=True, **o),
]
IMAGES = np.random.default_rng(1).integers(0, 1025, size=(24, 8)) / 1024


def dense(x):
    """A smooth float64 classifier of images in [0, 1]."""
    rng = np.random.default_rng(0)
    return tf.tanh((x - 0.5) @ rng.normal(size=(8, 16))) @ rng.normal(size=(16, 4))


LABELS = dense(tf.constant(IMAGES)).numpy().argmax(axis=-1)
UNIT = logits_function(dense, from_logits=True)


def scaled(low, high):
    """The same classifier of images in other bounds."""
    return logits_function(lambda x: dense((x - low) / (high - low)), from_logits=True)


def budgets(attack, scale=1.0):
    if isinstance(attack, attacks.MinimalDistanceAttack):
        return {}
    return {"epsilon": {1.0: 0.8, 2.0: 0.4, np.inf: 0.15}[attack.norm] * scale}


def check_covariance(make, low, high):
    """One sample of 24 may be on an edge of a long climb, from where a rounding leads elsewhere.

    FMN has more of them: its radius shrinks or grows by the sign of a margin that tends to zero.
    """
    unit, other = make(), make(bounds=(low, high))
    expected = unit(UNIT, IMAGES, LABELS, **budgets(unit))
    result = other(scaled(low, high), low + (high - low) * IMAGES, LABELS, **budgets(other, high - low))
    assert expected.success.any()
    np.testing.assert_array_equal(result.success, expected.success)
    apart = np.abs((result.adversarials - low) / (high - low) - expected.adversarials).max(axis=1)
    edges, farthest = (4, 1e-3) if isinstance(unit, attacks.FMN) else (1, np.inf)
    assert (apart <= 1e-6).sum() >= 24 - edges and apart.max() < farthest, np.sort(apart)[-5:]
    assert result.adversarials.min() >= low and result.adversarials.max() <= high
    scale, equal = 1 if other.norm == 0 else high - low, apart <= 1e-6
    np.testing.assert_allclose((result.distances / scale)[equal], expected.distances[equal], atol=1e-6)
    np.testing.assert_array_equal(result.predictions[equal], expected.predictions[equal])


@pytest.mark.slow
@pytest.mark.parametrize("bounds", BOUNDS, ids=str)
@pytest.mark.parametrize("make", ATTACKS, ids=lambda make: make().name)
def test_every_attack_is_scale_covariant(make, bounds):
    check_covariance(make, *bounds)


@pytest.mark.parametrize("make", [attacks.FGSM, attacks.CarliniWagner, attacks.FMN, attacks.JSMA])
def test_bytes_are_attacked_like_shares(make):
    check_covariance(make, 0.0, 255.0)


@pytest.mark.parametrize("make", [attacks.FGM, attacks.PGD, attacks.DeepFool, attacks.JSMA], ids=lambda m: m().name)
def test_bounds_for_each_channel_are_those_of_standardized_images(make):
    """ε and distances are then in unit coordinates."""
    mean, deviation = np.array([0.2, 0.5]), np.array([0.3, 0.1])
    fn = logits_function(lambda x: dense(tf.reshape(x * deviation + mean, [-1, 8])), from_logits=True)
    images = (IMAGES.reshape(24, 2, 2, 2) - mean) / deviation
    low, high = (tuple((np.full(2, end) - mean) / deviation) for end in (0.0, 1.0))
    unit, other = make(), make(bounds=(low, high))
    expected = unit(UNIT, IMAGES, LABELS, **budgets(unit))
    result = other(fn, images, LABELS, **budgets(other))
    np.testing.assert_array_equal(result.success, expected.success)
    points = (result.adversarials * deviation + mean).reshape(24, 8)
    np.testing.assert_allclose(points, expected.adversarials, atol=1e-6)
    np.testing.assert_allclose(result.distances, expected.distances, atol=1e-6)
    assert (result.adversarials >= low).all() and (result.adversarials <= high).all()


def test_carlini_wagner_finds_all_on_a_wide_range():
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(8, 4)) / 1000
    fn = logits_function(lambda x: x @ weights, from_logits=True)
    images = rng.uniform(-1000, 1000, size=(24, 8))
    labels = fn(tf.constant(images)).numpy().argmax(axis=-1)
    assert attacks.CarliniWagner(bounds=(-1000, 1000))(fn, images, labels).success.sum() == 24


def test_what_an_attack_does_not_change_stays_as_it_was():
    images = np.random.default_rng(0).uniform(0, 255, size=(24, 8)).astype("float32")
    fn = logits_function(lambda x: dense(tf.cast(x, tf.float64) / 255), from_logits=True)
    labels = fn(tf.constant(images)).numpy().argmax(axis=-1)
    for attack in (attacks.FGSM(bounds=(0, 255)), attacks.PGD(bounds=(0, 255)), attacks.Square(bounds=(0, 255))):
        np.testing.assert_array_equal(attack(fn, images, labels, epsilon=0).adversarials, images)
    result = attacks.JSMA(bounds=(0, 255))(fn, images, labels)
    success, changed = result.success, (result.adversarials != images).sum(axis=1)
    np.testing.assert_array_equal(result.distances[success], changed[success])
    assert success.any() and np.median(changed[success]) < 8


def test_the_view_of_a_model_goes_with_it():
    fn = logits_function(lambda x: dense(tf.cast(x, tf.float64) / 255), from_logits=True)
    attacks.FGSM(bounds=(0, 255))(fn, 255 * IMAGES, LABELS, epsilon=1.0)
    (view,) = fn.views.values()
    assert all(f.experimental_get_tracing_count() == 1 for f in view._compiled.values())
    alive = weakref.ref(view)
    del fn, view
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        (((0, 0), (1, 1, 1)), r"`bounds` should be \(lowest, highest\) pixel value"),
        (((0, 1), (1, 1)), r"`bounds` should be \(lowest, highest\) pixel value"),
        (((0, 0), (1, 1)), "`bounds` should have 8 values for the last axis"),
    ],
)
def test_bad_bounds(bounds, message):
    with pytest.raises(ValueError, match=message):
        attacks.FGSM(bounds=bounds)(UNIT, IMAGES, LABELS, epsilon=0.1)
