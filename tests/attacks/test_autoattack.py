from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_fim import attacks
from keras_fim.evaluation import flags
from keras_fim.logits import logits_function

EPSILONS = {2: [1.0, 0.3], np.inf: [0.08, 0.02]}


def linear(num_classes):
    """Linear classes on images of 4x5 pixels far from their bounds, and the distances to the nearest boundary."""
    rng = np.random.default_rng(num_classes)
    weights, images = rng.normal(size=(20, num_classes)), rng.uniform(0.45, 0.55, size=(30, 4, 5, 1))
    bias = -0.5 * weights.sum(axis=0)
    fn = logits_function(lambda x: tf.reshape(x, [-1, 20]) @ weights + bias, from_logits=True)
    logits = images.reshape(30, 20) @ weights + bias
    labels = logits.argmax(axis=-1)
    gaps = logits.max(axis=-1)[:, None] - logits
    steep = weights[:, :, None] - weights[:, None, :]

    def optimum(norm):
        slopes = np.linalg.norm(steep, ord=2 if norm == 2 else 1, axis=0)[labels]
        rivals = np.arange(num_classes) != labels[:, None]
        return np.min(gaps / np.where(rivals, slopes, 1), axis=-1, where=rivals, initial=np.inf)

    return fn, images, labels, optimum


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "num_classes"), [(2, 2), (2, 10), (np.inf, 3)])
def test_linear_classes_are_fooled_from_the_optimum_on(norm, num_classes):
    fn, images, labels, optimum = linear(num_classes)
    distances, epsilon = optimum(norm), float(np.median(optimum(norm)))
    attack = attacks.AutoAttack(norm=norm)
    result = attack(fn, images, labels, epsilon=epsilon)
    assert result.success[distances < 0.99 * epsilon].all() and not result.success[distances > epsilon * 1.0001].any()
    assert (result.distances <= epsilon * (1 + 1e-6)).all()
    assert sum(attack.shares(result).values()) == pytest.approx(result.fooling_ratio) and result.fooling_ratio > 0.4
    tried = {key[0].__name__ for key in fn._compiled if key[0].__name__ in ("perturb", "search")}
    assert tried == {"perturb", "search"}


def test_the_stages_are_those_that_the_number_of_classes_allows():
    attack = attacks.AutoAttack(norm=2)
    for num_classes, names, losses in [
        (10, ["apgd_ce", "apgd_t", "fab_t", "square"], ["cross_entropy", "dlr_targeted"]),
        (3, ["apgd_ce", "apgd_dlr", "apgd_t", "fab_t", "square"], ["cross_entropy", "dlr", "targeted_margin"]),
        (2, ["apgd_ce", "apgd_t", "fab_t", "square"], ["cross_entropy", "targeted_margin"]),
    ]:
        stages = attack.attacks(num_classes)
        assert list(stages) == names and set(names) <= set(attack.stages)
        assert [stage.loss for stage in stages.values() if isinstance(stage, attacks.APGD)] == losses
        assert all(stages[name].steps == 100 for name in names[:-1])
        assert (stages["square"].queries, stages["fab_t"].num_targets, stages["apgd_t"].num_targets) == (5000, 9, 9)
        assert all(stage.norm == 2 for stage in stages.values())


@pytest.mark.parametrize(
    "norm", [pytest.param(2, marks=pytest.mark.nightly), pytest.param(np.inf, marks=pytest.mark.slow)]
)
def test_success_grows_with_epsilon_and_is_at_least_that_of_others(norm, digit_model, digits):
    images, labels = digits[2][:12], digits[3][:12]
    attack, epsilons = attacks.AutoAttack(norm=norm), EPSILONS[norm]
    results = attack.sweep(digit_model, images, labels, epsilons)
    for epsilon, result in zip(epsilons, results, strict=True):
        assert (result.distances <= epsilon + 1e-6).all()
        assert result.adversarials.min() >= 0 and result.adversarials.max() <= 1
        again = digit_model.predict(result.adversarials, verbose=0).argmax(axis=-1)
        np.testing.assert_array_equal(result.success, result.was_correct & (again != labels))
        alone = attacks.APGD(norm=norm, loss="dlr", stop_early=True)(digit_model, images, labels, epsilon=epsilon)
        assert result.success.sum() >= alone.success.sum() - 1
        near = attacks.FMN(norm=norm)(digit_model, images, labels)
        assert (near.success & (near.distances <= 0.99 * epsilon) & ~result.success).sum() <= 1
    largest, smallest = (result.success for result in results)
    assert (largest >= smallest).all() and largest.sum() > smallest.sum()


@pytest.mark.nightly
def test_what_fmn_reaches_strong_reaches(digit_model, digits):
    """An image whose nearest adversarial by FMN lies within ε is fooled."""
    images, labels = digits[2][:60], digits[3][:60]
    for norm, epsilon in ((2, 0.5), (np.inf, 0.04)):
        near = attacks.FMN(norm=norm)(digit_model, images, labels, epsilon=epsilon)
        result = attacks.Strong(norm=norm)(digit_model, images, labels, epsilon=epsilon)
        assert near.success.any() and (result.success | ~near.success).all()


def noisy(num_classes, std=0.2):
    """Linear classes behind Gaussian noise, images and their classes without the noise."""
    rng, noise = np.random.default_rng(num_classes), keras.layers.GaussianNoise(std, seed=1)
    weights, images = rng.normal(size=(20, num_classes)), rng.uniform(size=(200, 4, 5, 1)).astype("float32")
    kernel = tf.constant(weights, tf.float32)
    fn = logits_function(lambda x: tf.reshape(noise(x, training=True), [-1, 20]) @ kernel, from_logits=True)
    return fn, images, (images.reshape(200, 20) @ weights).argmax(axis=-1)


