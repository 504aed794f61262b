from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_fim import attacks
from keras_fim.attacks.apgd import checkpoints
from keras_fim.attacks.losses import logits_ratio_against
from keras_fim.logits import logits_function

APGDS = [attacks.APGD(norm=norm, loss=loss) for norm in (2, np.inf) for loss in ("cross_entropy", "dlr")]


def reference(gradient, image, label, epsilon, start, steps, norm):
    """Algorithm 1 of the paper for one flat image in [0, 1]; returns all points and the best."""

    def inside(point):
        delta = np.clip(point, 0, 1) - image
        delta = np.clip(delta, -epsilon, epsilon) if norm == np.inf else delta * min(1, epsilon / np.linalg.norm(delta))
        return image + delta

    def ascent(point, slope, eta):
        return inside(point + eta * (np.sign(slope) if norm == np.inf else slope / np.linalg.norm(slope)))

    eta, halved, marks = 2 * epsilon, False, checkpoints(steps)
    value, slope = gradient(start, label)
    before, now, value_now, slope_now = start, start, value, slope
    best, best_value, best_slope, checked, rises, points = start, value, slope, -np.inf, 0, [start]
    for k in range(1, steps + 1):
        aim, share = ascent(now, slope_now, eta), 0.75 if k > 1 else 1.0
        before, now = now, inside(now + share * (aim - now) + (1 - share) * (now - before))
        points.append(now)
        value, slope_now = gradient(now, label)
        rises, value_now = rises + (value > value_now), value
        if value > best_value:
            best, best_value, best_slope = now, value, slope_now
        if k in marks:
            few = rises < 0.75 * (k - marks[marks.index(k) - 1])
            halved = few or (not halved and best_value <= checked)
            if halved:
                eta, now, value_now, slope_now = eta / 2, best, best_value, best_slope
            checked, rises = best_value, 0
    return np.array(points), best


@pytest.mark.slow
@pytest.mark.parametrize("norm", [2, np.inf])
def test_it_is_the_published_algorithm(norm, mlp):
    """Float64, point by point: the images that the model is asked about."""
    seen = []

    def logits(x):
        tf.py_function(lambda points: seen.append(points.numpy()), [x], [])
        return tf.cast(keras_logits(x), tf.float64)

    keras_logits = keras.Model(mlp.inputs, mlp.get_layer("logits").output)
    images = np.random.default_rng(0).uniform(size=(4, 6))
    labels = mlp(images).numpy().argmax(axis=-1)
    fn, attack = logits_function(logits, from_logits=True), attacks.APGD(norm=norm, steps=50)
    result = attack(fn, images, labels, epsilon=0.6)
    recorded = np.stack(seen[-51:], axis=1)  # (image, point, pixel)

    def gradient(point, label):
        with tf.GradientTape() as tape:
            x = tf.constant(point[None])
            tape.watch(x)
            value = -tf.nn.log_softmax(keras_logits(x))[0, label]
        return float(value), tape.gradient(value, x).numpy()[0]

    for image, label, points, best in zip(images, labels, recorded, result.adversarials, strict=True):
        expected, peak = reference(gradient, image, label, 0.6, points[0], 50, norm)
        np.testing.assert_allclose(points, expected, atol=1e-9)
        np.testing.assert_allclose(best, peak, atol=1e-9)


