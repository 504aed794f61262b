"""A versioned SavedModel, written so that a watching server never sees half of one."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_fim.defenses import plain
from keras_fim.detection import FisherDetector
from keras_fim.export.companions import write_card, write_references, write_warm_up
from keras_fim.export.signatures import Serving, classifier_signatures
from keras_fim.logits import LogitsFunction, logits_function
from keras_fim.typing import Images, Model
from keras_fim.validation import check_bounds

__all__ = ["saved_model"]


def saved_model(
    model: Model,
    folder: str | Path,
    *,
    version: int | None = None,
    labels: Sequence[str] | None = None,
    detector: FisherDetector | None = None,
    report: Any = None,
    images: Images | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    kl: float = math.log(2),
    direction: bool = False,
    fisher_steps: int = 1,
) -> Path:
    r"""Export a classifier as ``folder/<version>``, the layout that TensorFlow Serving watches.

    Signatures, for any batch size, none included; what is not finite is an error of the request:

    * ``serving_default``: ``images`` -> ``probabilities`` float32 ``(batch, K)``, ``classes`` int64 ``(batch,)``;
    * ``logits``: ``images`` -> ``logits`` float32 ``(batch, K)``;
    * ``fisher``: ``images`` -> ``lambda_max`` float32 ``(batch,)``, the largest eigenvalue of the Fisher information
      matrix :math:`G_x`; ``kl_radius`` float32 ``(batch,)``, :math:`\sqrt{2\,\mathrm{kl} / \lambda_{\max}}`, the l2
      distance along the worst direction at which the predicted divergence reaches ``kl``, at most the diagonal of the
      box of all images (which is what :math:`\lambda_{\max} = 0` gives); and, if asked for, ``direction`` float32
      ``(batch, *image shape)``, whose sign has no meaning;
    * ``detect``, with a detector: ``images`` -> ``score`` float32, ``is_adversarial`` bool, each ``(batch,)``;
    * ``image_bytes``, for images of 1 or 3 channels: ``image_bytes``, PNG or JPEG files ``(batch,)``, decoded, resized
      and scaled to the bounds -> as ``serving_default``.

    Beside the model: ``model_card.json``; ``assets/labels.txt`` from ``labels``; in ``assets.extra/`` 16 reference
    inputs with the outputs of the model as it is here, for `keras_fim.export.verify`, and warm-up requests. These need
    ``tensorflow-serving-api`` (the extra ``[serving]``); without it there is a warning and none are written.

    All is written aside, in a hidden folder beside ``folder``, and renamed at the end. A process killed on the way
    leaves that folder, ``.<name>.<random>.tmp``, and nothing in ``folder``.

    Args:
        model: a Keras model with a known input shape, the `keras_fim.logits.LogitsFunction` of one, or a defence of
            one, whose classifier is written.
        folder: the model's folder; made if it does not exist.
        version: a positive integer; ``None`` for the one after the largest in ``folder``, or 1.
        labels: names of the K classes.
        detector: what ``detect`` serves.
        report: what is known of the model, for its card: a mapping ready for JSON, with what there is of ``data``,
            ``accuracy``, ``mu``, ``robustness``, or an object whose ``as_dict()`` gives one.
        images: real ones, of which the first 16 become the reference inputs; ``None`` for random ones.
        bounds: smallest and largest pixel value that the model takes.
        kl: the divergence of ``kl_radius``, in nats; at log 2 a certain prediction has fallen to 1/2.
        direction: whether ``fisher`` returns the direction, too: an image for each image.
        fisher_steps: largest number of Krylov steps of ``fisher``; one is what its cost was measured with.

    Returns:
        The folder written.

    Raises:
        ValueError: if the version exists, is not positive, the model's input shape is not known, or another argument
            does not fit.

    Example:
        >>> from keras_fim import models
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     saved_model(models.convnet(filters=(1, 1)), Path(folder) / "digits").name
        '1'
    """
    folder = Path(folder)
    logits_fn = _keras_logits_function(model)
    serving = Serving(
        image_shape=tuple(logits_fn.model.input_shape[1:]),
        bounds=check_bounds(bounds),
        kl=kl,
        direction=direction,
        fisher_steps=fisher_steps,
        detector=detector,
    )
    _next_version(folder, version)  # refuses a version that is taken before the work is done
    aside = folder.resolve().parent / f".{folder.resolve().name}.{uuid.uuid4().hex[:12]}.tmp"
    try:
        signatures = _write(logits_fn, serving, aside, labels)
        write_references(logits_fn, serving, aside, images)
        warm_up = write_warm_up(serving, aside, folder.resolve().name)
        while True:
            number = _next_version(folder, version)
            write_card(aside, logits_fn, serving, signatures, version=number, report=report, warm_up=warm_up)
            folder.mkdir(parents=True, exist_ok=True)
            if _renamed(aside, folder / str(number)):
                return folder / str(number)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _keras_logits_function(model: Model) -> LogitsFunction:
    model = plain(model)
    given = model if isinstance(model, LogitsFunction) else None
    model = given.model if given else model
    shape = getattr(model, "input_shape", None)
    if not isinstance(model, keras.Model) or not isinstance(shape, tuple) or None in shape[1:]:
        raise ValueError(f"`model` should be a Keras model with one input of known shape. Received: {model!r}")
    return given or logits_function(model)


def _next_version(folder: Path, version: int | None) -> int:
    """The version to write: the one asked for if it is free, or the next."""
    if version is None:
        return 1 + max((int(path.name) for path in folder.glob("*") if path.name.isdecimal()), default=0)
    if version < 1 or (folder / str(version)).exists():
        raise ValueError(f"`version` should be a new positive integer. Received: version={version} in {folder}")
    return version


def _renamed(aside: Path, target: Path) -> bool:
    """Rename; False if somebody else has just taken that version."""
    try:
        os.rename(aside, target)
    except OSError:
        if target.exists():
            return False
        raise
    return True


def _write(
    logits_fn: LogitsFunction, serving: Serving, path: Path, labels: Sequence[str] | None
) -> dict[str, tf.types.experimental.ConcreteFunction]:
    """Write the SavedModel itself; its signatures as concrete functions."""
    signatures = {
        name: function.get_concrete_function() for name, function in classifier_signatures(logits_fn, serving).items()
    }
    module = tf.Module()
    # not the model: its variables would be saved twice, and a session (TensorFlow Serving's) would restore the others
    module.weights = [variable.value for variable in logits_fn.model.variables]
    with tempfile.TemporaryDirectory() as temporary:
        if labels is not None:
            num_classes = signatures["logits"].structured_outputs["logits"].shape[-1]
            file = Path(temporary) / "labels.txt"
            file.write_text(_lines(labels, num_classes), encoding="utf-8")
            module.labels = tf.saved_model.Asset(str(file))
        tf.saved_model.save(module, str(path), signatures=signatures)
    return signatures


def _lines(labels: Sequence[str], num_classes: int) -> str:
    names = [str(label) for label in labels]
    if len(names) != num_classes or any(len(name.splitlines()) != 1 for name in names):
        raise ValueError(f"`labels` should be {num_classes} names, a line each. Received: labels={names}")
    return "".join(f"{name}\n" for name in names)
