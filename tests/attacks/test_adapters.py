"""CleverHans, Foolbox and ART behind our contract, and beside our own attacks."""

from __future__ import annotations

import functools
import gc
import sys
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_fim import attacks, models
from keras_fim.attacks import CleverHans
from keras_fim.attacks.adapters import cleverhans, foreign
from keras_fim.logits import logits_function

pytestmark = pytest.mark.slow  # the other libraries run eagerly

SMALL = {"nb_iter": 4}
BUDGETED = [
    CleverHans("fast_gradient_method"),
    CleverHans("fast_gradient_method", norm=1),
    CleverHans("fast_gradient_method", norm=2),
    CleverHans("projected_gradient_descent", **SMALL),
    CleverHans("projected_gradient_descent", norm=2, rand_init=True, **SMALL),
    CleverHans("basic_iterative_method", **SMALL),
    CleverHans("momentum_iterative_method", norm=2, **SMALL),
    CleverHans("madry_et_al", **SMALL),
    CleverHans("spsa", nb_iter=10, learning_rate=0.05, spsa_samples=32, early_stop_loss_threshold=0.0),
]
CARLINI = {"max_iterations": 40, "learning_rate": 0.1, "binary_search_steps": 4}


def count(attack):
    """SPSA attacks one image after the other."""
    return 3 if "spsa" in attack.name else 30


def foolbox():
    return pytest.importorskip("foolbox", reason="Foolbox comes with the extra [peers]")


def evasion():
    return pytest.importorskip("art.attacks.evasion", reason="ART comes with the extra [peers]")


def check_contract(attack, model, images, labels):
    epsilons = (0.0, 0.3, 20.0)
    for epsilon, result in zip(epsilons, attack.sweep(model, images, labels, epsilons), strict=True):
        assert result.adversarials.min() >= 0 and result.adversarials.max() <= 1
        perturbation = (result.adversarials.astype(np.float64) - images).reshape(len(images), -1)
        np.testing.assert_allclose(result.distances, np.linalg.norm(perturbation, ord=attack.norm, axis=1), rtol=1e-12)
        assert (result.distances <= epsilon + 1e-6 * max(1, epsilon)).all()
        again = model.predict(result.adversarials, verbose=0).argmax(axis=-1)
        np.testing.assert_array_equal(result.success, result.was_correct & (again != labels))
        assert result.details["projected"].shape == (len(images),)
        if not epsilon:
            np.testing.assert_array_equal(result.adversarials, images)
    return result


@pytest.mark.parametrize("attack", BUDGETED, ids=lambda attack: attack.name)
def test_every_fixed_budget_attack_of_cleverhans_works(attack, digit_model, digits):
    images, labels = digits[2][: count(attack)], digits[3][: count(attack)]
    widest = check_contract(attack, digit_model, images, labels)
    if attack.norm != 1:  # one pixel only
        assert widest.fooling_ratio >= 0.6
    alone = attack(digit_model, images[:3], labels[:3], epsilon=0.1)
    again = attack(digit_model, images[:3], labels[:3], epsilon=0.1)
    np.testing.assert_array_equal(alone.adversarials, again.adversarials)


def loss_gradients(logits_fn, images, labels):
    images = tf.constant(images)
    with tf.GradientTape() as tape:
        tape.watch(images)
        logits = logits_fn(images)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    return tape.gradient(loss, images).numpy()


OURS = {"random_start": False, "keep_best": False, "clip_first": True, "steps": 5, "step_size": 0.4}
THEIRS = {"nb_iter": 5, "step_size": 0.4}


@pytest.fixture(scope="module")
def digit_model_float64(digit_model):
    """`digit_model` computing in float64."""
    keras.mixed_precision.set_global_policy("float64")
    model = models.convnet(filters=(8, 16))
    model.set_weights(digit_model.get_weights())
    return model


