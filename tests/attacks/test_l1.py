"""APGD, Square and the staged attacks in l1, where a linear program is the oracle."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from keras_fim import attacks
from keras_fim.attacks.apgd import SparseClimb
from keras_fim.attacks.square import eta
from keras_fim.evaluation.plans import default_attacks, stated_gradients
from keras_fim.logits import logits_function
from tests.attacks.test_square import asked
from tests.oracles import near_bounds, nearest_boundary


def linear(num_classes, count=30, size=36):
    """Linear classes, images with many values next to a bound, labels, and l1 distances to the nearest boundary."""
    weights, images = np.random.default_rng(num_classes).normal(size=(size, num_classes)), near_bounds(count, size)
    fn = logits_function(lambda x: tf.reshape(x, [-1, size]) @ weights, from_logits=True)
    return fn, images, (images @ weights).argmax(axis=-1), nearest_boundary(images, weights, 1)


@pytest.mark.parametrize(
    ("num_classes", "options"), [(2, {}), (10, {"loss": "targeted_margin", "num_targets": 5})], ids=["2", "10"]
)
def test_apgd_is_within_two_per_cent_of_the_optimum_inside_the_bounds(num_classes, options):
    fn, images, labels, optimum = linear(num_classes)
    attack = attacks.APGD(norm=1, **options)
    problem, perturb = attack._problem(fn, images, labels), attack._function(attacks.APGD.perturb, fn)
    for factor, fooled in ((0.999, False), (1.02, True)):
        task = problem.task._replace(epsilon=tf.constant(factor * optimum))
        reached = perturb(task, (fn(task.images),))
        points = reached.adversarials.numpy()
        assert (np.abs(points - images).sum(axis=1) <= factor * optimum * (1 + 1e-9)).all()
        assert points.min() >= 0 and points.max() <= 1
        np.testing.assert_array_equal(reached.logits.numpy().argmax(axis=-1) != labels, fooled)


def test_a_step_changes_as_many_values_as_it_should_and_its_length_follows_the_best_point():
    images, near = np.full((2, 8), 0.5), np.full((2, 8), 0.55)
    task = attacks.APGD()._problem(logits_function(lambda x: x[:, :2], from_logits=True), images, [0, 0]).task
    task = task._replace(epsilon=tf.constant([2.0, 2.0], tf.float64))
    climb = SparseClimb.start(task, tf.constant(near))
    np.testing.assert_allclose(climb.width, 8 / 1.5)
    slopes, loss = tf.constant([[8.0, -7, 6, 5, 4, 3, 2, 1]] * 2, tf.float64), tf.ones(2, tf.float64)
    climb = climb.looked(climb.here._replace(gradient=slopes, loss=loss)).moved(
        tf.constant(1), task, attacks.APGD(norm=1)
    )
    np.testing.assert_array_equal(np.sign(climb.here.point - near)[:, :5], [[1, -1, 1, 1, 1]] * 2)
    sparse = climb.peak._replace(point=tf.constant(images + 0.5 * np.eye(8)[:2]))
    for peak, length, changed, there in (
        (climb.peak, 2 / 1.5, 8, climb.here.point),  # as dense as before: shorter steps
        (sparse, 2.0, 1, sparse.point),  # sparser: back to it, with long steps
    ):
        checked = climb._replace(peak=peak).checked(task, tf.constant(0.0))
        np.testing.assert_allclose(checked.length, length)
        np.testing.assert_allclose(checked.width, changed / 1.5)
        np.testing.assert_array_equal(checked.here.point, there)
    short = climb._replace(length=tf.constant([0.21, 0.21], tf.float64)).checked(task, tf.constant(0.0))
    np.testing.assert_allclose(short.length, 0.2)


def test_square_spends_the_budget_on_sharper_patterns():
    points, images = asked((9, 12, 3), 20, norm=1, epsilon=3.0)
    spent = np.abs(points - images[:, None]).reshape(6, 20, -1).sum(axis=-1)
    np.testing.assert_allclose(spent, 3.0, rtol=1e-9)
    for side in (1, 2, 5, 8):
        assert np.abs(eta(side, 1)).sum() == pytest.approx(1)
    assert eta(9, 1).max() / np.median(np.abs(eta(9, 1))) > 5 * eta(9).max() / np.median(np.abs(eta(9)))


@pytest.mark.slow
def test_autoattack_and_strong_fool_linear_classes_from_the_optimum_on():
    fn, images, labels, optimum = linear(4, count=12, size=20)
    images, epsilon = images.reshape(12, 4, 5, 1), float(np.median(optimum))
    for attack in (attacks.AutoAttack(norm=1), attacks.Strong(norm=1, quick=True)):
        result = attack(fn, images, labels, epsilon=epsilon)
        assert result.success[optimum < 0.98 * epsilon].all() and not result.success[optimum > 1.0001 * epsilon].any()
        assert (result.distances <= epsilon * (1 + 1e-9)).all() and 0 < result.fooling_ratio < 1


def test_the_l1_version_has_five_restarts_and_five_targets():
    stages = attacks.AutoAttack(norm=1).attacks(10)
    assert (stages["apgd_ce"].restarts, stages["apgd_t"].num_targets, stages["fab_t"].num_targets) == (5, 5, 9)
    assert stages["square"].queries == 5000 and all(stage.norm == 1 for stage in stages.values())
    assert [attacks.Strong(norm=norm).attacks()["apgd_ce"].restarts for norm in (1, 2)] == [5, 1]


def test_budgets_in_l1_ask_for_the_strong_attack_in_l1():
    assert [attack.name for attack in default_attacks({"l1": 10, "l2": 1})] == ["strong_l1", "fgm", "strong_l2"]
    assert [attack.name for attack in default_attacks({"l1": 10}, autoattack=True)] == ["autoattack_l1"]
    assert stated_gradients(attacks.AutoAttack(version="rand")) == 2 * 20 * 100