def test_random_outputs_are_refused():
    fn, images, labels = noisy(3)
    with pytest.raises(
        ValueError, match="`model` should return the same logits in two passes .*: random outputs.*rand"
    ):
        attacks.AutoAttack()(fn, images, labels, epsilon=0.1)


def test_a_model_of_few_random_states_is_refused_even_if_two_passes_agree():
    turn = tf.Variable(-1)  # the first passes happen to be alike

    def logits(x):
        turn.assign_add(1)
        return x[:, :3] + tf.where(turn >= 4, 0.1, 0.0) * x[:, 1:4]

    images = np.random.default_rng(0).uniform(size=(8, 4)).astype("float32")
    with pytest.raises(ValueError, match="random outputs"):
        attacks.AutoAttack()(
            logits_function(logits, from_logits=True), images, images[:, :3].argmax(axis=-1), epsilon=0.1
        )


def noisy_sigmoid(bounds, least):
    """The logit of one sigmoid behind a rescaling and Gaussian noise, and images at which it is at least so large."""
    span, noise = bounds[1] - bounds[0], keras.layers.GaussianNoise(0.2, seed=1)
    weights, images = np.random.default_rng(0).normal(size=(20, 1)), np.random.default_rng(1).uniform(size=(200, 20))
    kernel = tf.constant(weights, tf.float32)

    def logit(x):
        return (noise((x - bounds[0]) / span, training=True) - 0.5) @ kernel

    margins = (images - 0.5) @ weights[:, 0]
    far = np.abs(margins) > least
    pixels = (bounds[0] + span * images[far]).astype("float32")
    return logits_function(logit, from_logits=True), pixels, (margins[far] > 0).astype(int)


def test_random_outputs_of_one_sigmoid_are_refused():
    """Its logits are (0, z), and those of two passes differ in more than a sign."""
    model, images, labels = noisy_sigmoid((0.0, 1.0), 1.7)
    with pytest.raises(ValueError, match="random outputs"):
        attacks.AutoAttack()(model, images[:8], labels[:8], epsilon=0.1)
    assert "random outputs" in flags.outputs_flags(model, images[:8], labels[:8])[0]
    still = logits_function(lambda x: tf.nn.sigmoid(x[:, :1] - 0.5), from_logits=False)
    assert flags.outputs_flags(still, tf.constant(images), labels) == []


def test_the_verdict_of_many_draws_stands_whatever_the_bounds():
    """A single draw at the end would call some fooled that the draws did not, and some not that they did."""
    for bounds in ((0.0, 1.0), (-127.5, 127.5)):
        model, images, labels = noisy_sigmoid(bounds, 0.5)
        attack = attacks.AutoAttack(version="rand", bounds=bounds)
        result = attack(model, images, labels, epsilon=0.15 * (bounds[1] - bounds[0]))
        np.testing.assert_array_equal(result.success, result.details["stage"] >= 0)
        assert 5 < result.success.sum() and (result.details["stage"] == -3).sum() > 5


@pytest.mark.slow
@pytest.mark.parametrize(("num_classes", "epsilon"), [(4, 0.15), (2, 0.3)])
def test_under_rand_successes_repeat_themselves(num_classes, epsilon):
    fn, images, labels = noisy(num_classes)
    attack = attacks.AutoAttack(version="rand")
    result = attack(fn, images, labels, epsilon=epsilon)
    stage, wrong = result.details["stage"], [fn(result.adversarials).numpy().argmax(-1) != labels for _ in range(20)]
    repeated = np.sum(wrong, axis=0) > 10
    published = (stage >= 0) | (stage == -3)
    print(f"{result.success.sum()} of {published.sum()} hold; {repeated[result.success].mean():.3f} repeat themselves")
    np.testing.assert_array_equal(result.success, stage >= 0)
    assert 20 < result.success.sum() < published.sum() and set(stage) <= {-3, -1, 0, 1}
    assert repeated[result.success].mean() >= 0.95 > repeated[published].mean()
    assert (result.distances <= epsilon + 1e-6).all()
    assert sum(attack.shares(result).values()) == pytest.approx(result.fooling_ratio)
    assert [stage.loss for stage in attack.attacks(num_classes).values()] == ["cross_entropy", "dlr"]


def test_gradients_are_the_mean_over_the_draws():
    """Each pass has the next of two slopes: their mean fools where neither of the two alone does."""
    turn, kernel = tf.Variable(0), tf.constant([[4.0, -3.0], [-3.0, 4.0]])

    def logits(x):
        turn.assign_add(1)
        margin = 1.0 - tf.linalg.matvec(x - 0.5, kernel[turn % 2])
        return tf.stack([margin, tf.zeros_like(margin)], axis=-1)

    fn, images = logits_function(logits, from_logits=True), np.full((1, 2), 0.5, "float32")
    alone, mean = (
        attacks.APGD(steps=20, eot_draws=draws)(fn, images, [0], epsilon=0.4).adversarials for draws in (1, 20)
    )
    assert mean[0] == pytest.approx([0.9, 0.9], abs=1e-6) and alone[0] != pytest.approx([0.9, 0.9], abs=1e-6)


def test_bad_options():
    with pytest.raises(ValueError, match="`version` should be one of standard, rand. Received: version='plus'"):
        attacks.AutoAttack(version="plus")
    with pytest.raises(ValueError, match="`norm` should be one of 1, 2, np.inf"):
        attacks.AutoAttack(norm=0)
