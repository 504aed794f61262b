from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest

from keras_fim import attacks
from keras_fim.logits import logits_function

ATTACKS = [
    attacks.MinimalDistance(attacks.FGSM()),
    attacks.MinimalDistance(attacks.OSSA()),
    attacks.MinimalDistance(attacks.BIM(norm=1, steps=5)),
    attacks.DeepFool(),
    attacks.DeepFool(norm=np.inf, num_rivals=2),
    attacks.FMN(norm=1, steps=20),
    attacks.FMN(steps=20),
    *[attacks.FAB(norm=p, steps=10, num_targets=2) for p in (1, 2, np.inf)],
    attacks.FAB(steps=10, num_targets=2, targeted=False),
    attacks.JSMA(),
    attacks.CarliniWagner(steps=30, search_steps=3, learning_rate=0.1),
]


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: a.name)
def test_contract(attack, digit_model, digits):
    images, labels = digits[2][:40], digits[3][:40].copy()
    labels[:3] = (labels[:3] + 1) % 10
    result = attack(digit_model, images, labels)
    assert result.success.any()
    assert result.adversarials.min() >= 0 and result.adversarials.max() <= 1
    predictions = digit_model.predict(result.adversarials, verbose=0).argmax(axis=-1)
    np.testing.assert_array_equal(predictions, result.predictions)
    np.testing.assert_array_equal(result.success, result.was_correct & (predictions != labels))
    measured = np.linalg.norm((result.adversarials - images.astype("float64")).reshape(40, -1), attack.norm, axis=1)
    np.testing.assert_allclose(result.distances[result.success], measured[result.success])
    wrong = ~result.was_correct
    assert wrong.sum() >= 3 and not result.distances[wrong].any()
    np.testing.assert_array_equal(result.adversarials[wrong], images[wrong])

    within, nothing = attack.sweep(digit_model, images, labels, [np.median(result.distances[result.success]), 0.0])
    np.testing.assert_array_equal(
        within.success,
        result.success & (result.distances <= within.distances.max(where=np.isfinite(within.distances), initial=0)),
    )
    failed = within.was_correct & ~within.success
    assert failed.any() and np.isinf(within.distances[failed]).all()
    np.testing.assert_array_equal(within.adversarials[failed], images[failed])
    np.testing.assert_array_equal(within.predictions[failed], labels[failed])
    assert not nothing.success.any()


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: a.name)
def test_constant_model_cannot_be_fooled(attack):
    layers = [keras.Input((4,)), keras.layers.Dense(3, kernel_initializer="zeros"), keras.layers.Softmax()]
    model = keras.Sequential(layers)
    model.layers[0].bias.assign([0.0, 1.0, 0.0])
    images = np.full((3, 4), 0.5, "float32")
    result = attack(model, images, [1, 1, 0])
    np.testing.assert_array_equal(result.adversarials, images)
    np.testing.assert_array_equal(result.distances, [np.inf, np.inf, 0])
    np.testing.assert_array_equal(result.predictions, 1)


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: a.name)
def test_one_image_is_attacked_as_in_a_batch_with_one_trace(attack, digit_model, digits):
    images, labels = digits[2][:9], digits[3][:9]
    together = attack(digit_model, images, labels)
    for index in (0, 8):
        alone = attack(digit_model, images[index : index + 1], labels[index : index + 1])
        np.testing.assert_allclose(alone.distances, together.distances[index : index + 1], rtol=1e-2)
    functions = logits_function(digit_model)._compiled.items()
    variants = {getattr(attack, "attack", attack), getattr(attack, "attack", attack)}
    variants |= {a.fooling_only() for a in variants if hasattr(a, "fooling_only")}
    functions = [f for (_, static, _), f in functions if variants & set(static)]
    assert functions and all(f.experimental_get_tracing_count() == 1 for f in functions)


@pytest.mark.slow
def test_minimal_distance_is_the_first_epsilon_that_fools(digit_model, digits):
    images, labels = digits[2][:40], digits[3][:40]
    result = attacks.MinimalDistance(attacks.FGSM(), rtol=1e-3)(digit_model, images, labels)
    grid = np.linspace(0.002, 1, 500)
    fooled = np.stack([r.success for r in attacks.FGSM().sweep(digit_model, images, labels, grid)])
    success = result.success
    np.testing.assert_array_equal(success, success & fooled.any(axis=0))
    first = grid[fooled.argmax(axis=0)][success]
    ratio = result.distances[success] / first
    assert np.median(ratio) == pytest.approx(1, abs=0.02) and ratio.max() < 1.25


