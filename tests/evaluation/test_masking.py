from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_fim import attacks, evaluation
from keras_fim.evaluation.masking import Probe
from keras_fim.logits import logits_function

RNG = np.random.default_rng(0)
CenterS = RNG.uniform(0.35, 0.65, size=(3, 4, 4, 1))
LABELS = RNG.integers(3, size=120)
IMAGES = (CenterS[LABELS] + RNG.normal(scale=0.03, size=(120, 4, 4, 1))).clip(0, 1).astype("float32")


def nearest_center(scale=60.0):
    """A linear softmax model that takes the nearest of the centers: as robust as a model of these data can be.

    It is confident. Without confidence the cross-entropy climbs towards both wrong classes at once, and is weaker than
    the margin: rightly reported.
    """
    flat = CenterS.reshape(3, -1)
    model = keras.Sequential(
        [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3), keras.layers.Softmax()]
    )
    model.set_weights([scale * 2 * flat.T, -scale * (flat**2).sum(axis=-1)])
    return model


def suspects(report):
    return {check.name for check in report.checks if check.verdict == "suspect"}


@pytest.mark.slow
@pytest.mark.parametrize("norm", [2, np.inf])
def test_quiet_on_an_honest_linear_model(norm):
    report = evaluation.masking_report(
        nearest_center(), (IMAGES, LABELS), norm=norm, twin=nearest_center(20.0), queries=100
    )
    assert not report.suspect and suspects(report) == set()
    assert {check.verdict for check in report.checks} == {"ok"} and len(report.checks) == 9
    assert any(0.2 <= ratio <= 0.8 for ratio in report.fooling_ratios)  # a budget at which there is much to compare
    assert report.epsilons == tuple(sorted(report.epsilons)) and 0 < report.num_correct <= 120
    assert "no sign of masked gradients" in str(report)


MASKS = {
    "quantized input": (lambda model: lambda x: model(tf.round(x * 12) / 12 + 0 * x), {"zero gradients", "transfer"}),
    "rounded logits": (lambda model: lambda x: tf.round(model(x)) + 0 * model(x), {"zero gradients", "black box"}),
    "huge logits behind a softmax": (lambda model: lambda x: 1e3 * model(x), {"probabilities"}),
    "shattered gradients": (  # a fine saw tooth, against which the gradient runs
        lambda model: lambda x: model(x + 0.004 * tf.sin(x * 1500)),
        {"one step", "random noise"},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("mask", MASKS)
def test_fires_on_a_masked_model(mask):
    hide, symptoms = MASKS[mask]
    honest = logits_function(nearest_center())
    masked = logits_function(hide(honest), from_logits=True)
    report = evaluation.masking_report(masked, (IMAGES, LABELS), twin=honest, steps=10, queries=100)
    assert report.suspect and symptoms & suspects(report), str(report)
    first = report.flags[0] if mask == "quantized input" else "masked gradients are suspected"
    assert first in str(report) and (mask != "quantized input" or first.startswith("rounded input"))


@pytest.mark.slow
def test_what_cannot_be_run_is_said_to_be_so(tmp_path):
    flat = logits_function(lambda x: tf.concat([x - 0.5, 0.5 - x], axis=-1), from_logits=True)
    images = np.linspace(0.05, 0.95, 20, dtype="float32")[:, None]
    report = evaluation.masking_report(flat, (images, (images[:, 0] < 0.5).astype(int)), steps=5, epsilons=[0.25])
    assert report.check("black box").verdict == report.check("transfer").verdict == "not run"
    assert np.isnan(report.check("transfer").figure) and not report.suspect
    assert report.epsilon == 0.25 and report.fooling_ratios == pytest.approx((0.5,), abs=0.11)
    loaded = type(report).load(report.save(tmp_path / "masking.json"))
    assert str(loaded) == str(report)


def test_random_noise_is_drawn_a_chunk_at_a_time():
    """The draws are those of one array of all images."""
    images, rng = np.random.default_rng(1).uniform(size=(300, 4)).astype("float32"), np.random.default_rng(0)
    model = logits_function(lambda x: tf.concat([x[:, :1], x[:, 1:2]], axis=-1), from_logits=True)
    labels = model(images).numpy().argmax(axis=-1)
    probe = Probe(model, attacks.PGD(norm=2), tf.constant(images), tf.constant(labels))
    fooled = np.zeros(300, bool)
    for _ in range(10):
        draw = rng.normal(size=images.shape)
        noisy = np.clip(images + 0.1 * draw / np.linalg.norm(draw, axis=-1, keepdims=True), 0, 1).astype("float32")
        fooled |= model(noisy).numpy().argmax(axis=-1) != labels
    assert 0 < fooled.sum() < 300
    np.testing.assert_array_equal(probe.random_noise(0.1), fooled)


WRONG = (nearest_center()(IMAGES).numpy().argmax(-1) + 1) % 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": 1}, "`norm` should be one of 2, np.inf"),
        ({"epsilons": []}, "at least one budget"),
        ({"dataset": (IMAGES, WRONG), "bounds": (0, 1)}, "at least one .* accuracy 0"),
        ({"bounds": (1, 0)}, "`bounds` should be"),
    ],
    ids=["norm", "epsilons", "never right", "bounds"],
)
def test_bad_input(options, message):
    dataset = options.pop("dataset", (IMAGES, LABELS))
    with pytest.raises(ValueError, match=message):
        evaluation.masking_report(nearest_center(), dataset, **options)


@pytest.mark.nightly
def test_quiet_on_a_trained_convnet_and_fires_on_it_quantized(digit_model, digits):
    images, labels = digits[2][:150], digits[3][:150]
    honest = evaluation.masking_report(digit_model, (images, labels), twin=digit_model)
    assert not honest.suspect, str(honest)
    logits_fn = logits_function(digit_model)
    masked = logits_function(lambda x: logits_fn(tf.round(x * 3) / 3 + 0 * x), from_logits=True)
    report = evaluation.masking_report(masked, (images, labels), twin=digit_model)
    assert {"zero gradients", "transfer"} <= suspects(report), str(report)
