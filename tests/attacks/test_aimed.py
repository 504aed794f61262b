"""Attacks that aim at a class: only its prediction is a success, and images of that class are left out."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from scipy.optimize import nnls

from keras_fim import attacks
from keras_fim.attacks.losses import targeted_ratio
from keras_fim.evaluation import evaluate
from keras_fim.logits import logits_function

K, SIZE = 5, 12
RNG = np.random.default_rng(3)
WEIGHTS, IMAGES = RNG.normal(size=(SIZE, K)), RNG.uniform(0.3, 0.7, size=(40, SIZE))
BIAS = -0.5 * WEIGHTS.sum(axis=0)  # so that all classes are there


def logits(images):
    return images @ WEIGHTS + BIAS


LABELS = logits(IMAGES).argmax(axis=-1)
LINEAR = logits_function(logits, from_logits=True)
AIMED = [
    attacks.FGSM(target=2),
    *[attacks.PGD(norm=p, steps=20, target=2) for p in (1, 2, np.inf)],
    attacks.PGD(norm=2, steps=20, loss="targeted_margin", target=2),
    attacks.APGD(steps=20, target=2),
    attacks.APGD(norm=2, steps=20, loss="dlr", target=2),
    attacks.APGD(norm=2, steps=20, loss="dlr_targeted", target=2),
    attacks.CarliniWagner(steps=50, search_steps=4, target=2),
]


def l2_distance_to(target, image):
    """The distance to where a class is the largest, of K linear ones: a least distance problem (Lawson & Hanson)."""
    gaps = np.delete(logits(image) - logits(image)[target], target)
    normals = np.delete(WEIGHTS[:, [target]] - WEIGHTS, target, axis=1)
    system = np.vstack([normals, gaps])
    goal = np.zeros(SIZE + 1)
    goal[-1] = 1
    solution, _ = nnls(system, goal)
    residual = system @ solution - goal
    return np.linalg.norm(residual[:-1] / residual[-1])


@pytest.mark.parametrize("attack", AIMED, ids=lambda attack: f"{attack.name}-{getattr(attack, 'loss', '')}")
def test_only_the_target_counts_and_its_own_images_are_left_out(attack):
    budget = {} if isinstance(attack, attacks.CarliniWagner) else {"epsilon": {1: 3, 2: 1}.get(attack.norm, 0.3)}
    result = attack(LINEAR, IMAGES, LABELS, **budget)
    own = LABELS == 2
    assert own.any() and not result.was_correct[own].any() and result.was_correct[~own].all()
    np.testing.assert_array_equal(result.adversarials[own], IMAGES[own])
    np.testing.assert_array_equal(result.details["target"], 2)
    np.testing.assert_array_equal(result.success, ~own & (logits(result.adversarials).argmax(axis=-1) == 2))
    assert result.success.mean() > 0.5 and attack.name.endswith("_to_2")


@pytest.mark.parametrize(
    "attack",
    [
        attacks.CarliniWagner(bounds=(-4, 4), steps=300, learning_rate=0.005, initial_weight=0.1, target="given"),
        attacks.MinimalDistance(
            attacks.PGD(norm=2, bounds=(-4, 4), steps=40, random_start=False, loss="margin", target="given")
        ),
    ],
    ids=lambda attack: attack.name,
)
def test_the_nearest_point_of_the_target_is_at_the_optimum(attack):
    targets = (LABELS + 1 + np.arange(40) % (K - 1)) % K
    result = attack(LINEAR, IMAGES, LABELS, targets=targets)
    optimum = np.array([l2_distance_to(*pair) for pair in zip(targets, IMAGES, strict=True)])
    assert result.success.all()
    np.testing.assert_array_equal(result.predictions, targets)
    ratio = result.distances / optimum
    assert 0.9999 < ratio.min() and np.median(ratio) < 1.02 and ratio.max() < 1.15, ratio


def test_one_of_two_linear_classes_is_reached_exactly_from_the_optimal_distance_on():
    kernel, bias = WEIGHTS[:, :2], BIAS[:2]
    fn = logits_function(lambda x: x @ kernel + bias, from_logits=True)
    labels = (IMAGES @ kernel + bias).argmax(axis=-1)
    optimum = np.abs((IMAGES @ kernel + bias) @ [1, -1]) / np.abs(kernel @ [1, -1]).sum()
    for epsilon in np.quantile(optimum, [0.2, 0.5, 0.8]):
        result = attacks.FGSM(target=1)(fn, IMAGES, labels, epsilon=epsilon)
        np.testing.assert_array_equal(result.success, (labels == 0) & (optimum < epsilon))


def test_classes_share_what_is_compiled():
    fn = logits_function(logits, from_logits=True)
    for target in range(K):
        attacks.PGD(steps=2, target=target)(fn, IMAGES, LABELS, epsilon=0.1)
    attacks.PGD(steps=2, target="given")(fn, IMAGES, LABELS, epsilon=0.1, targets=np.zeros(40, int))
    assert len(fn._compiled) == 3  # the forward pass, and the two halves


def test_the_row_of_an_evaluation_names_the_target_and_leaves_its_images_out():
    model = keras.Sequential([keras.Input((SIZE,)), keras.layers.Dense(K)])
    model.set_weights([WEIGHTS, BIAS])
    tried = [attacks.FGSM(target=2), attacks.FGSM()]
    result = evaluate(
        model, (IMAGES, LABELS), attacks=tried, epsilons=[0.1], bounds=(0, 1), spectrum=False, progress=None
    )
    aimed, free = result.rows
    own = int((LABELS == 2).sum())
    assert (aimed.attack, aimed.robust.total, free.robust.total) == ("fgsm_to_2", 40 - own, 40)
    assert aimed.fooling.count < free.fooling.count and aimed.fooling.total == 40 - own
    assert aimed.aimed and not aimed.strongest and free.strongest
    assert "fgsm_to_2" not in result.verdict


def test_the_targeted_ratio_is_its_formula_whatever_the_scale():
    logits = RNG.normal(size=(30, 6))
    labels, targets = RNG.integers(6, size=30), RNG.integers(6, size=30)
    ordered = -np.sort(-logits, axis=-1)
    rows = np.arange(30)
    expected = (logits[rows, targets] - logits[rows, labels]) / (ordered[:, 0] - (ordered[:, 2] + ordered[:, 3]) / 2)
    np.testing.assert_allclose(targeted_ratio(logits, labels, targets), expected, rtol=1e-12)
    np.testing.assert_allclose(targeted_ratio(7 * logits + 5, labels, targets), expected, rtol=1e-9)
    np.testing.assert_array_equal(targeted_ratio(np.ones((2, 4)), [0, 1], [1, 2]), 0.0)


@pytest.mark.parametrize("loss", [pytest.param("dlr_targeted", marks=pytest.mark.slow), "targeted_margin"])
def test_another_class_is_tried_where_the_most_probable_one_cannot_be_reached(loss):
    """Class 1 stays 0.1 behind the label, wherever the image goes."""
    kernel = np.random.default_rng(0).normal(size=(SIZE, 4))
    kernel[:, 1] = kernel[:, 0]
    bias = np.array([6.0, 5.9, 0.0, -9.0]) - 0.5 * kernel.sum(axis=0)
    fn = logits_function(lambda x: x @ kernel + bias, from_logits=True)
    images = np.full((6, SIZE), 0.5)
    for count, fooled in ((1, False), (2, True)):
        attack = attacks.APGD(norm=2, loss=loss, num_targets=count, steps=10, stop_early=True)
        result = attack(fn, images, [0] * 6, epsilon=1.6)
        np.testing.assert_array_equal(result.success, fooled)
    np.testing.assert_array_equal(result.predictions, 2)
    perturb = [f for key, f in fn._compiled.items() if key[0].__name__ == "perturb"]
    assert len(perturb) == 2 and all(f.experimental_get_tracing_count() == 1 for f in perturb)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: attacks.FGSM(target=-1), "`target` should be a class >= 0, 'given' or None. Received: target=-1"),
        (lambda: attacks.PGD(target="cat"), "`target` should be a class >= 0, 'given' or None. Received: target='cat'"),
        (lambda: attacks.APGD(target=True), "`target` should be of type int"),
        (lambda: attacks.FGSM(target=K)(LINEAR, IMAGES, LABELS, epsilon=0), "`target` should be a class from 0 to 4"),
        (lambda: attacks.FGSM(target="given")(LINEAR, IMAGES, LABELS, epsilon=0), "`targets` should be passed with"),
        (lambda: attacks.FGSM()(LINEAR, IMAGES, LABELS, epsilon=0, targets=LABELS), "`targets` should be passed with"),
        (lambda: attacks.APGD(num_targets=0), "`num_targets` should be a positive integer"),
    ],
)
def test_bad_targets(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_targeted_ratio_needs_four_classes():
    fn = logits_function(lambda x: x @ WEIGHTS[:, :3], from_logits=True)
    attack = attacks.APGD(loss="dlr_targeted", steps=2)
    for tried in (attack, attacks.MinimalDistance(attack)):
        with pytest.raises(
            ValueError, match="`model` should have at least 4 classes for .*apgd_t_linf. Received: a mo"
        ):
            tried(
                fn, IMAGES, (IMAGES @ WEIGHTS[:, :3]).argmax(axis=-1), **({} if tried is not attack else {"epsilon": 1})
            )
