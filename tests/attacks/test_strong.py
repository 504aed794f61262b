from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_fim import attacks
from keras_fim.logits import logits_function

QUICK = {norm: attacks.Strong(norm=norm, quick=True) for norm in (2, np.inf)}
SHORTENED = ("transfer", "pgd", "apgd_ce", "apgd_dlr", "fmn", "apgd_t")
EPSILONS = {2: [0.0, 0.3, 0.6, 1.0], np.inf: [0.0, 0.02, 0.04, 0.08]}


@pytest.fixture(scope="module", params=[2, np.inf], ids=["l2", "linf"])
def swept(request, digit_model, digits):
    """An attack with, in disorder, its ε and the results of a sweep on digits."""
    attack, epsilons = QUICK[request.param], EPSILONS[request.param][::-1]
    return attack, epsilons, attack.sweep(digit_model, digits[2][:60], digits[3][:60], epsilons)


@pytest.mark.slow
def test_contract(swept, digit_model, digits):
    attack, epsilons, results = swept
    images, labels = digits[2][:60], digits[3][:60]
    for epsilon, result in zip(epsilons, results, strict=True):
        assert result.adversarials.min() >= 0 and result.adversarials.max() <= 1
        perturbation = (result.adversarials.astype(np.float64) - images).reshape(len(images), -1)
        np.testing.assert_allclose(result.distances, np.linalg.norm(perturbation, ord=attack.norm, axis=1), rtol=1e-12)
        assert (result.distances <= epsilon + 1e-6).all()
        again = digit_model.predict(result.adversarials, verbose=0).argmax(axis=-1)
        np.testing.assert_array_equal(result.predictions, again)
        np.testing.assert_array_equal(result.success, result.was_correct & (again != labels))
        np.testing.assert_array_equal(result.adversarials[~result.was_correct], images[~result.was_correct])
    np.testing.assert_array_equal(results[-1].adversarials, images)  # ε = 0


@pytest.mark.slow
def test_success_grows_with_epsilon_and_stays_with_its_point(swept):
    for larger, smaller in zip(swept[2][:-1], swept[2][1:], strict=True):
        assert larger.success.sum() > smaller.success.sum()
        (fooled,) = np.nonzero(smaller.success)
        assert larger.success[fooled].all()
        np.testing.assert_array_equal(larger.adversarials[fooled], smaller.adversarials[fooled])
        np.testing.assert_array_equal(larger.details["stage"][fooled], smaller.details["stage"][fooled])


@pytest.mark.slow
def test_the_shares_of_the_stages_add_up(swept):
    attack, _, results = swept
    for result in results:
        shares = attack.shares(result)
        assert tuple(shares) == attack.stages == tuple(attack.attacks())
        assert sum(shares.values()) == pytest.approx(result.fooling_ratio) and shares["transfer"] == 0
        np.testing.assert_array_equal(result.details["stage"] >= 0, result.success)


@pytest.mark.slow
def test_it_is_at_least_as_strong_as_each_stage(swept, digit_model, digits):
    attack, epsilons, results = swept
    for name, stage in attack.attacks().items():
        if name != "transfer":
            alone = stage(digit_model, digits[2][:60], digits[3][:60], epsilon=epsilons[1])
            assert results[1].success.sum() >= alone.success.sum() - 1


@pytest.mark.slow
def test_nothing_is_traced_again_for_other_numbers_of_samples(swept, digit_model, digits):
    attack = swept[0]
    for n in (1, 7, 60):
        attack(digit_model, digits[2][:n], digits[3][:n], epsilon=0.03)
    functions = logits_function(digit_model)._compiled
    run = {stage for _, stage in attack._rounds(10)}
    compiled = [(key[0].__name__, {*key[1]}) for key in functions]
    stages = [name for name, static in compiled if name in ("perturb", "search") and static & run]
    assert len(stages) == len(run) == 6
    assert all(f.experimental_get_tracing_count() == 1 for f in functions.values())


