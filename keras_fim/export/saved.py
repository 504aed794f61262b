"""A versioned SavedModel, written so that a watching server never sees half of one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import keras
import tensorflow as tf

from keras_fim.defenses import plain
from keras_fim.logits import LogitsFunction, logits_function
from keras_fim.typing import Model

__all__ = ["saved_model"]


def saved_model(model: Model, folder: str | Path, *, version: int | None = None) -> Path:
    """Export a classifier as ``folder/<version>``, the layout that TensorFlow Serving watches.

    Signatures, each for any batch size:

    * ``serving_default``: ``images`` -> ``probabilities`` float32 ``(batch, K)``, ``classes`` int64 ``(batch,)``;
    * ``logits``: ``images`` -> ``logits`` float32 ``(batch, K)``.

    Args:
        model: a Keras model with a known input shape, the `keras_fim.logits.LogitsFunction` of one, or a defence of
            one, whose classifier is written.
        folder: the model's folder; made if it does not exist.
        version: a positive integer; ``None`` for the one after the largest in ``folder``, or 1.

    Returns:
        The folder written.

    Raises:
        ValueError: if the version exists, is not positive, or the model's input shape is not known.
    """
    folder = Path(folder)
    model = plain(model)
    given = model if isinstance(model, LogitsFunction) else None
    model = given.model if given else model
    shape = getattr(model, "input_shape", None)
    if not isinstance(model, keras.Model) or not isinstance(shape, tuple) or None in shape[1:]:
        raise ValueError(f"`model` should be a Keras model with one input of known shape. Received: {model!r}")
    if version is None:
        version = 1 + max((int(path.name) for path in folder.glob("*") if path.name.isdecimal()), default=0)
    target = folder / str(version)
    if version < 1 or target.exists():
        raise ValueError(f"`version` should be a new positive integer. Received: version={version} in {folder}")
    aside = folder / f".{version}.{os.getpid()}.tmp"
    try:
        _write(given or logits_function(model), shape[1:], aside)
        aside.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def _write(logits_fn: LogitsFunction, image_shape: tuple[int, ...], path: Path) -> None:
    images = tf.TensorSpec((None, *image_shape), tf.float32, name="images")

    @tf.function(input_signature=[images])
    def predict(images: tf.Tensor) -> dict[str, tf.Tensor]:
        logits = tf.cast(logits_fn(images), tf.float32)
        return {"probabilities": tf.nn.softmax(logits), "classes": tf.argmax(logits, axis=-1)}

    @tf.function(input_signature=[images])
    def logits(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"logits": tf.cast(logits_fn(images), tf.float32)}

    module = tf.Module()
    module.model = logits_fn.model
    tf.saved_model.save(module, str(path), signatures={"serving_default": predict, "logits": logits})