@pytest.mark.parametrize(
    ("own", "theirs", "epsilon"),
    [
        (attacks.FGSM(), CleverHans("fast_gradient_method"), 0.1),
        (attacks.FGM(), CleverHans("fast_gradient_method", norm=2), 1.0),
        (attacks.PGD(**OURS), CleverHans("projected_gradient_descent", **THEIRS), 0.1),
        (attacks.PGD(norm=2, **OURS), CleverHans("projected_gradient_descent", norm=2, **THEIRS), 1.0),
    ],
    ids=["fgsm", "fgm", "pgd_linf", "pgd_l2"],
)
def test_ours_and_cleverhans_agree_pixel_by_pixel(own, theirs, epsilon, digit_model, digit_model_float64, digits):
    """Where the gradient is large enough for CleverHans, which shortens l2 steps of smaller ones.

    The l2 steps in float64, and few of each: they carry a gradient's rounding far.
    """
    images, labels = digits[2], digits[3]
    model = digit_model_float64 if own.norm == 2 else digit_model
    gradients = loss_gradients(logits_function(model), images, labels)
    sure = np.linalg.norm(gradients, axis=(1, 2))[:, 0] > 1e-4
    assert sure.mean() > 0.9
    mine, other = (attack(model, images, labels, epsilon=epsilon) for attack in (own, theirs))
    equal = np.abs(mine.adversarials - other.adversarials)[sure] <= 1e-5
    assert equal.mean() >= 0.999
    assert mine.fooling_ratio == pytest.approx(other.fooling_ratio, abs=0.011)


def test_the_gradient_is_right_where_that_of_rounded_probabilities_is_not(digit_model, digits):
    """Confident samples: ours is the gradient of the log-odds, and CleverHans' that of a loss made of them."""
    images, labels = digits[2], digits[3]
    keras.mixed_precision.set_global_policy("float64")
    double = models.convnet(filters=(8, 16))
    double.set_weights(digit_model.get_weights())
    features = keras.Model(double.input, double.layers[-3].output)  # what follows is float32 in any case
    kernel, bias = (tf.cast(weight, tf.float64) for weight in double.layers[-2].get_weights())
    gradients = loss_gradients(lambda x: features(x) @ kernel + bias, images.astype("float64"), labels)
    truth = np.clip(images + gradients / np.linalg.norm(gradients, axis=(1, 2), keepdims=True), 0, 1)
    rounded = {"loss_fn": tf.nn.sparse_softmax_cross_entropy_with_logits}
    methods = (attacks.FGM(), *(CleverHans("fast_gradient_method", norm=2, **options) for options in ({}, rounded)))
    mine, theirs, plain = (
        np.abs(method(digit_model, images, labels, epsilon=1).adversarials - truth).max(axis=(1, 2, 3))
        for method in methods
    )
    large = np.linalg.norm(gradients, axis=(1, 2))[:, 0] > 1e-4
    assert mine.max() < 1e-5 and theirs[large].max() < 1e-5 < plain[large].max()


def test_carlini_wagner_of_cleverhans_optimizes_in_every_round(digit_model, digits):
    """True labels are no targets, and the learning rate outlives the reset between rounds of the binary search."""
    images, labels = digits[2][:30], digits[3][:30]
    attack = CleverHans("carlini_wagner_l2", **CARLINI)
    assert attack.name == "cleverhans_carlini_wagner_l2"
    result = attack(digit_model, images, labels)
    assert result.fooling_ratio > 0.9
    one_step = attacks.MinimalDistance(attacks.FGM())(digit_model, images, labels)
    assert 0.2 < np.median(result.distances[result.success]) < np.median(one_step.distances[result.success])
    rounds = [{**CARLINI, "initial_const": 1e-3, "binary_search_steps": steps} for steps in (1, 4)]
    first, last = (
        CleverHans("carlini_wagner_l2", **options)(digit_model, images[:8], labels[:8]) for options in rounds
    )
    assert not first.success.any() and last.fooling_ratio > 0.5  # each round's constant is ten times as large