@pytest.mark.parametrize("seed", [0, 4, 18])  # at these, steps of an absolute 1e-4 beyond were lost to rounding
def test_bytes_are_attacked_in_their_own_range(digits, seed):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])
    images = (digits[2][:8] * 255).astype("uint8")
    labels = model(images.astype("float32")).numpy().argmax(axis=-1)
    result = attacks.DeepFool(bounds=(0, 255))(model, images, labels)
    assert result.success.all() and result.adversarials.max() <= 255 and result.adversarials.dtype == np.float32
    with pytest.raises(ValueError, match="divide them by 255"):
        attacks.DeepFool()(model, images, labels)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "bounds", "activation"),
    [("float16", (0.0, 1.0), "softmax"), ("uint8", (0.0, 255.0), "softmax"), ("float32", (0.0, 1.0), "sigmoid")],
)
@pytest.mark.parametrize("attack", [attacks.FMN(), attacks.FAB(steps=20)], ids=lambda attack: attack.name)
def test_what_the_model_returns_is_wrong_at_the_adversarial(attack, dtype, bounds, activation):
    """Not only its logits: probabilities round to equal ones next to the boundary, and bytes to whole numbers."""
    keras.utils.set_random_seed(1)
    policy, kind = ("float32", dtype) if dtype == "uint8" else (dtype, "float32")
    inputs = keras.Input((6, 6, 1), dtype=kind)
    hidden = keras.layers.Flatten(dtype=policy)(keras.layers.Rescaling(1 / bounds[1], dtype=policy)(inputs))
    hidden = keras.layers.Dense(32, activation="relu", dtype=policy)(hidden)
    units = 1 if activation == "sigmoid" else 4
    model = keras.Model(inputs, keras.layers.Dense(units, activation=activation, dtype=policy)(hidden))

    def predicted(images):
        outputs = model(images).numpy()
        return outputs.argmax(axis=-1) if units > 1 else (outputs[:, 0] > 0.5).astype(int)

    images = (bounds[1] * np.random.default_rng(3).uniform(size=(100, 6, 6, 1))).astype(kind)
    labels = predicted(images)
    result = dataclasses.replace(attack, bounds=bounds)(model, images, labels)
    assert result.was_correct.sum() >= 95 and (result.success & (predicted(result.adversarials) == labels)).sum() <= 1
    moved = (result.adversarials - images.astype("float64"))[result.success].reshape(result.success.sum(), -1)
    np.testing.assert_allclose(np.linalg.norm(moved, axis=-1), result.distances[result.success], rtol=1e-6)
    assert (
        result.success.sum() >= 95 and bounds[0] <= result.adversarials.min() <= result.adversarials.max() <= bounds[1]
    )


def test_carlini_wagner_confidence_wins_by_a_margin(digit_model, digits):
    images, labels = digits[2][:8], digits[3][:8]
    attack = attacks.CarliniWagner(steps=100, search_steps=4, learning_rate=0.1, initial_weight=1.0, confidence=1.0)
    result = attack(digit_model, images, labels)
    assert result.success.sum() >= 6
    logits = logits_function(digit_model)(result.adversarials[result.success]).numpy()
    rows, labels = np.arange(len(logits)), labels[result.success]
    assert (logits[rows, result.predictions[result.success]] - logits[rows, labels] >= 1 - 1e-3).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: attacks.MinimalDistance(attacks.DeepFool()), "`attack` should be a fixed-budget attack"),
        (lambda: attacks.MinimalDistance(attacks.FGM(), growth=1.0), "`growth` should be a number > 1"),
        (lambda: attacks.MinimalDistance(attacks.FGM(), rtol=0.0), "`rtol` should be a positive number"),
        (lambda: attacks.MinimalDistance(attacks.FGM(), start=-1.0), "`start` should be a positive number"),
        (lambda: attacks.DeepFool(norm=1), "`norm` should be one of 2, np.inf"),
        (lambda: attacks.DeepFool(num_rivals=0), "`num_rivals` should be a positive integer"),
        (lambda: attacks.FMN(norm=0), "`norm` should be one of 1, 2, np.inf"),
        (lambda: attacks.FMN(gamma=1.0), r"`gamma` should be in \(0, 1\)"),
        (lambda: attacks.CarliniWagner(learning_rate=0.0), "`learning_rate` should be a positive number"),
        (lambda: attacks.CarliniWagner(confidence=-1.0), "`confidence` should be a finite number >= 0"),
        (lambda: attacks.OTCM(target="last"), "`target` should be one of"),
    ],
)
def test_bad_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_targets_of_one_step_attacks(digit_model, digits):
    images, labels = digits[2][:20], digits[3][:20]
    given = attacks.OTCM(target="given")
    targets = (labels + 3) % 10
    hit = given(digit_model, images, labels, epsilon=0.2, targets=targets).predictions == targets
    by_chance = attacks.FGSM()(digit_model, images, labels, epsilon=0.2).predictions == targets
    assert hit.sum() > by_chance.sum()
    with pytest.raises(ValueError, match="with target='given' and only then"):
        given(digit_model, images, labels, epsilon=0.2)
    with pytest.raises(ValueError, match="with target='given' and only then"):
        attacks.OTCM()(digit_model, images, labels, epsilon=0.2, targets=targets)
    with pytest.raises(ValueError, match="should differ from the true labels"):
        given(digit_model, images, labels, epsilon=0.2, targets=labels)
