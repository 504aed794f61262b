"""What cannot be told of a model is left out of the logs, so that no checkpoint is kept for it."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_fim.attacks import FGSM
from keras_fim.callbacks import RobustnessCurve


def constant(label, before=()):
    model = keras.Sequential([keras.Input((6, 6, 1)), *before, keras.layers.Flatten(), keras.layers.Dense(4)])
    kernel, bias = np.zeros((36, 4), "float32"), np.zeros(4, "float32")
    kernel[:, label], bias[label] = 1e-3, 10
    model.set_weights([kernel, bias])
    return model


def test_fooling_of_a_model_of_one_class_is_left_out(patterns):
    logs = RobustnessCurve(patterns, FGSM(), [0.1, 0.2], max_samples=20).measure(constant(1))
    assert not [key for key in logs if key.startswith(("val_fooling", "val_distance"))]
    assert logs["val_robust_accuracy/fgsm/eps_0p1"] == logs["val_clean/accuracy"] == 0.25


def test_fooling_of_a_model_that_is_always_wrong_is_left_out(patterns):
    images, labels = patterns
    wrong = images[labels != 1], labels[labels != 1]
    logs = RobustnessCurve(wrong, FGSM(), [0.1, 0.2], max_samples=20).measure(constant(1))
    assert not [key for key in logs if key.startswith(("val_fooling", "val_distance"))]
    assert logs["val_robust_accuracy/fgsm/eps_0p1"] == 0


def test_best_checkpoint_is_not_the_constant_model(patterns, small_model, tmp_path):
    """It was kept for ever: a fooling ratio of 0 in the first epoch."""
    key = "val_fooling/fgsm/eps_0p1"
    curve = RobustnessCurve(patterns, FGSM(), [0.1], max_samples=20)
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", monitor=key, mode="min", save_best_only=True)
    measured = []
    for model in (constant(1), small_model):
        if model is small_model:
            model.fit(*patterns, epochs=8, verbose=0)
        checkpoint.set_model(model)
        checkpoint.on_epoch_end(len(measured), curve.measure(model))
        measured.append(model)
    kept = keras.models.load_model(tmp_path / "best.keras")
    predictions = [model.predict(patterns[0], verbose=0) for model in (kept, small_model)]
    np.testing.assert_allclose(*predictions, rtol=1e-5)


def test_bounds_scale_the_default_budgets(patterns):
    images, labels = patterns
    curve = RobustnessCurve((255 * images, labels), bounds=(0, 255), max_samples=10)
    np.testing.assert_allclose(curve.epsilons["fgsm"], 255 * np.array([0.05, 0.1, 0.15, 0.2, 0.25, 0.3]))


def test_a_model_of_another_range_is_refused(patterns):
    curve = RobustnessCurve(patterns, FGSM(), [0.1], max_samples=10)
    with pytest.raises(ValueError, match=r"pixels 0..255, found from Rescaling\(1/255\)"):
        curve.measure(constant(1, [keras.layers.Rescaling(1 / 255)]))
