from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from keras_fim import attacks
from keras_fim.logits import logits_function


@pytest.mark.slow
@pytest.mark.parametrize("norm", [1, 2, np.inf])
def test_more_steps_restarts_and_the_best_point_only_help(norm, digit_model, digits):
    images, labels = digits[2], digits[3]
    epsilon = {1: 5.0, 2: 0.7, np.inf: 0.05}[norm]
    last = attacks.PGD(norm=norm, steps=10, keep_best=False)(digit_model, images, labels, epsilon=epsilon)
    best = attacks.PGD(norm=norm, steps=10)(digit_model, images, labels, epsilon=epsilon)
    again = attacks.PGD(norm=norm, steps=10, restarts=3)(digit_model, images, labels, epsilon=epsilon)
    assert (best.success | ~last.success).all() and (again.success | ~best.success).all()
    assert 0 < best.success.sum() < len(images)


@pytest.mark.slow
@pytest.mark.parametrize("attack", [attacks.BIM(), attacks.MIM(), attacks.PGD(steps=5, restarts=2)], ids=repr)
def test_leaving_early_fools_the_same_samples(attack, digit_model, digits):
    images, labels = digits[2], digits[3]
    late = attack(digit_model, images, labels, epsilon=0.05)
    early = dataclasses.replace(attack, stop_early=True)(digit_model, images, labels, epsilon=0.05)
    np.testing.assert_array_equal(early.success, late.success)
    assert (early.distances <= 0.05 + 1e-6).all() and early.success.any()


def test_everyone_may_leave_at_once(digit_model, digits):
    """No model is called on an empty batch."""
    attack = attacks.BIM(stop_early=True)
    wrong = (digit_model.predict(digits[2][:3], verbose=0).argmax(axis=-1) + 1) % 10
    assert not attack(digit_model, digits[2][:3], wrong, epsilon=0.1).success.any()
    (fooled,) = np.nonzero(attack(digit_model, digits[2][:40], digits[3][:40], epsilon=0.2).success)
    assert len(fooled) > 5
    assert attack(digit_model, digits[2][fooled], digits[3][fooled], epsilon=0.2).success.all()


def test_seed_repeats_random_starts(digit_model, digits):
    images, labels = digits[2][:20], digits[3][:20]
    first, second, other = (
        attacks.PGD(steps=1, keep_best=False, seed=seed)(digit_model, images, labels, epsilon=0.1).adversarials
        for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()


@pytest.mark.slow
def test_targeted_margin_takes_another_class_at_each_restart(digit_model, digits):
    images, labels = digits[2][:30], digits[3][:30]
    attack = attacks.PGD(loss="targeted_margin", restarts=9, steps=10)
    plain = attacks.PGD(loss="margin", steps=10)
    assert attack(digit_model, images, labels, epsilon=0.05).success.sum() >= (
        plain(digit_model, images, labels, epsilon=0.05).success.sum()
    )


def counting():
    """A logits function that counts the images it is called on."""
    count = tf.Variable(0)
    weights = tf.constant(np.random.default_rng(0).normal(size=(4, 3)), tf.float32)

    def logits(x):
        count.assign_add(tf.shape(x)[0])
        return x @ weights

    return logits_function(logits, from_logits=True), count


@pytest.mark.parametrize(
    ("attack", "once", "per_epsilon"),
    [
        (attacks.FGSM(), 1, 1),
        (attacks.OSSA(method="exact"), 1, 2),
        (attacks.BIM(steps=10), 1, 10),
        (attacks.PGD(steps=10), 1, 11),
        (attacks.APGD(steps=10), 1, 11),
    ],
    ids=["fgsm", "ossa", "bim", "pgd", "apgd"],
)
def test_no_forward_pass_is_paid_twice(attack, once, per_epsilon):
    logits_fn, count = counting()
    images = np.full((7, 4), 0.5, "float32")
    labels = logits_fn(tf.constant(images)).numpy().argmax(axis=-1)
    attack.sweep(logits_fn, images, labels, [1e-6])
    count.assign(0)
    attack.sweep(logits_fn, images, labels, [1e-6, 2e-6])
    assert int(count) == 7 * (once + 2 * per_epsilon) + 1  # one image to learn the number of classes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": 3}, "`norm` should be one of"),
        ({"steps": 0}, "`steps` should be a positive integer"),
        ({"restarts": 0}, "`restarts` should be a positive integer"),
        ({"step_size": 0.0}, "`step_size` should be a positive number"),
        ({"decay": -1.0}, "`decay` should be a finite number >= 0"),
        ({"loss": "hinge"}, "`loss` should be one of"),
        ({"sparsity": 2.0}, r"`sparsity` should be in \[0, 1\]"),
        ({"keep_best": False, "stop_early": True}, "`stop_early` should be False"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        attacks.PGD(**options)


def test_names():
    named = [attacks.PGD(), attacks.BIM(norm=1), attacks.MIM(), attacks.OTCM(norm=2), attacks.DeepFool()]
    assert [a.name for a in named] == ["pgd_linf", "bim_l1", "mim_linf", "otcm_l2", "deepfool_l2"]


@pytest.mark.parametrize("attack", [attacks.PGD(steps=3), attacks.APGD(steps=3)], ids=["pgd", "apgd"])
def test_the_gradient_is_built_once_and_not_for_the_last_look(attack):
    """The tape's work on a large network takes seconds, also where what it gives is thrown away."""
    built = []

    @tf.custom_gradient
    def watched(points):
        def back(upstream):
            built.append(1)
            return upstream

        return tf.identity(points), back

    kernel = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    function = logits_function(lambda points: watched(points) @ kernel, from_logits=True)
    attack(function, np.full((2, 4), 0.5, "float32"), [0, 1], epsilon=0.1)
    assert len(built) == 1
