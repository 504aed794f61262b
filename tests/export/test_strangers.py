"""SavedModels of strangers: what their graphs reach is named before they are loaded, and refused with --strict."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import tensorflow as tf

from keras_fim import cli, export
from keras_fim.logits import logits_function
from keras_fim.strangers import reaching_operations


class Stranger(tf.Module):
    """A classifier that writes a file when it is called."""

    def __init__(self, path):
        super().__init__()
        self.weights, self.path = tf.Variable(tf.ones((784, 10))), str(path)

    @tf.function(input_signature=[tf.TensorSpec((None, 28, 28, 1), tf.float32, name="images")])
    def serve(self, images):
        tf.io.write_file(self.path, "the stranger was here")
        return {"logits": tf.reshape(images, (-1, 784)) @ self.weights}


@pytest.fixture
def stranger(tmp_path):
    module = Stranger(tmp_path / "written")
    tf.saved_model.save(module, str(tmp_path / "model"), signatures={"serving_default": module.serve})
    return tmp_path / "model"


def test_an_ordinary_export_reaches_nothing(exported):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reaching_operations(exported.path) == []
        logits_function(exported.path, exported.images[:2])


def test_what_a_stranger_reaches_is_named_before_it_is_loaded(stranger, tmp_path, capsys):
    with pytest.warns(UserWarning, match="reach beyond its graph: it contains WriteFile. A SavedModel is a program"):
        logits_function(stranger, np.zeros((2, 28, 28, 1), "float32"))
    (tmp_path / "written").unlink(missing_ok=True)
    arguments = ["--model", str(stranger), "--data", "mnist5k", "--strict", "--out", str(tmp_path / "out")]
    assert cli.main(["evaluate", *arguments]) == 2
    assert "it contains WriteFile. Load it without --strict only if" in capsys.readouterr().err
    (stranger / "assets.extra").mkdir()
    (stranger / "assets.extra" / "keras_fim_reference.npz").touch()
    assert cli.main(["verify", str(stranger), "--strict"]) == 2
    assert "it contains WriteFile" in capsys.readouterr().err
    assert not (tmp_path / "written").exists() and not (tmp_path / "out").exists()


def test_the_name_of_a_saver_hides_no_other_operation(stranger):
    path = stranger / "saved_model.pb"
    content = path.read_bytes()
    assert b"__inference_serve_" in content
    path.write_bytes(content.replace(b"__inference_serve_", b"__inference_save__"))  # of one length
    assert reaching_operations(stranger) == ["WriteFile"]


@pytest.mark.parametrize("damage", [lambda content: content[: len(content) // 2], lambda content: b"no model"])
def test_damaged_models_are_named(damage, stranger):
    path = stranger / "saved_model.pb"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match="should be a SavedModel"):
        logits_function(stranger)
    with pytest.raises(ValueError, match="should be a"):
        export.verify(stranger)