def test_dlr_is_its_formula_whatever_the_scale_and_the_margin_of_two_classes():
    logits = tf.constant([[3.0, 1.0, 2.0, -1.0], [1.0, 4.0, 2.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    labels = tf.constant([0, 2, 1], tf.int64)
    np.testing.assert_allclose(logits_ratio_against(logits, labels), [-0.5, 2 / 3, 0.0])
    np.testing.assert_allclose(logits_ratio_against(7 * logits + 5, labels), [-0.5, 2 / 3, 0.0], rtol=1e-6)
    pairs = tf.constant([[3.0, 1.0], [1.0, 4.0]])
    np.testing.assert_allclose(logits_ratio_against(pairs, tf.constant([0, 0], tf.int64)), [-2.0, 3.0])


def test_of_two_classes_dlr_is_the_margin():
    weights = tf.constant(np.random.default_rng(0).normal(size=(6, 2)), tf.float32)
    fn = logits_function(lambda x: tf.tanh(3 * x) @ weights, from_logits=True)
    images = np.random.default_rng(1).uniform(size=(8, 6)).astype("float32")
    labels = fn(tf.constant(images)).numpy().argmax(axis=-1)
    dlr, margin = (attacks.APGD(loss=loss, steps=10)(fn, images, labels, epsilon=0.3) for loss in ("dlr", "margin"))
    np.testing.assert_array_equal(dlr.adversarials, margin.adversarials)
    assert 0 < dlr.success.sum()


@pytest.mark.slow
@pytest.mark.parametrize(
    "attack", [dataclasses.replace(attack, steps=12) for attack in APGDS[1:3]], ids=lambda a: a.name
)
def test_leaving_early_fools_the_same_samples_and_restarts_only_help(attack, digit_model, digits):
    images, labels = digits[2][:50], digits[3][:50]
    epsilon = {2: 0.7, np.inf: 0.05}[attack.norm]
    late = attack(digit_model, images, labels, epsilon=epsilon)
    early = attack.fooling_only()(digit_model, images, labels, epsilon=epsilon)
    again = dataclasses.replace(attack, restarts=2)(digit_model, images, labels, epsilon=epsilon)
    np.testing.assert_array_equal(early.success, late.success)
    assert (again.success | ~late.success).all() and 0 < late.success.sum() < late.was_correct.sum()


@pytest.mark.slow
@pytest.mark.parametrize("norm", [2, np.inf])
def test_it_is_as_strong_as_pgd_with_as_many_steps(norm, digit_model, digits):
    epsilon = {2: 0.7, np.inf: 0.05}[norm]
    apgd, pgd = (
        attack(norm=norm, steps=40, stop_early=True)(digit_model, digits[2], digits[3], epsilon=epsilon)
        for attack in (attacks.APGD, attacks.PGD)
    )
    assert apgd.success.sum() >= pgd.success.sum() - 1


@pytest.mark.slow
def test_seed_repeats_random_starts(digit_model, digits):
    images, labels = digits[2][:5], digits[3][:5]
    first, second, other = (
        attacks.APGD(steps=6, seed=seed)(digit_model, images, labels, epsilon=0.02).adversarials for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()


@pytest.mark.parametrize("options", [{}, {"target": 1}], ids=["any", "target"])
@pytest.mark.parametrize("often", [1, 2])
def test_of_many_draws_a_point_fools_where_three_quarters_are_wrong(options, often):
    """Of each four passes one or two have a class 1 that is far ahead: the mean of the logits alone is of it."""
    turn = tf.Variable(0)

    def logits(x):
        turn.assign_add(1)
        margin = tf.where(turn % 4 < often, 20.0, -1.0) + 0 * x[:, 0] + x[:, 1] / 100
        return tf.stack([tf.zeros_like(margin), margin], axis=-1)

    fn, images = logits_function(logits, from_logits=True), np.full((3, 2), 0.5, "float32")
    result = attacks.APGD(steps=4, eot_draws=20, **options)(fn, images, [0, 0, 0], epsilon=0.1)
    assert result.was_correct.all() and not result.success.any()
    np.testing.assert_array_equal(result.predictions, 0)
    turned = logits_function(lambda x: logits(x) * tf.constant([1.0, -1.0]), from_logits=True)
    result = attacks.APGD(steps=4, eot_draws=20, **options)(turned, images, [0, 0, 0], epsilon=0.1)
    assert attacks.APGD(eot_draws=20).confirmations == 20
    assert (result.success[result.was_correct] == (often == 1)).all()


def test_few_steps_and_many_have_checkpoints_in_order():
    for steps in (1, 2, 3, 7, 25, 40, 1000):
        marks = checkpoints(steps)
        assert marks[0] == 0 and marks[-1] <= steps and (np.diff(marks) > 0).all()


def test_names():
    assert [attack.name for attack in APGDS] == ["apgd_ce_l2", "apgd_dlr_l2", "apgd_ce_linf", "apgd_dlr_linf"]
