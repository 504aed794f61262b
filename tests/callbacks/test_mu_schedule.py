from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_fim import FisherTraceLoss
from keras_fim.callbacks import MuSchedule
from keras_fim.defenses import SpectralDefense

IMAGES, LABELS = np.random.default_rng(0).normal(size=(32, 3)).astype("float32"), np.arange(32) % 4


@pytest.fixture
def model():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Softmax()])
    model.compile("sgd", loss=FisherTraceLoss(0.02))
    return model


class Record(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.mus = []

    def on_train_batch_end(self, batch, logs=None):
        self.mus.append(float(self.model.loss.mu.numpy()))


def test_warm_up_is_linear_and_goes_on_in_a_second_fit(model):
    record = Record()
    history = model.fit(IMAGES, LABELS, 8, callbacks=[MuSchedule(0.6, warmup_steps=6), record], verbose=0)
    assert history.history["mu"] == pytest.approx([0.3])
    model.fit(IMAGES, LABELS, 8, callbacks=[MuSchedule(0.6, warmup_steps=6), record], verbose=0)
    assert record.mus == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.6])


def test_any_keras_schedule(model):
    record = Record()
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.5, 0.25])
    model.fit(IMAGES, LABELS, 8, callbacks=[MuSchedule(schedule), record], verbose=0)
    assert record.mus == pytest.approx([0.5, 0.5, 0.25, 0.25])


def test_mu_enters_the_compiled_training_step(model):
    """The loss that fit reports is the one at the scheduled μ, not at the one it was built with."""
    plain = model.evaluate(IMAGES, LABELS, verbose=0)
    model.loss.mu.assign(0.0)
    at_zero = model.evaluate(IMAGES, LABELS, verbose=0)
    model.optimizer.learning_rate = 0.0
    reported = model.fit(IMAGES, LABELS, 32, callbacks=[MuSchedule(0.04)], verbose=0).history["loss"][0]
    assert reported - at_zero == pytest.approx(2 * (plain - at_zero), rel=1e-3)


def test_another_target_than_the_loss(model):
    class Target:
        mu = keras.Variable(0.0, trainable=False)

    model.fit(IMAGES, LABELS, callbacks=[MuSchedule(0.7, target=Target)], verbose=0)
    assert float(Target.mu.numpy()) == pytest.approx(0.7)


def test_mu_of_loss_and_model_has_to_be_told_apart(model):
    defended = SpectralDefense(model, mu=0.3, bounds=(-10, 10))
    defended.compile("sgd", loss=model.loss)
    with pytest.raises(ValueError, match=r"pass target=model\.loss or target=model\."):
        defended.fit(IMAGES, LABELS, callbacks=[MuSchedule(0.7)], verbose=0)
    defended.fit(IMAGES, LABELS, callbacks=[MuSchedule(0.7, target=defended)], verbose=0)
    assert float(defended.mu.numpy()) == pytest.approx(0.7)
