"""The nearest adversarial of a linear classifier is known; attacks have to find it."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_fim import attacks
from keras_fim.logits import logits_function

WIDE = (-100.0, 100.0)
DUAL = {1: np.inf, 2: 2, np.inf: 1}


def linear(num_classes, shape=(20,)):
    """A linear softmax model, images, their classes, and a function: the distance to the nearest boundary."""
    layers = [keras.layers.Flatten(), keras.layers.Dense(num_classes), keras.layers.Softmax()]
    model, size = keras.Sequential([keras.Input(shape), *layers]), int(np.prod(shape))
    rng = np.random.default_rng(num_classes)
    model.set_weights([rng.normal(size=(size, num_classes)), rng.normal(size=num_classes)])
    images = rng.normal(size=(16, *shape)).astype("float32")
    kernel, bias = model.get_weights()
    logits = images.reshape(16, size) @ kernel + bias
    labels = logits.argmax(axis=-1)

    def optimum(norm):
        gaps = logits[np.arange(16), labels][:, None] - logits
        slopes = np.linalg.norm(kernel[:, :, None] - kernel[:, None, :], ord=DUAL[norm], axis=0)[labels]
        with np.errstate(invalid="ignore"):
            return np.nanmin(np.where(np.arange(num_classes) == labels[:, None], np.nan, gaps / slopes), axis=-1)

    return model, images, labels, optimum


@pytest.mark.parametrize("num_classes", [2, 5])
@pytest.mark.parametrize("norm", [2, np.inf])
def test_deepfool_is_at_the_optimum(num_classes, norm):
    model, images, labels, optimum = linear(num_classes)
    attack = attacks.DeepFool(norm=norm, bounds=WIDE, overshoot=1e-3)
    result = attack(model, images, labels)
    assert result.success.all()
    np.testing.assert_array_less(optimum(norm) * 0.9999, result.distances)
    np.testing.assert_array_less(result.distances, optimum(norm) * 1.05)


@pytest.mark.parametrize("num_classes", [2, 5])
def test_carlini_wagner_is_at_the_optimum(num_classes):
    model, images, labels, optimum = linear(num_classes)
    attack = attacks.CarliniWagner(bounds=(-4.0, 4.0), steps=300, learning_rate=0.002, initial_weight=0.1)
    result = attack(model, images, labels)
    assert result.success.all()
    np.testing.assert_array_less(optimum(2) * 0.9999, result.distances)
    np.testing.assert_array_less(result.distances, optimum(2) * 1.05)


@pytest.mark.parametrize("num_classes", [2, 5])
@pytest.mark.parametrize("norm", [1, 2, np.inf])
def test_fast_minimum_norm_is_at_the_optimum(num_classes, norm):
    """The margin leads to the nearest boundary where it is the class ahead; hence the two classes' tighter bound."""
    model, images, labels, optimum = linear(num_classes)
    result = attacks.FMN(norm=norm, bounds=WIDE, step_size=1 / 200, steps=200)(model, images, labels)
    assert result.success.all()
    np.testing.assert_array_less(optimum(norm) * 0.9999, result.distances)
    ratio = result.distances / optimum(norm)
    assert ratio.max() < 1.05 if num_classes == 2 else np.median(ratio) < 1.05


@pytest.mark.slow
@pytest.mark.parametrize("num_classes", [2, 5])
@pytest.mark.parametrize("norm", [1, 2, np.inf])
def test_minimal_pgd_is_at_the_optimum(num_classes, norm):
    """One restart for each wrong class: the loss alone does not tell which boundary is nearest."""
    model, images, labels, optimum = linear(num_classes)
    pgd = attacks.PGD(
        norm=norm, steps=10, loss="targeted_margin", restarts=num_classes - 1, random_start=False, bounds=WIDE
    )
    result = attacks.MinimalDistance(pgd, largest=50.0)(model, images, labels)
    assert result.success.all()
    np.testing.assert_array_less(optimum(norm) * 0.9999, result.distances)
    np.testing.assert_array_less(result.distances, optimum(norm) * 1.05)


@pytest.mark.parametrize(
    ("attack", "norm"),
    [(attacks.FGM(bounds=WIDE), 2), (attacks.OSSA(bounds=WIDE), 2), (attacks.FGSM(bounds=WIDE), np.inf)],
    ids=["fgm", "ossa", "fgsm"],
)
def test_minimal_one_step_attacks_are_exact_for_two_classes(attack, norm):
    model, images, labels, optimum = linear(2)
    result = attacks.MinimalDistance(attack, largest=50.0, rtol=1e-3)(model, images, labels)
    rounding = (WIDE[1] - WIDE[0]) * np.finfo("float32").eps / 2  # of unit coordinates
    np.testing.assert_allclose(result.distances, optimum(norm), rtol=2e-3, atol=rounding)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["cross_entropy", "dlr"])
@pytest.mark.parametrize("norm", [2, np.inf])
def test_apgd_fools_two_classes_from_the_optimum_on(norm, loss):
    model, images, labels, optimum = linear(2)
    attack = attacks.APGD(norm=norm, loss=loss, steps=20, bounds=WIDE)
    result = attacks.MinimalDistance(attack, largest=50.0)(model, images, labels)
    assert result.success.all()
    np.testing.assert_array_less(optimum(norm) * 0.9999, result.distances)
    np.testing.assert_array_less(result.distances, optimum(norm) * 1.03)