@pytest.mark.slow
def test_a_twin_is_the_first_stage(digit_model, digits):
    """The twin itself has nothing to hide; a masked copy, whose gradient is zero, falls to what fools it."""
    images, labels = digits[2][:40], digits[3][:40]
    masked = logits_function(lambda x: digit_model(tf.round(x * 50) / 50 + 0 * x), from_logits=False)
    attack = attacks.Strong(quick=True, twin=digit_model)
    result = attack(masked, images, labels, epsilon=0.1)
    alone = attacks.Strong(quick=True)(masked, images, labels, epsilon=0.1)
    shares = attack.shares(result)
    assert shares["transfer"] > 0.3 and result.success.sum() > alone.success.sum()
    assert (result.distances <= 0.1 + 1e-6).all()
    other = keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Flatten(), keras.layers.Dense(3, "softmax")])
    with pytest.raises(ValueError, match="`twin` should have 10 classes like the model. Received: 3"):
        attacks.Strong(twin=other)(digit_model, images, labels, epsilon=0.1)


@pytest.mark.slow
def test_one_sample_a_seed_and_progress(digit_model, digits, capsys):
    attack = attacks.Strong(quick=True, progress=True)
    (at,) = np.nonzero(digit_model.predict(digits[2][:20], verbose=0).argmax(axis=-1) == digits[3][:20])
    one = digits[2][at[:1]], digits[3][at[:1]]
    first, second = (attack(digit_model, *one, epsilon=0.05) for _ in range(2))
    np.testing.assert_array_equal(first.adversarials, second.adversarials)
    assert "10/10" in capsys.readouterr().out
    assert attack == attacks.Strong(quick=True) and attack.name == "strong_linf"


def test_samples_that_were_wrong_before_are_left_alone(digit_model, digits):
    wrong = (digit_model.predict(digits[2][:5], verbose=0).argmax(axis=-1) + 1) % 10
    result = QUICK[2](digit_model, digits[2][:5], wrong, epsilon=1.0)
    assert not result.was_correct.any() and not result.success.any()
    np.testing.assert_array_equal(result.adversarials, digits[2][:5])
    np.testing.assert_array_equal(result.details["stage"], -1)
    assert all(np.isnan(share) for share in QUICK[2].shares(result).values())


@pytest.mark.slow
def test_a_constant_model_stands():
    layers = [keras.layers.Flatten(), keras.layers.Dense(2, kernel_initializer="zeros"), keras.layers.Softmax()]
    model, images = keras.Sequential([keras.Input((3, 3, 1)), *layers]), np.full((2, 3, 3, 1), 0.5, "float32")
    result = QUICK[np.inf](model, images, [0, 0], epsilon=0.2)
    np.testing.assert_array_equal(result.adversarials, images)
    assert result.fooling_ratio == 0


def test_quick_is_a_quarter():
    full, quick = attacks.Strong().attacks(), attacks.Strong(quick=True).attacks()
    assert [full[name].steps for name in SHORTENED] == [40, 40, 100, 100, 100, 100]
    assert [quick[name].steps for name in SHORTENED] == [10, 10, 25, 25, 25, 25]
    assert (full["square"].queries, quick["square"].queries) == (1000, 250)
    assert full["pgd"].restarts == quick["pgd"].restarts == 5


def test_the_default_of_a_stage_may_change_without_a_new_revision():
    assert attacks.FMN().gamma == 0.1 and attacks.FMN.revision == 2
    assert {attacks.Strong(norm=norm).attacks()["fmn"].gamma for norm in (1, 2, np.inf)} == {0.05}
    assert attacks.Strong.revision == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attack", "epsilon"),
    [(attacks.Square(queries=60), 0.05), (attacks.Square(norm=2, queries=60), 0.4), (QUICK[np.inf], 0.02)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_images_without_a_channel_axis_are_those_of_one_channel(attack, epsilon):
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(48, 12)) / 2, rng.normal(size=(12, 4))
    fn = logits_function(lambda x: tf.tanh((tf.reshape(x, [-1, 48]) - 0.5) @ first) @ second, from_logits=True)
    images = rng.uniform(size=(20, 6, 8))
    labels = fn(tf.constant(images)).numpy().argmax(axis=-1)
    flat, expected = (attack(fn, x, labels, epsilon=epsilon) for x in (images, images[..., None]))
    assert flat.adversarials.shape == (20, 6, 8) and 0 < expected.success.sum() < 20
    np.testing.assert_array_equal(flat.success, expected.success)
    np.testing.assert_allclose(flat.adversarials[..., None], expected.adversarials, atol=1e-6)
