from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf

from keras_fim import attacks
from keras_fim.logits import logits_function


def linear(num_classes, size=20):
    """A linear float64 model whose classes meet in the middle of the bounds, its weights and bias."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(size, num_classes))
    bias = 0.3 * rng.normal(size=num_classes) - 0.5 * weights.sum(axis=0)
    return logits_function(lambda x: x @ weights + bias, from_logits=True), weights, bias


def best_pair(a, b, free):
    """By looking at all pairs; the value that rises less comes first."""
    best, pair = 0, None
    for p, q in itertools.combinations(np.flatnonzero(free), 2):
        rise, fall = a[p] + a[q], b[p] + b[q]
        if rise > 0 and fall < 0 and -rise * fall > best:
            best, pair = -rise * fall, sorted([p, q], key=lambda value: a[value])
    return pair


def slopes(weights, logits, label, target, saliency):
    """α and β of a linear model as the docstring of `attacks.JSMA` has them, probabilities by their Jacobian."""
    if saliency == "probabilities":
        p = np.exp(logits - logits.max())
        p /= p.sum()
        weights = (weights - (weights @ p)[:, None]) * p
    if target is not None:
        return weights[:, target], weights.sum(axis=1) - weights[:, target]
    if saliency == "probabilities":
        return -weights[:, label], weights[:, label]
    rival = np.argmax(np.where(np.arange(len(logits)) == label, -np.inf, logits))
    return weights[:, rival], weights[:, label]


def reference(weights, bias, image, label, *, target=None, theta=1.0, gamma=1.0, saliency="probabilities"):
    """The attack on one image, written for the eye; None if it stands."""

    def done(x):
        predicted = np.argmax(x @ weights + bias)
        return predicted != label if target is None else predicted == target

    x, pair = image.copy(), None
    while not done(x):
        moved = np.clip(x + theta, 0, 1)
        room = (x != image).sum() + 2 <= gamma * len(x)
        free = (moved != x) & (room | (x != image))
        alpha, beta = slopes(weights, x @ weights + bias, label, target, saliency)
        pair = best_pair(np.sign(theta) * alpha, np.sign(theta) * beta, free)
        if pair is None:
            return None
        x[pair] = moved[pair]
    for value in pair:
        fewer = x.copy()
        fewer[value] = image[value]
        x = fewer if done(fewer) else x
    return x


OPTIONS = [
    (3, dict()),
    (3, dict(saliency="logits")),
    (4, dict(theta=0.2)),
    (4, dict(theta=0.3, saliency="logits", gamma=0.25)),
    (5, dict(theta=-1.0, saliency="logits")),
    (5, dict(gamma=0.25, theta=-0.3)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("num_classes", "options"), OPTIONS, ids=str)
@pytest.mark.parametrize("targeted", [False, True])
def test_changes_the_values_of_the_search_over_all_pairs(num_classes, targeted, options):
    model, weights, bias = linear(num_classes)
    images = np.random.default_rng(1).uniform(0.2, 0.8, (12, len(weights)))
    labels = np.argmax(images @ weights + bias, axis=-1)
    targets = (labels + 1) % num_classes if targeted else None
    attack = attacks.JSMA(target="given" if targeted else "none", **options)
    result = attack(model, images, labels, **({"targets": targets} if targeted else {}))
    expected = [
        reference(weights, bias, image, label, target=int(targets[row]) if targeted else None, **options)
        for row, (image, label) in enumerate(zip(images, labels, strict=True))
    ]
    np.testing.assert_array_equal(result.success, [point is not None for point in expected])
    assert result.success.any()
    for adversarial, image, point in zip(result.adversarials, images, expected, strict=True):
        np.testing.assert_array_equal(adversarial, image if point is None else point)


@pytest.mark.slow
@pytest.mark.parametrize("saliency", ["logits", "probabilities"])
def test_two_linear_classes_are_fooled_by_the_fewest_values(saliency):
    """Where all values have the same way to go, the optimum takes those of the largest slopes."""
    slope = np.random.default_rng(3).normal(size=40)
    model = logits_function(lambda x: tf.linalg.matvec(x, slope)[:, None] * [-1.0, 1.0] + [3.0, -3.0], from_logits=True)
    level = np.linspace(0, 0.7, 12)
    margins = 3 - slope.sum() * level
    gains = np.cumsum(np.sort(slope)[::-1])
    optimum = [1 + np.flatnonzero((1 - c) * gains > margin)[0] for c, margin in zip(level, margins, strict=True)]
    result = attacks.JSMA(saliency=saliency)(model, level[:, None] * np.ones(40), np.zeros(12, int))
    np.testing.assert_array_equal(result.distances, optimum)
    assert result.success.all() and {count % 2 for count in optimum} == {0, 1}


@pytest.mark.slow
@pytest.mark.parametrize("target", ["given", "second", "least_likely", "random"])
def test_with_a_target_that_class_is_predicted(target, digit_model, digits):
    images, labels = digits[2][:60], digits[3][:60]
    targets = {"targets": (labels + 3) % 10} if target == "given" else {}
    result = attacks.JSMA(target=target)(digit_model, images, labels, **targets)
    aims = result.details["targets"]
    assert result.success.sum() >= 40
    np.testing.assert_array_equal(result.predictions[result.success], aims[result.success])
    assert (aims[result.was_correct] != labels[result.was_correct]).all()
    if target == "given":
        np.testing.assert_array_equal(aims[result.was_correct], targets["targets"][result.was_correct])


@pytest.mark.slow
@pytest.mark.parametrize(
    "attack",
    [attacks.JSMA(), attacks.JSMA(theta=-0.5, gamma=0.05), attacks.JSMA(theta=0.3, gamma=0.02, saliency="logits")],
    ids=repr,
)
def test_bounds_numbers_of_values_and_verdicts(attack, digit_model, digits):
    images, labels = digits[2], digits[3]
    result = attack(digit_model, images, labels)
    changed = (result.adversarials != images).reshape(len(images), -1).sum(axis=1)
    adversarial = result.success
    assert result.adversarials.min() >= 0 and result.adversarials.max() <= 1
    np.testing.assert_array_equal(result.distances[adversarial], changed[adversarial])
    assert not changed[~adversarial].any() and np.isinf(result.distances[result.was_correct & ~adversarial]).all()
    assert changed.max() <= attack.gamma * 784
    sign = np.sign(attack.theta)
    assert (sign * (result.adversarials - images) >= 0).all()
    again = digit_model.predict(result.adversarials, verbose=0).argmax(axis=-1)
    np.testing.assert_array_equal(result.success, result.was_correct & (again != labels))
    assert adversarial.any() and (attack.gamma == 1 or not adversarial[result.was_correct].all())


def test_a_value_that_was_not_needed_is_put_back(digit_model, digits):
    result = attacks.JSMA()(digit_model, digits[2], digits[3])
    assert {0, 1} == set(result.distances[result.success] % 2)


@pytest.mark.slow
@pytest.mark.parametrize("saliency", ["logits", "probabilities"])
def test_a_batch_is_its_samples_and_a_sweep_its_calls(saliency, digit_model, digits):
    images, labels = digits[2][:12], digits[3][:12]
    attack = attacks.JSMA(saliency=saliency)
    limited, whole = attack.sweep(digit_model, images, labels, [8, np.inf])
    for row in range(12):
        alone = attack(digit_model, images[row : row + 1], labels[row : row + 1])
        np.testing.assert_array_equal(alone.adversarials[0], whole.adversarials[row])
    np.testing.assert_array_equal(limited.success, whole.success & (whole.distances <= 8))


@pytest.mark.slow
def test_a_constant_model_stands():
    model = logits_function(lambda x: 0 * x @ np.ones((4, 3)) + [0.0, 1.0, 0.0], from_logits=True)
    images = np.full((3, 4), 0.5)
    for options in ({}, {"saliency": "logits"}, {"target": "second"}):
        result = attacks.JSMA(**options)(model, images, [1, 1, 0])
        np.testing.assert_array_equal(result.adversarials, images)
        np.testing.assert_array_equal(result.was_correct, [True, True, False])
        np.testing.assert_array_equal(result.distances, [np.inf, np.inf, 0])
        assert not result.success.any()


def test_a_step_too_small_for_the_dtype_ends():
    model, weights, bias = linear(3)
    images = np.full((1, 20), 0.5)
    result = attacks.JSMA(theta=1e-20)(model, images, np.argmax(images @ weights + bias, axis=-1))
    assert result.was_correct[0] and not result.success[0]


def test_is_traced_once_per_model(digit_model, digits):
    attack = attacks.JSMA()
    for n in (1, 7, 130):
        attack(digit_model, digits[2][:n], digits[3][:n])
    functions = logits_function(digit_model)._compiled
    compiled = [f for (_, static, _), f in functions.items() if attack in static]
    assert len(compiled) == 1 and compiled[0].experimental_get_tracing_count() == 1


def test_color_images_with_many_values():
    """3072 values: a table of all pairs of the batch would take 1.2 GB."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(3072, 10)).astype("float32")
    model = logits_function(lambda x: tf.reshape(x, [-1, 3072]) @ weights, from_logits=True)
    images = rng.uniform(0.3, 0.7, (32, 32, 32, 3)).astype("float32")
    labels = np.argmax(images.reshape(32, -1) @ weights, axis=-1)
    result = attacks.JSMA(saliency="logits")(model, images, labels)
    assert result.success.all() and np.median(result.distances) < 100


