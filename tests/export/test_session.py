"""The export in a graph-mode session, which is how TensorFlow Serving loads and runs it."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

import keras_fim

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(exported):
    """A function that runs a signature on images, in one session for all."""
    graph = tf.Graph()
    with graph.as_default():
        session = tf.compat.v1.Session(graph=graph)
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(exported.path))

    def run(name, images):
        signature = loaded.signature_def[name]
        outputs = {key: tensor.name for key, tensor in signature.outputs.items()}
        return session.run(outputs, {signature.inputs["images"].name: images})

    yield run
    session.close()


def test_every_signature_answers_as_keras_does(run, exported):
    images, model = exported.images[:6], exported.model
    expected = np.asarray(model(images))
    predicted, trust, fisher = (run(name, images) for name in ("serving_default", "trust", "fisher"))
    np.testing.assert_allclose(predicted["probabilities"], expected, atol=1e-6)
    np.testing.assert_array_equal(predicted["classes"], expected.argmax(axis=-1))
    spectrum = keras_fim.fisher_spectrum(model, images, max_steps=1)
    np.testing.assert_allclose(fisher["lambda_max"], spectrum.eigenvalues[:, 0], rtol=1e-4)
    radius = keras_fim.boundary_radius(model, images).radius
    np.testing.assert_allclose(trust["boundary_radius"], radius, rtol=1e-4)
    np.testing.assert_allclose(trust["confidence"], expected.max(axis=-1), rtol=1e-5)
    scores = exported.detector.scores(model, images)
    np.testing.assert_allclose(run("detect", images)["score"], scores, rtol=1e-3, atol=1e-3)


def test_any_number_of_images_and_an_error_for_what_is_not_finite(run, exported):
    for name in ("serving_default", "logits", "fisher", "trust", "detect"):
        whole = run(name, exported.images[:5])
        for size in (0, 1, 3):
            part = run(name, exported.images[:size])
            assert all(len(value) == size for value in part.values())
            for key, value in part.items():
                np.testing.assert_allclose(value, whole[key][:size], rtol=1e-3, atol=1e-4)
        with pytest.raises(tf.errors.InvalidArgumentError, match="`images` should be finite"):
            run(name, exported.images[:1] * np.nan)
