"""The measurement: what counts as a success, and what is kept of it."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_fim import attacks, evaluation
from keras_fim.evaluation.cells import packed, unpacked
from keras_fim.evaluation.measurement import Outcome, measure
from keras_fim.evaluation.sources import Chunk
from keras_fim.logits import logits_function

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(0.2, 0.8, size=(40, 6, 6, 1)).astype("float32")


def linear(scale=1.0):
    layers = [keras.layers.Flatten(), keras.layers.Dense(4), keras.layers.Softmax()]
    model = keras.Sequential([keras.Input((6, 6, 1)), *layers])
    model.set_weights([scale * np.random.default_rng(1).normal(size=(36, 4)), np.zeros(4)])
    return model


def chunk_of(model):
    """The images with the classes that the model predicts by its logits."""
    return Chunk(np.arange(len(IMAGES)), IMAGES, logits_function(model)(tf.constant(IMAGES)).numpy().argmax(axis=-1))


@pytest.mark.parametrize("attack", [attacks.FGM(), attacks.FMN(), attacks.PGD(norm=2, steps=3)], ids=repr)
def test_successes_survive_the_probabilities_that_the_user_sees(attack):
    """Logits that differ by 1e-8 are told apart by the attack, but not after a softmax in float32."""
    model = linear(1e-7)
    chunk = chunk_of(model)
    outcome = measure(logits_function(model), attack, [0.05, 0.5], chunk)
    claimed = outcome.fooled | outcome.unconfirmed
    reported = attack.sweep(model, chunk.images, chunk.labels, [0.05, 0.5])
    np.testing.assert_array_equal(claimed, [result.success for result in reported])
    assert outcome.unconfirmed.any() and not (outcome.fooled & outcome.unconfirmed).any()
    for row, result in zip(outcome.fooled, reported, strict=True):
        seen = model(result.adversarials).numpy().argmax(axis=-1) != chunk.labels
        np.testing.assert_array_equal(row, result.success & seen)
    (curve_row, _) = evaluation.robustness_curve(model, IMAGES, chunk.labels, attack, [0.05, 0.5]).rows
    assert curve_row.num_unconfirmed == outcome.unconfirmed[0].sum() and "unconfirmed" in curve_row.line()
    honest = measure(logits_function(linear()), attack, [0.05, 0.5], chunk_of(linear()))
    assert honest.fooled.any() and not honest.unconfirmed.any()


def test_what_the_model_answers_with_nan_is_no_success():
    model = linear()

    def fragile(x):  # answers with NaN what lies off the images
        return tf.where(tf.reduce_min(x, axis=(1, 2, 3))[:, None] < 0.2, tf.constant(np.nan, tf.float32), model(x))

    logits_fn = logits_function(fragile, from_logits=False)
    outcome = measure(logits_fn, attacks.FGSM(), [0.25], chunk_of(model))
    assert not outcome.fooled.any()


@pytest.mark.parametrize(
    "attack",
    [attacks.FGSM(), attacks.FMN(), pytest.param(attacks.Strong(quick=True), marks=pytest.mark.slow)],
    ids=["fgsm", "fmn", "strong"],
)
def test_an_outcome_survives_json_and_chunks_are_joined(attack):
    model = linear()
    chunk, logits_fn = chunk_of(model), logits_function(model)
    parts = [measure(logits_fn, attack, [0.0, 0.1], chunk.take(part)) for part in (slice(25), slice(25, None))]
    names = Outcome._fields[:-1]
    texts = [json.dumps(packed({name: getattr(part, name) for name in names})) for part in parts]
    read = [unpacked(json.loads(text), names, size) for text, size in zip(texts, (25, 15), strict=True)]
    for columns, part in zip(read, parts, strict=True):
        for name, column in columns.items():
            np.testing.assert_array_equal(column, getattr(part, name))
            assert column.dtype == np.asarray(getattr(part, name)).dtype
    joined = Outcome.joined(Outcome(**columns) for columns in read)
    whole = measure(logits_fn, attack, [0.0, 0.1], chunk)
    np.testing.assert_array_equal(joined.was_correct, whole.was_correct)
    np.testing.assert_allclose(joined.fooled.sum(axis=1), whole.fooled.sum(axis=1), atol=1)
    assert (joined.distances[~np.isfinite(joined.distances)] == np.inf).all()
    assert (joined.stages.max() >= 0) == isinstance(attack, attacks.Strong)
    assert not joined.fooled[0].any() and joined.fooled.shape == (2, 40)


def test_the_distance_of_an_attack_with_budgets_is_that_of_its_nearest_success():
    model = linear()
    chunk = chunk_of(model)
    outcome = measure(logits_function(model), attacks.FGM(), [0.3, 0.1, 0.2], chunk)
    assert np.isinf(outcome.distances[~outcome.fooled.any(axis=0)]).all()
    actual = outcome.distances[outcome.fooled.any(axis=0)]
    assert ((actual > 0) & (actual <= 0.3 + 1e-6)).all()
    nearest = np.array([0.1, 0.2, 0.3])[outcome.fooled[[1, 2, 0]].argmax(axis=0)]
    np.testing.assert_allclose(actual, nearest[outcome.fooled.any(axis=0)], rtol=1e-5)