CASES = {
    "theta 0": (lambda call: call(theta=0.0), "`theta` should be in .* Received: theta=0.0"),
    "theta beyond the range": (lambda call: call(theta=-1.5), "`theta` should be in"),
    "gamma 0": (lambda call: call(gamma=0.0), r"`gamma` should be in \(0, 1\]. Received: gamma=0.0"),
    "gamma is NaN": (lambda call: call(gamma=float("nan")), "`gamma` should be in"),
    "unknown target": (lambda call: call(target="any"), "`target` should be one of none, least_likely, .*'any'"),
    "unknown saliency": (lambda call: call(saliency="odds"), "`saliency` should be one of logits, probabilities"),
    "targets missing": (lambda call: call(target="given"), "`targets` should be passed with target='given' and only"),
    "targets superfluous": (lambda call: call([1, 1]), "`targets` should be passed with target='given' and only then"),
    "targets that are the labels": (lambda call: call([0, 1], target="given"), "`targets` should differ from the true"),
    "too few targets": (lambda call: call([1], target="given"), "should have shape"),
    "targets out of range": (lambda call: call([1, 3], target="given"), "from 0 to 2. Received: 3"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input(case):
    model, *_ = linear(3)

    def call(targets=None, **options):
        return attacks.JSMA(**options)(model, np.full((2, 20), 0.5), [0, 0], targets=targets)

    run, message = CASES[case]
    with pytest.raises(ValueError, match=message):
        run(call)
