from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_fim import attacks, geometry
from keras_fim.attacks import losses
from keras_fim.logits import logits_function
from tests import oracles

ATTACKS = [
    attacks.FGSM(),
    attacks.FGM(),
    attacks.OTCM(),
    attacks.OTCM(target="second", norm=2),
    attacks.OSSA(),
    attacks.OSSA(steps=3, method="exact"),
    *[attacks.BIM(norm=p, steps=3) for p in (1, 2, np.inf)],
    attacks.MIM(steps=3),
    attacks.PGD(steps=3, norm=1, random_start=False, loss="margin", restarts=1),
]
RANDOM = [
    *[attacks.PGD(norm=p, steps=3, restarts=2) for p in (1, 2, np.inf)],
    *[attacks.APGD(norm=p, loss=loss, steps=6) for p, loss in ((2, "dlr"), (np.inf, "cross_entropy"))],
    *[attacks.Square(norm=p, queries=8) for p in (2, np.inf)],
    attacks.APGD(norm=2, loss="targeted_margin", steps=4, num_targets=2),
    attacks.OTCM(target="random"),
]
WIDE = (-10.0, 10.0)


def linear(num_classes=2, size=6, dtype="float32"):
    """A linear softmax model, whose nearest adversarial point is known in closed form."""
    model = keras.Sequential([keras.Input((size,)), keras.layers.Dense(num_classes), keras.layers.Softmax()])
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=(size, num_classes)), rng.normal(size=num_classes)])
    images = rng.normal(size=(8, size)).astype(dtype)
    return model, images, model(images).numpy().argmax(axis=-1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attack", "dual"),
    [(attacks.FGSM(bounds=WIDE), 1), (attacks.FGM(bounds=WIDE), 2), (attacks.OSSA(bounds=WIDE), 2)],
    ids=["fgsm", "fgm", "ossa"],
)
def test_two_linear_classes_are_fooled_exactly_from_the_optimal_distance_on(attack, dual):
    """The distance to the boundary is ``|z_0 - z_1| / ‖w_0 - w_1‖_q`` with the dual norm q."""
    model, images, labels = linear()
    kernel, bias = model.get_weights()
    gaps = np.abs((images @ kernel + bias) @ [1, -1])
    optimum = gaps / np.linalg.norm(kernel[:, 0] - kernel[:, 1], ord=dual)
    for image, label, distance in zip(images, labels, optimum, strict=True):
        inside, outside = attack.sweep(model, image[None], [label], [distance * 0.999, distance * 1.001])
        assert not inside.success[0] and outside.success[0]
        assert outside.distances[0] == pytest.approx(distance * 1.001, rel=1e-4)


def test_ossa_direction_is_the_top_eigenvector_of_the_dense_fim(mlp, points):
    labels = mlp(points).numpy().argmax(axis=-1)
    result = attacks.OSSA(bounds=WIDE)(mlp, points, labels, epsilon=0.5)
    steps = (result.adversarials - points.numpy()) / 0.5

    def log_p(x):
        return np.log(mlp(x[None]).numpy()[0])

    rng = np.random.default_rng(0)
    for x, label, step in zip(points.numpy(), labels, steps, strict=True):
        fim = oracles.input_fim(log_p, x)
        assert abs(np.linalg.eigh(fim)[1][:, -1] @ step) >= 0.9999
        gradient = oracles.jacobian(log_p, x)[label]
        others = [np.sign(gradient), gradient, *rng.normal(size=(10, 6))]
        assert all(step @ fim @ step >= (o @ fim @ o) / (o @ o) - 1e-9 for o in others)


def test_ossa_takes_the_sign_that_raises_the_loss(mlp, points):
    labels = mlp(points).numpy().argmax(axis=-1)
    result = attacks.OSSA(bounds=WIDE)(mlp, points, labels, epsilon=0.3)

    def loss(x):
        return -np.log(mlp(x).numpy()[np.arange(5), labels])

    assert (loss(result.adversarials) >= loss(2 * points - result.adversarials)).all()


def test_saturated_samples_fall_back_to_the_margin():
    """Where the FIM is zero in float32, the step goes along the difference of the two classes' weights."""
    weights = tf.constant([[300.0, -300.0], [400.0, -400.0]])
    images = np.full((2, 2), 0.5, "float32")
    assert not geometry.exact_spectrum(lambda x: x @ weights, images).eigenvalues.numpy().any()
    logits = logits_function(lambda x: x @ weights, from_logits=True)
    result = attacks.OSSA(bounds=(-1, 1))(logits, images, [0, 0], epsilon=1.0)
    np.testing.assert_allclose(result.adversarials, images - [[0.6, 0.8]], rtol=1e-5)
    assert result.success.all()


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS + RANDOM, ids=repr)
def test_adversarials_stay_in_bounds_and_budget(attack, digit_model, digits):
    images, labels = digits[2], digits[3]
    epsilons = (0.0, 0.3, 50.0)
    for epsilon, result in zip(epsilons, attack.sweep(digit_model, images, labels, epsilons), strict=True):
        assert result.adversarials.min() >= 0 and result.adversarials.max() <= 1
        perturbation = (result.adversarials.astype(np.float64) - images).reshape(len(images), -1)
        np.testing.assert_allclose(result.distances, np.linalg.norm(perturbation, ord=attack.norm, axis=1), rtol=1e-12)
        assert (result.distances <= epsilon + 1e-6 * max(1, epsilon)).all()
        again = digit_model.predict(result.adversarials, verbose=0).argmax(axis=-1)
        np.testing.assert_array_equal(result.predictions, again)
        np.testing.assert_array_equal(result.success, result.was_correct & (again != labels))
    assert result.success.any()


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS + RANDOM, ids=repr)
def test_zero_budget_returns_the_images(attack, digit_model, digits):
    result = attack(digit_model, digits[2], digits[3], epsilon=0)
    np.testing.assert_array_equal(result.adversarials, digits[2])
    assert not result.success.any() and result.fooling_ratio == 0


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_sweep_is_the_same_as_single_calls_and_batches_do_not_matter(attack, digit_model, digits):
    images, labels = digits[2][:50], digits[3][:50]
    swept = attack.sweep(digit_model, images, labels, [0.05, 0.2])
    small = dataclasses.replace(attack, batch_size=16)
    for epsilon, result in zip((0.05, 0.2), swept, strict=True):
        alone = small(digit_model, images, np.eye(10)[labels], epsilon=epsilon)
        np.testing.assert_allclose(alone.adversarials, result.adversarials, atol=1e-4)
        np.testing.assert_array_equal(alone.was_correct, result.was_correct)


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS + RANDOM, ids=repr)
def test_constant_model_cannot_be_fooled(attack):
    layers = [keras.layers.Flatten(), keras.layers.Dense(3, kernel_initializer="zeros"), keras.layers.Softmax()]
    model = keras.Sequential([keras.Input((2, 2, 1)), *layers])
    model.layers[1].bias.assign([0.0, 1.0, 0.0])
    images = np.full((3, 2, 2, 1), 0.5, "float32")
    result = attack(model, images, [1, 1, 0], epsilon=0.2)
    np.testing.assert_array_equal(result.adversarials, images)
    np.testing.assert_array_equal(result.was_correct, [True, True, False])
    assert result.fooling_ratio == 0.0