def test_carlini_wagner_of_cleverhans_sweeps_and_takes_color_images():
    model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten(), keras.layers.Dense(3)])
    images = np.random.default_rng(0).uniform(size=(6, 4, 4, 3)).astype("float32")
    labels = model(images).numpy().argmax(axis=-1)
    none, near, every = CleverHans("carlini_wagner_l2", **CARLINI).sweep(model, images, labels, [0, 0.4, np.inf])
    assert not none.success.any() and every.success.sum() >= near.success.sum()
    kernel, bias = model.layers[-1].get_weights()
    logits = images.reshape(6, -1) @ kernel + bias
    top = np.argmax(logits, axis=-1)
    gaps = np.take_along_axis(logits, top[:, None], 1) - logits
    lengths = np.linalg.norm(kernel[:, :, None] - kernel[:, None, :], axis=0)[top]
    optimum = np.where(lengths > 0, gaps / np.maximum(lengths, 1e-9), np.inf).min(axis=1)
    assert every.success.all()
    assert (every.distances >= optimum * 0.999).all() and np.median(every.distances / optimum) < 1.25


def test_the_learning_rate_is_not_among_what_carlini_wagner_zeroes():
    optimizer = tf.keras.optimizers.Adam(0.1)
    variable = tf.Variable([1.0])
    wrapped = cleverhans._Resettable(optimizer)
    wrapped.apply_gradients([(tf.constant([1.0]), variable)])
    state = wrapped.variables()
    assert len(state) == len(optimizer.variables) - 1 >= 3  # iterations, momentum, velocity
    for key in state:
        key.assign(tf.zeros(key.shape, key.dtype))
    wrapped.apply_gradients([(tf.constant([1.0]), variable)])
    np.testing.assert_allclose(variable.numpy(), [0.8], rtol=1e-5)  # both steps are the first


def test_no_attack_keeps_a_model_alive():
    images = np.random.default_rng(0).uniform(size=(2, 2, 2, 1)).astype("float32")
    model = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])
    labels = model(images).numpy().argmax(axis=-1)
    for attack in BUDGETED:
        attack(model, images, labels, epsilon=0.1)
    CleverHans("carlini_wagner_l2", max_iterations=3)(model, images, labels)
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None


def test_float64_models_and_flat_images(mlp, points):
    images = tf.clip_by_value(points, 0, 1)
    labels = mlp(images).numpy().argmax(axis=-1)
    for attack in (BUDGETED[2], BUDGETED[4]):
        result = attack(mlp, images, labels, epsilon=0.5)
        assert result.adversarials.dtype == np.float64 and result.distances.max() <= 0.5 + 1e-6
        assert not result.details["projected"].any()
    assert CleverHans("carlini_wagner_l2", **CARLINI)(mlp, images, labels).success.any()


def test_minimal_distance_of_cleverhans_is_that_of_ours(digit_model, digits):
    images, labels = digits[2][:20], digits[3][:20]
    mine, other = (
        attacks.MinimalDistance(attack)(digit_model, images, labels)
        for attack in (attacks.FGSM(), CleverHans("fast_gradient_method"))
    )
    np.testing.assert_array_equal(mine.success, other.success)
    np.testing.assert_allclose(np.median(mine.distances), np.median(other.distances), rtol=0.02)


def test_steps_are_a_share_of_epsilon_or_a_length_but_never_longer_than_epsilon(digit_model, digits):
    images, labels = digits[2][:5], digits[3][:5]
    share = CleverHans("basic_iterative_method", nb_iter=2, step_size=0.1)(digit_model, images, labels, epsilon=0.2)
    assert share.distances.max() == pytest.approx(0.04, rel=1e-4)
    length = CleverHans("basic_iterative_method", nb_iter=2, eps_iter=0.01)
    for epsilon, farthest in ((0.2, 0.02), (0.005, 0.005)):
        assert length(digit_model, images, labels, epsilon=epsilon).distances.max() == pytest.approx(farthest, rel=1e-4)


