"""Networks of ``keras.applications`` at 224 pixels and 1,000 classes, with random weights."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_fim
from keras_fim import attacks, export
from keras_fim.logits import logits_function
from keras_fim.pixels import find_range

pytestmark = pytest.mark.nightly

NETWORKS = {  # the range that the network takes; whether its own layers tell it
    "EfficientNetV2B0": ((0.0, 255.0), True),
    "MobileNetV3Small": ((0.0, 255.0), True),
    "ResNet50V2": ((-1.0, 1.0), False),
}


def network(name, images):
    """With logits of deviation 1, where random weights give as little as 1e-10."""
    model = getattr(keras.applications, name)(weights=None)
    last = [layer for layer in model.layers if hasattr(layer, "kernel")][-1]
    last.kernel.assign(last.kernel / np.std(logits_function(model, images)(images)))
    return model


@pytest.mark.parametrize("name", NETWORKS)
def test_attacks_spectrum_and_export_of_a_network_with_a_thousand_classes(name, tmp_path):
    (low, high), told = NETWORKS[name]
    images = np.random.default_rng(0).uniform(low, high, (4, 224, 224, 3)).astype("float32")
    model = network(name, images)
    labels = model(images).numpy().argmax(axis=-1)
    options = {"images": images, "input_shape": (224, 224, 3)}
    if told:
        pixels = find_range(model, images)
        assert pixels.bounds == (low, high) and "Rescaling(1/" in pixels.origin
    else:
        with pytest.raises(ValueError, match="`bounds` should be .lowest, highest. pixel value: the model does not"):
            export.saved_model(model, tmp_path / "m", **options)
        options["bounds"] = (low, high)
    epsilon, rounding = 8 / 255 * (high - low), 1e-6 * (high - low)
    for attack in (attacks.FGSM(bounds=(low, high)), attacks.PGD(steps=5, bounds=(low, high))):
        result = attack(model, images, labels, epsilon=epsilon)
        assert np.isfinite(result.adversarials).all() and result.was_correct.all()
        assert (result.adversarials != images).mean() > 0.5 and result.distances.max() <= epsilon + rounding
        assert result.adversarials.min() >= low and result.adversarials.max() <= high
        np.testing.assert_array_equal(result.success, model(result.adversarials).numpy().argmax(axis=-1) != labels)
        assert result.success.all()
    spectrum = keras_fim.fisher_spectrum(model, images, bounds=options.get("bounds"), max_steps=3)
    largest = spectrum.eigenvalues[:, 0].numpy()
    assert np.isfinite(largest).all() and largest.min() > 0
    norms = np.linalg.norm(np.reshape(spectrum.directions, (4, -1)), axis=-1)
    np.testing.assert_allclose(norms, 1, rtol=1e-4)
    served = tf.saved_model.load(str(export.saved_model(model, tmp_path / "m", **options))).signatures
    answers = {key: served[key](images=tf.constant(images)) for key in ("serving_default", "fisher")}
    assert answers["serving_default"]["classes"].numpy().tolist() == labels.tolist()
    figures = [answers["fisher"][key].numpy() for key in ("lambda_max", "kl_radius")]
    assert np.isfinite(figures).all() and np.min(figures) > 0
    assert (figures[0] <= largest * (1 + 1e-3)).all() and (figures[0] >= 0.3 * largest).all()  # one step, from below