def test_samples_that_were_wrong_before_never_count():
    model, images, labels = linear()
    result = attacks.FGSM(bounds=WIDE)(model, images, 1 - labels, epsilon=50.0)
    assert not result.was_correct.any() and not result.success.any() and np.isnan(result.fooling_ratio)


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS + RANDOM, ids=repr)
def test_attack_is_traced_once_per_model(attack, digit_model, digits):
    for n in (1, 7, 130):
        for epsilon in (0.1, 0.2):
            attack(digit_model, digits[2][:n], digits[3][:n], epsilon=epsilon)
    functions = logits_function(digit_model)._compiled
    compiled = [f for (function, static, _), f in functions.items() if attack in static]
    assert len(compiled) == 2  # prepare and perturb
    assert all(f.experimental_get_tracing_count() == 1 for f in compiled)


def test_repr_shows_the_options_and_equal_options_are_equal():
    options = "method='auto', rtol=0.1, max_steps=10, steps=1"
    assert repr(attacks.OSSA()) == f"OSSA(bounds=(0.0, 1.0), batch_size=128, seed=0, {options})"
    assert attacks.OSSA() == attacks.OSSA() and attacks.OSSA(batch_size=2) != attacks.OSSA()


def test_standardized_images_may_round_to_their_bounds():
    bounds = ((0 - 0.1307) / 0.3081, (1 - 0.1307) / 0.3081)
    model, images, labels = linear()
    images = np.clip(images, *np.float32(bounds))
    result = attacks.FGSM(bounds=bounds)(model, images, labels, epsilon=0.1)
    assert result.adversarials.max() <= np.float32(bounds[1])


def sloping(images):
    return tf.reshape(images, [-1, 4]) @ tf.constant([[1.0, -1.0]] * 4)


@pytest.mark.parametrize(
    "attack", [attacks.FGSM(), attacks.PGD(steps=2), attacks.FMN(steps=2), attacks.DeepFool()], ids=repr
)
def test_nobody_fooled_without_a_slope_is_no_robustness(attack):
    """There is a gradient path, and nothing but zeros or NaN comes back on it."""
    images = np.full((3, 2, 2, 1), 0.5, "float32")
    for flat in (lambda x: 0.0 * sloping(x) + [1.0, 0.0], lambda x: sloping(tf.where(x < 2, 1.0, x**0.5))):
        model = logits_function(flat, images, from_logits=True)
        with pytest.warns(RuntimeWarning, match=rf"^{attack.name} fooled no image: the gradient of the margin is zero"):
            assert not attack(model, images, [0, 0, 0], epsilon=0.2).success.any()


def test_nobody_fooled_is_no_warning_with_a_slope_or_without_gradients(recwarn):
    images = np.ones((3, 2, 2, 1), "float32")
    assert not attacks.PGD()(logits_function(sloping, from_logits=True), images, [0, 0, 0], epsilon=0.2).success.any()
    flat = logits_function(lambda x: 0.0 * sloping(x) + [1.0, 0.0], from_logits=True)
    for attack in (attacks.Square(queries=2), attacks.MinimalDistance(attacks.Square(queries=2))):
        assert not attack(flat, images, [0, 0, 0], epsilon=0.2).success.any()
    assert not [str(warning.message) for warning in recwarn if "fooled no image" in str(warning.message)]


def test_one_batch_with_a_slope_is_enough_to_tell(monkeypatch):
    """Of many images that stand, no more gradients are taken than it needs."""
    model, seen = logits_function(sloping, np.ones((1, 2, 2, 1), "float32"), from_logits=True), []
    images = np.random.default_rng(0).uniform(0.4, 0.6, size=(20, 2, 2, 1)).astype("float32")
    original = type(model).in_batches

    def counting(self, function, images, *args, **options):
        if function is losses.slope:
            seen.append(len(images))
        return original(self, function, images, *args, **options)

    monkeypatch.setattr(type(model), "in_batches", counting)
    labels = model(images).numpy().argmax(axis=-1)
    assert attacks.FGSM(batch_size=4)(model, images, labels, epsilon=0.0).fooling_ratio == 0 and seen == [4]