def test_attacks_are_values():
    attack = CleverHans("projected_gradient_descent", nb_iter=3, norm=2, batch_size=7)
    assert eval(repr(attack), {"CleverHans": CleverHans, "inf": np.inf}) == attack
    same = CleverHans("projected_gradient_descent", batch_size=7, norm=2.0, nb_iter=3)
    assert attack == same and hash(attack) == hash(same) and attack != CleverHans("projected_gradient_descent")
    assert attack.name == "cleverhans_projected_gradient_descent_l2"
    assert isinstance(attack, attacks.FixedBudgetAttack)
    assert isinstance(CleverHans("carlini_wagner_l2"), attacks.MinimalDistanceAttack)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CleverHans("deepfool"), "`attack` should be one of fast_gradient_method, .*'deepfool'"),
        (lambda: CleverHans("spsa", norm=2), "`norm` should be one of np.inf. Received: norm=2"),
        (lambda: CleverHans("madry_et_al", norm=1), "`norm` should be one of np.inf, 2. Received: norm=1"),
        (lambda: CleverHans("madry_et_al", targeted=True), "`madry_et_al` takes .* Received: targeted=True"),
        (lambda: CleverHans("spsa", nb_iter=0), "`nb_iter` should be a positive integer. Received: nb_iter=0"),
        (lambda: CleverHans("spsa", nb_iter=True), "`nb_iter` should be a positive integer. Received: nb_iter=True"),
        (lambda: CleverHans("spsa", learning_rate="a"), "`learning_rate` should be a positive number. Rec.*=.a.$"),
        (lambda: CleverHans("spsa", spsa_samples=3), "`spsa_samples` should be even. Received: spsa_samples=3"),
        (lambda: CleverHans("madry_et_al", eps_iter=-1.0), "`eps_iter` should be a positive number. Rec.*=-1.0"),
        (lambda: CleverHans("madry_et_al", eps_iter=0.1, step_size=0.1), "`eps_iter` and `step_size` exclude"),
        (lambda: attacks.ART(7, norm=2), "`attack_factory` should be a function .* Received: attack_factory=7"),
        (lambda: attacks.ART(len, norm=0), "`norm` should be one of 1, 2, np.inf. Received: norm=0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_missing_library_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "foolbox.attacks.base", None)
    with pytest.raises(ImportError, match=r"attacks.Foolbox needs .*: pip install 'keras_fim\[peers\]'"):
        attacks.Foolbox(None)


class _Outside(foreign.Method):
    """A library that goes twice as far as it may, and has no answer for the first image."""

    def generate(self, classifier, task, epsilon, seed):
        points = task.images.numpy() + 2 * epsilon / np.sqrt(task.images[0].shape.num_elements())
        points[0] = np.nan
        return points


def test_what_leaves_the_ball_is_projected_and_marked(digit_model, digits):
    images = np.full((3, 28, 28, 1), 0.2, "float32")
    result = foreign.wrapped(_Outside("outside", 2.0, "Outside("), minimal=False)(
        digit_model, images, digits[3][:3], epsilon=1.0
    )
    np.testing.assert_allclose(result.distances, [0, 1, 1], rtol=1e-5)
    np.testing.assert_array_equal(result.details["projected"], [False, True, True])


def test_foolbox_attacks_of_both_kinds(digit_model, digits):
    images, labels = digits[2][:30], digits[3][:30]
    library = foolbox().attacks
    pgd = attacks.Foolbox(library.L2PGD(steps=4))
    assert isinstance(pgd, attacks.FixedBudgetAttack) and pgd.name == "foolbox_projected_gradient_descent_l2"
    assert check_contract(pgd, digit_model, images, labels).fooling_ratio > 0.9
    repeated = attacks.Foolbox(library.LinfPGD(steps=2).repeat(2))
    assert repeated.name == "foolbox_projected_gradient_descent_linf" and "times=2" in repr(repeated)
    check_contract(repeated, digit_model, images[:5], labels[:5])
    deepfool = attacks.Foolbox(library.LinfDeepFoolAttack(steps=20))
    assert isinstance(deepfool, attacks.MinimalDistanceAttack) and deepfool.name == "foolbox_deep_fool_linf"
    none, every = deepfool.sweep(digit_model, images, labels, [0, np.inf])
    assert not none.success.any() and every.fooling_ratio > 0.9
    fgsm = attacks.Foolbox(library.LinfFastGradientAttack())
    theirs, own = (attack(digit_model, images, labels, epsilon=0.1) for attack in (fgsm, attacks.FGSM()))
    assert (np.abs(theirs.adversarials - own.adversarials) < 1e-5).mean() > 0.99  # signs of gradients next to 0 differ
    assert fgsm == attacks.Foolbox(fgsm.method.attack) and hash(fgsm) == hash(attacks.Foolbox(fgsm.method.attack))


def test_foolbox_takes_standardized_images(digit_model, digits):
    low, high = (0 - 0.1307) / 0.3081, (1 - 0.1307) / 0.3081
    images = np.clip(digits[2][:5] / 0.3081 - 0.1307 / 0.3081, np.float32(low), np.float32(high)).astype("float32")
    attack = attacks.Foolbox(foolbox().attacks.LinfFastGradientAttack(), bounds=(low, high))
    result = attack(lambda x: digit_model(x * 0.3081 + 0.1307), images, digits[3][:5], epsilon=0.3)
    assert result.distances.max() == pytest.approx(0.3, rel=1e-4)


def test_foolbox_refuses_what_is_no_attack():
    library = foolbox()
    with pytest.raises(ValueError, match="should be an attack object of Foolbox. Received: attack='pgd'"):
        attacks.Foolbox("pgd")
    with pytest.raises(ValueError, match="unknown distance"):
        attacks.Foolbox(library.attacks.GaussianBlurAttack())


def test_art_attacks_of_both_kinds(digit_model, digits):
    images, labels = digits[2][:20], digits[3][:20]
    library = evasion()

    def pgd(classifier, epsilon):
        return library.ProjectedGradientDescent(
            classifier, norm=2, eps=epsilon, eps_step=epsilon / 2, max_iter=3, batch_size=128
        )

    attack = attacks.ART(pgd, norm=2)
    assert attack.name == "art_pgd_l2" and attack == attacks.ART(pgd, norm=2.0) and hash(attack)
    assert check_contract(attack, digit_model, images, labels).fooling_ratio > 0.9
    factory = functools.partial(library.DeepFool, max_iter=10, epsilon=0.02, batch_size=128)
    nearest = attacks.ART(factory, norm=2, minimal=True)
    assert nearest.name == "art_deepfool_l2" and "minimal=True" in repr(nearest)
    assert nearest(digit_model, images[:5], labels[:5]).success.any()


def test_art_saliency_maps_do_not_aim_at_the_true_label(digit_model, digits):
    factory = functools.partial(evasion().SaliencyMapMethod, theta=1.0, gamma=0.2, batch_size=128)
    attack = attacks.ART(factory, norm=0, minimal=True, label="jsma")
    result = attack(digit_model, digits[2][:3], digits[3][:3])
    assert attack.name == "art_jsma_l0" and result.success.any()


def test_art_refuses_targeted_attacks(digit_model, digits):
    library = evasion()
    attack = attacks.ART(lambda c, epsilon: library.FastGradientMethod(c, eps=epsilon, targeted=True), norm=np.inf)
    with pytest.raises(ValueError, match="should be a maker of untargeted attacks"):
        attack(digit_model, digits[2][:3], digits[3][:3], epsilon=0.1)
