"""Defenses on any range of pixels and any classifier: the same step, or an error of one line."""

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_fim import attacks, defenses
from keras_fim.geometry.jacobian import NoGradientError

LAYERS = keras.layers
IMAGES = np.random.default_rng(0).uniform(size=(20, 6)).astype("float32")
LABELS = np.arange(20) % 4
RANGES = [(0.0, 255.0), (-1.0, 1.0), (0.0, 1e-3), (-1000.0, 1000.0)]
CHANNELS = ((-2.0, -1.0, 0.0, 0.0, -5.0, 1.0), (2.0, 1.0, 0.5, 255.0, 5.0, 3.0))

MAKERS = {  # by name, with a budget for images that are so long
    "n-fgsm": lambda model, length, **options: defenses.n_fgsm(model, 0.1 * length, **options),
    "n-fgm": lambda model, length, **options: defenses.n_fgm(model, 0.3 * length, **options),
    "mixed": lambda model, length, **options: defenses.AdversarialTraining(
        model, attacks.PGD(norm=2, steps=2, keep_best=False), epsilon=0.3 * length, mix=0.5, **options
    ),
    "trades": lambda model, length, **options: defenses.TRADES(model, epsilon=0.1 * length, attack_steps=2, **options),
    "label smoothing": lambda model, length, **options: defenses.AdversarialLabelSmoothing(model, **options),
    "gaussian": lambda model, length, **options: defenses.GaussianAugmentation(model, 0.1 * length, **options),
    "gradient penalty": lambda model, length, **options: defenses.GradientPenalty(model, **options),
    "gradient budget": lambda model, length, **options: defenses.GradientPenalty(model, budget=length, **options),
    "spectral": lambda model, length, **options: defenses.SpectralDefense(model, **options),
    "spectral budget": lambda model, length, **options: defenses.SpectralDefense(
        model, budget=2 * length, direction="krylov", **options
    ),
    "trace": lambda model, length, **options: defenses.SpectralDefense(model, penalty="trace", **options),
    "spectral on n-fgm": lambda model, length, **options: defenses.SpectralDefense(
        defenses.n_fgm(model, 0.3 * length, **options)
    ),
}


def classifier(bounds=None, *, tell=True):
    """With a rescaling of the bounds to 0..1 in front; ``tell``: by a layer that says so."""
    keras.utils.set_random_seed(0)
    front = []
    if bounds:
        low, high = (np.asarray(end) for end in bounds)
        scale, offset = 1 / (high - low), -low / (high - low)
        front = [LAYERS.Rescaling(scale, offset) if tell else LAYERS.Lambda(lambda x: scale * x + offset)]
    return keras.Sequential(
        [keras.Input((6,)), *front, LAYERS.Dense(8, activation="tanh"), LAYERS.Dense(4, activation="softmax")]
    )


def step(defense, images=IMAGES, labels=LABELS, loss="sparse_categorical_crossentropy", eager=True):
    defense.compile(keras.optimizers.SGD(0.5), loss=loss, metrics=["accuracy"], run_eagerly=eager)
    return defense.train_on_batch(images, labels, return_dict=True)


ANYWHERE = [(kind, bounds) for kind in MAKERS for bounds in RANGES]
BY_CHANNEL = [(kind, CHANNELS) for kind in MAKERS if kind != "gaussian"]  # whose noise is the same in all channels


