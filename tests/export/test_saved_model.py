from __future__ import annotations

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_fim import export, models
from keras_fim.export import saved


@pytest.fixture
def model():
    return models.convnet(filters=(2, 3))


def test_signatures_serve_what_the_model_predicts_in_a_process_without_keras(model, tmp_path):
    images = np.random.default_rng(0).uniform(size=(5, 28, 28, 1)).astype("float32")
    np.savez(tmp_path / "reference.npz", images=images, probabilities=model.predict(images, verbose=0))
    path = export.saved_model(model, tmp_path / "digits")
    assert path == tmp_path / "digits" / "1"
    program = """
import sys, numpy as np, tensorflow as tf
loaded = tf.saved_model.load(sys.argv[1]).signatures
reference = np.load(sys.argv[2])
for size in (5, 1, 2):
    images = reference["images"][:size]
    served = loaded["serving_default"](images=images)
    assert set(served) == {"probabilities", "classes"}
    np.testing.assert_allclose(served["probabilities"], reference["probabilities"][:size], atol=1e-5)
    np.testing.assert_array_equal(served["classes"], reference["probabilities"][:size].argmax(-1))
    assert served["classes"].dtype == tf.int64
    logits = loaded["logits"](images=images)["logits"]
    np.testing.assert_allclose(tf.nn.softmax(logits), served["probabilities"], atol=1e-6)
assert "keras_fim" not in sys.modules
"""
    command = [sys.executable, "-c", program, str(path), str(tmp_path / "reference.npz")]
    subprocess.run(command, check=True, timeout=120)


def test_versions_count_up_and_are_never_overwritten(model, tmp_path):
    assert [export.saved_model(model, tmp_path).name for _ in "ab"] == ["1", "2"]
    assert export.saved_model(model, tmp_path, version=7).name == "7"
    assert export.saved_model(model, tmp_path).name == "8"
    with pytest.raises(ValueError, match="`version` should be a new positive integer. Received: version=7"):
        export.saved_model(model, tmp_path, version=7)
    with pytest.raises(ValueError, match="version=0"):
        export.saved_model(model, tmp_path, version=0)


def test_failed_export_leaves_nothing(model, tmp_path, monkeypatch):
    export.saved_model(model, tmp_path)

    def fail(module, path, signatures):
        tf.io.gfile.makedirs(path)
        raise OSError("disk full")

    monkeypatch.setattr(saved.tf.saved_model, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        export.saved_model(model, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_model_of_unknown_shape_is_refused(tmp_path):
    layers = [keras.Input((None, None, 1)), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)]
    model = keras.Sequential(layers)
    with pytest.raises(ValueError, match="known shape"):
        export.saved_model(model, tmp_path)