@pytest.mark.parametrize("norm", [pytest.param(2, marks=pytest.mark.slow), np.inf])
def test_strong_fools_five_classes_from_the_optimum_on(norm):
    model, images, labels, optimum = linear(5, (4, 5, 1))
    attack = attacks.Strong(norm=norm, quick=True, bounds=WIDE)
    result = attacks.MinimalDistance(attack, largest=50.0)(model, images, labels)
    assert result.success.all()
    np.testing.assert_array_less(optimum(norm) * 0.9999, result.distances)
    np.testing.assert_array_less(result.distances, optimum(norm) * 1.05)


@pytest.mark.parametrize("norm", [1, 2, np.inf])
@pytest.mark.parametrize("attack", [attacks.PGD(loss="margin"), attacks.APGD(restarts=2)], ids=["pgd", "apgd"])
def test_an_island_is_reached_however_large_the_budget(attack, norm):
    """Steps in proportion to an ε beyond the bounds would lead from corner to corner of the square."""
    center, images = np.array([0.4, 0.6], "float32"), np.random.default_rng(0).uniform(size=(30, 2)).astype("float32")
    images = images[np.linalg.norm(images - center, axis=-1) > 0.1]

    def logits(x):
        margin = 0.01 - tf.reduce_sum((x - center) ** 2, axis=-1)
        return tf.stack([tf.zeros_like(margin), 10 * margin], axis=-1)

    fn, labels = logits_function(logits, from_logits=True), np.zeros(len(images), int)
    results = [dataclasses.replace(attack, norm=norm)(fn, images, labels, epsilon=epsilon) for epsilon in (2.0, 1e4)]
    np.testing.assert_array_equal(results[0].adversarials, results[1].adversarials)
    assert results[0].fooling_ratio > 0.85


@pytest.mark.parametrize("norm", [1, 2, np.inf])
@pytest.mark.parametrize("attack", [attacks.PGD(loss="margin"), attacks.APGD(restarts=2)], ids=["pgd", "apgd"])
def test_next_to_the_farthest_corner_is_within_reach(attack, norm):
    weights, images = tf.constant([[0.0, 1.0], [0.0, 1.0]]), np.array([[0.1, 0.1], [0.2, 0.1]], "float32")
    fn = logits_function(lambda x: x @ weights - tf.constant([[0.0, 1.9]]), from_logits=True)
    result = dataclasses.replace(attack, norm=norm)(fn, images, [0, 0], epsilon=10.0)
    assert result.success.all() and (result.adversarials.sum(axis=-1) > 1.9).all()


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_fast_minimum_norm_is_at_the_optimum_at_any_scale_of_the_logits(scale):
    kernel, images = np.random.default_rng(0).normal(size=(20, 2)), np.full((4, 20), 0.5, "float32")
    images += np.random.default_rng(1).uniform(-0.1, 0.1, size=images.shape)
    weights, gaps = tf.constant(scale * kernel, tf.float32), (images - 0.5) @ (kernel[:, 1] - kernel[:, 0])
    fn = logits_function(lambda x: (x - 0.5) @ weights, from_logits=True)
    result = attacks.FMN()(fn, images, (gaps > 0).astype(int))
    np.testing.assert_allclose(result.distances, np.abs(gaps) / np.linalg.norm(kernel[:, 1] - kernel[:, 0]), rtol=0.01)


def test_square_comes_near_the_optimum_of_two_classes():
    """In l∞ the optimum is a corner of the cube, which random squares reach."""
    model, images, labels, optimum = linear(2, (4, 5, 1))
    attack = attacks.Square(queries=400, bounds=WIDE)
    result = attacks.MinimalDistance(attack, largest=50.0)(model, images, labels)
    assert result.success.all()
    np.testing.assert_array_less(optimum(np.inf) * 0.9999, result.distances)
    np.testing.assert_array_less(result.distances, optimum(np.inf) * 1.05)


@pytest.mark.parametrize(("norm", "epsilon", "worst"), [(1, 1.5, 0.99), (2, 2.0, 0.99), (np.inf, 0.3, 0.999)])
def test_pgd_spends_the_budget_near_the_bounds(norm, epsilon, worst):
    """On two linear classes, with a third of the pixels next to a bound, by how much the margin could rise at most."""
    rng = np.random.default_rng(0)
    images, weights = rng.beta(0.4, 0.4, size=(100, 36)), rng.normal(size=(36, 2))
    fn = logits_function(lambda x: x @ weights, from_logits=True)
    labels = (images @ weights).argmax(axis=-1)
    slopes = (weights[:, 1] - weights[:, 0]) * np.where(labels == 0, 1, -1)[:, None]
    room, steep = np.where(slopes > 0, 1 - images, images), np.abs(slopes)
    if norm == 1:  # a knapsack: the steepest values first
        order = np.argsort(-steep, axis=1)
        sorted_room = np.take_along_axis(room, order, 1)
        spent = np.clip(epsilon - (np.cumsum(sorted_room, axis=1) - sorted_room), 0, sorted_room)
        optimum = (spent * np.take_along_axis(steep, order, 1)).sum(axis=1)
    elif norm == 2:
        low, high = np.zeros((100, 1)), np.full((100, 1), 1e3)
        for _ in range(60):
            middle = (low + high) / 2
            long = np.linalg.norm(np.minimum(middle * steep, room), axis=1, keepdims=True) > epsilon
            low, high = np.where(long, low, middle), np.where(long, middle, high)
        optimum = (np.minimum(low * steep, room) * steep).sum(axis=1)
    else:
        optimum = (np.minimum(epsilon, room) * steep).sum(axis=1)
    result = attacks.PGD(norm=norm)(fn, images, labels, epsilon=epsilon)
    share = ((result.adversarials - images) * slopes).sum(axis=1) / optimum
    print(f"l{norm}: {np.median(share):.4f} of the optimum in the median, {share.min():.4f} at least")
    assert worst <= share.min() <= share.max() <= 1 + 1e-9