@pytest.mark.parametrize(("kind", "bounds"), ANYWHERE + BY_CHANNEL, ids=str)
def test_a_step_is_the_same_on_any_range(kind, bounds):
    plain, scaled = classifier(), classifier(bounds, tell=False)
    expected = step(MAKERS[kind](plain, 1.0))
    low, high = (np.asarray(end, "float32") for end in bounds)
    length = 1.0 if low.ndim else float(high - low)
    actual = step(MAKERS[kind](scaled, length, bounds=bounds), low + (high - low) * IMAGES)
    assert actual == pytest.approx(expected, rel=2e-3, abs=1e-4)
    for own, theirs in zip(scaled.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(own, theirs, rtol=1e-3, atol=2e-4)


def test_bounds_are_those_of_the_rescaling_the_attack_or_the_defense_inside():
    told = classifier((0, 255))
    assert defenses.SpectralDefense(told).bounds == (0, 255)
    assert defenses.n_fgm(told, 1.0).attack.bounds == (0, 255)
    assert defenses.SpectralDefense(told, bounds=(0, 1)).bounds == (0, 1)
    inner = defenses.AdversarialTraining(classifier(), attacks.FGM(bounds=(-1, 1)), epsilon=0.1)
    assert inner.bounds == (-1, 1) and defenses.SpectralDefense(inner).bounds == (-1, 1)
    assert defenses.SpectralDefense(classifier()).bounds == (0, 1)


def test_budget_and_mu_exclude_each_other():
    assert float(defenses.SpectralDefense(classifier((0, 255)), budget=255.0).mu.numpy()) == 0.5
    for kind in (defenses.SpectralDefense, defenses.GradientPenalty):
        with pytest.raises(ValueError, match="`budget` should be given in place of `mu`. Received: mu=1.0, budget=0.1"):
            kind(classifier(), 1.0, budget=0.1)
        with pytest.raises(ValueError, match="`epsilon` should be a finite number >= 0"):
            kind(classifier(), budget=-1.0)


@pytest.mark.parametrize("kind", ["label smoothing", "spectral", "gradient penalty", "n-fgm"])
def test_images_on_another_scale_end_the_training_with_one_line(kind):
    defense = MAKERS[kind](classifier(), 1.0)
    defense.compile("sgd", loss="sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match=r"^Images should be within the bounds \(0.0, 1.0\)[^\n]*pass `bounds`\.$"):
        defense.fit(255 * IMAGES, LABELS, verbose=0)


def test_a_penalty_that_is_too_small_to_matter_is_warned_about_once():
    defense = defenses.SpectralDefense(defenses.GradientPenalty(classifier(), 1.0), 1e-6)
    defense.compile("sgd", loss="sparse_categorical_crossentropy")
    with pytest.warns(UserWarning, match="penalty of spectral_defense is .* of the loss over epoch 1") as caught:
        defense.fit(IMAGES, LABELS, epochs=2, verbose=0)
    assert sum("of the loss over epoch" in str(warning.message) for warning in caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for defense in (defenses.SpectralDefense(classifier(), 0.0), defenses.SpectralDefense(classifier())):
            defense.compile("sgd", loss="sparse_categorical_crossentropy")
            defense.fit(IMAGES, LABELS, verbose=0)


def test_accuracy_is_of_clean_images_only():
    model = classifier()
    model.compile(keras.optimizers.SGD(0.0), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    clean = model.evaluate(IMAGES, LABELS, return_dict=True, verbose=0)["accuracy"]
    for defense in (
        defenses.AdversarialTraining(model, attacks.FGM(), epsilon=3.0),
        defenses.AdversarialTraining(model, attacks.FGM(), epsilon=3.0, mix=0.5),
        defenses.TRADES(model, epsilon=3.0, norm=2),
    ):
        defense.compile(keras.optimizers.SGD(0.0), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
        history = defense.fit(IMAGES, LABELS, validation_data=(IMAGES, LABELS), verbose=0).history
        assert history["adversarial_accuracy"][0] < clean and history["val_accuracy"] == [clean]
        assert history.get("accuracy", [clean]) == [clean] and ("accuracy" in history) != defense.perturbs


@pytest.mark.parametrize("kind", MAKERS)
def test_one_sigmoid_unit_is_trained_as_two_classes(kind):
    labels = LABELS % 2
    keras.utils.set_random_seed(0)
    one = keras.Sequential([keras.Input((6,)), LAYERS.Dense(1, activation="sigmoid")])
    kernel, bias = one.get_weights()
    two = keras.Sequential([keras.Input((6,)), LAYERS.Dense(2, activation="softmax")])
    two.set_weights([np.concatenate([0 * kernel, kernel], axis=-1), np.concatenate([0 * bias, bias])])
    actual = step(MAKERS[kind](one, 1.0), labels=labels[:, None], loss="binary_crossentropy")
    expected = step(MAKERS[kind](two, 1.0), labels=labels)
    assert actual == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert np.isfinite(one.get_weights()[0]).all()


def with_input(dtype, *front):
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((6,), dtype=dtype), *front, LAYERS.Dense(4, activation="softmax")])


@pytest.mark.parametrize("kind", MAKERS)
def test_an_integer_input_is_trained_through_its_twin_on_floats(kind):
    images = np.rint(255 * IMAGES).astype("uint8")
    own, theirs = (with_input(dtype, LAYERS.Rescaling(1 / 255)) for dtype in ("uint8", "float32"))
    actual, expected = (step(MAKERS[kind](model, 255.0), images) for model in (own, theirs))
    assert actual == pytest.approx(expected, rel=1e-4)
    assert actual.get("penalty", 1.0) > 0


@pytest.mark.parametrize("kind", [kind for kind in MAKERS if kind not in ("label smoothing", "gaussian")])
def test_no_gradient_is_refused(kind):
    model = with_input("float32", LAYERS.Lambda(tf.round, name="rounded"))
    with pytest.raises(NoGradientError, match=r"it stops at the layer rounded \(Lambda\)"):
        step(MAKERS[kind](model, 1.0))


def test_float64_layers_behind_a_float32_input():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), LAYERS.Dense(4, activation="softmax", dtype="float64")])
    assert step(defenses.SpectralDefense(model))["penalty"] > 0
