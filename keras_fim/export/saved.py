"""A versioned SavedModel, written so that a watching server never sees half of one."""

import math
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_fim import records, validation
from keras_fim.arguments import checked, expect, require
from keras_fim.defenses import plain
from keras_fim.detection import FisherDetector
from keras_fim.evaluation.radius import Calibration
from keras_fim.export.companions import write_card, write_references, write_warm_up
from keras_fim.export.decoding import Limits
from keras_fim.export.signatures import Serving, classifier_signatures
from keras_fim.geometry.jacobian import NoGradientError
from keras_fim.logits import LogitsFunction, logits_function
from keras_fim.pixels import PixelRange, find_range, range_of_model
from keras_fim.typing import Bounds, Images, Model


@checked
def saved_model(
    model: Model,
    folder: str | Path,
    *,
    version: int | None = None,
    labels: Sequence[str] | None = None,
    detector: FisherDetector | None = None,
    report: Any = None,
    images: Images | None = None,
    bounds: Bounds | PixelRange | None = None,
    input_shape: tuple[int, ...] | None = None,
    kl: float = math.log(2),
    direction: bool = False,
    fisher_steps: int = 1,
    calibration: Calibration | None = None,
    limits: Limits | None = None,
    check: Callable[[Path], None] | None = None,
) -> Path:
    r"""Export a classifier as ``folder/<version>``, the layout that TensorFlow Serving watches.

    Signatures, for any batch size, none included; what is not finite is an error of the request. Each also returns
    ``in_bounds`` bool ``(batch,)``: False for an image outside of the pixel range by more than 0.5/255 of it, whose λ,
    radius, direction and score are NaN and which ``detect`` calls adversarial:

    * ``serving_default``: ``images`` -> ``probabilities`` float32 ``(batch, K)``, ``classes`` int64 ``(batch,)``;
    * ``logits``: ``images`` -> ``logits`` float32 ``(batch, K)``;
    * ``fisher``: ``images`` -> ``lambda_max`` float32 ``(batch,)``, the largest eigenvalue of the Fisher information
      matrix :math:`G_x`; ``kl_radius`` float32 ``(batch,)``, :math:`\sqrt{2\,\mathrm{kl} / \lambda_{\max}}`, the l2
      distance along the worst direction at which the predicted divergence reaches ``kl``, at most the diagonal of the
      box of all images (which is what :math:`\lambda_{\max} = 0` gives); and, if asked for, ``direction`` float32
      ``(batch, *image shape)``, whose sign has no meaning;
    * ``trust``: ``images`` -> ``boundary_radius`` float32 ``(batch,)``, the first-order l2 distance to the decision
      boundary (`keras_fim.boundary_radius`; NaN where no margin has a gradient), with a calibration
      ``calibrated_radius``, ``confidence``, the largest probability, and ``lambda_max``;
    * ``detect``, with a detector: ``images`` -> ``score`` float32, ``is_adversarial`` bool, each ``(batch,)``;
    * ``image_bytes``, for images of 1 or 3 channels: ``image_bytes``, PNG or JPEG files ``(batch,)`` -> as
      ``serving_default``. A file is turned as its EXIF orientation says, blended with white where it is transparent
      (PNG), resized, and scaled to the bounds.

    ``kl_radius`` is *not* the distance to the decision boundary: :math:`\lambda_{\max}` vanishes with the confidence,
    so that it is 2 to 20 times too far where a model is sure. ``trust`` answers that question.

    A model without a gradient, such as one that takes token ids, has none of ``fisher``, ``trust`` and ``detect``.

    Beside the model: ``model_card.json``; ``assets/labels.txt`` from ``labels``; in ``assets.extra/`` 16 reference
    inputs with the outputs of the model as it is here, for `keras_fim.export.verify`, and warm-up requests. These need
    ``tensorflow-serving-api`` (the extra ``[serving]``); without it there is a warning and none are written.

    All is written aside, in a hidden folder beside ``folder``, and renamed at the end: a server never sees a part. What
    a killed process leaves of it is removed by the next export.

    Args:
        model: a Keras model with a known input shape, the `keras_fim.logits.LogitsFunction` of one, or a defense of
            one, whose classifier is written.
        folder: the model's folder; made if it does not exist.
        version: a positive integer; ``None`` for the one after the largest in ``folder``, or 1.
        labels: names of the K classes.
        detector: what ``detect`` serves.
        report: what is known of the model, for its card: a mapping ready for JSON, with what there is of ``data``,
            ``accuracy``, ``mu``, ``robustness``, or an object whose ``as_dict()`` gives one.
        images: Real ones, as the model takes them, of which the first 16 become the reference inputs, encoded as files,
            too; ``None`` for random ones.
        bounds: The smallest and the largest pixel value that the model takes, or a pair of tuples with one value for
            each channel; ``None`` for what its leading rescaling says.
        input_shape: The shape of one image, for a model that does not state it.
        kl: the divergence of ``kl_radius``, in nats; at log 2 a certain prediction has fallen to 1/2.
        direction: whether ``fisher`` returns the direction, too: an image for each image.
        fisher_steps: largest number of Krylov steps of ``fisher``; one is what its cost was measured with.
        calibration: What `keras_fim.evaluation.calibrate` returned for the model in l2.
        limits: What one request may ask of the model; ``None`` for the usual `keras_fim.export.Limits`.
        check: A function of the folder that becomes the version, called before it does; if it raises an error, there is
            no new version.

    Returns:
        The folder written.

    Raises:
        ValueError: if the version exists, is no positive integer, the shape of the images or the bounds are not known,
            bounds that were found contradict a leading rescaling, or another argument does not fit.

    Example:
        >>> from keras_fim import models
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     saved_model(models.convnet(filters=(1, 1)), Path(folder) / "digits").name
        '1'
    """
    folder = Path(folder)
    _next_version(folder, version)  # refuses a path or a version before the work is done
    images = None if images is None else validation.check_images(images).numpy()
    logits_fn, image_shape = _keras_logits_function(model, input_shape)
    options: dict[str, Any] = {"kl": kl, "direction": direction, "fisher_steps": fisher_steps, "detector": detector}
    options |= {"calibration": calibration, "limits": limits or Limits(), "pixels": _pixels(logits_fn, images, bounds)}
    options |= {"differentiable": _has_gradient(logits_fn, image_shape, detector), "image_shape": image_shape}
    serving = Serving(logits_fn=logits_fn, labels=None if labels is None else list(map(str, labels)), **options)
    with records.aside(folder.resolve()) as unfinished:
        signatures = _write(serving, unfinished)
        write_references(serving, unfinished, images)
        warm_up = write_warm_up(signatures, unfinished, folder.resolve().name)
        if check is not None:
            check(unfinished)
        while number := _next_version(folder, version):
            write_card(unfinished, serving, signatures, version=number, report=report, warm_up=warm_up)
            if _published(unfinished, folder / str(number)):
                break
    return folder / str(number)


def _keras_logits_function(model: Model, input_shape: tuple[int, ...] | None) -> tuple[LogitsFunction, tuple[int, ...]]:
    """The logits function, and the shape of one image."""
    model = plain(model)
    given = model if isinstance(model, LogitsFunction) else None
    model = given.model if given else model
    stated = getattr(model, "input_shape", None) if isinstance(model, keras.Model) else None
    of_model = tuple(stated[1:]) if isinstance(stated, tuple) else None
    shape = tuple(input_shape) if input_shape is not None else of_model
    if not isinstance(model, keras.Model) or shape is None or None in shape:
        told = "pass input_shape=(height, width, channels) for one that does not state it"
        raise ValueError(f"`model` should be a Keras model with one input of known shape; {told}. Received: {model!r}")
    if of_model and not tf.TensorShape(of_model).is_compatible_with(shape):
        raise ValueError(f"`input_shape` should fit that of the model, {of_model}. Received: input_shape={input_shape}")
    return given or logits_function(model, tf.random.stateless_uniform((4, *shape), seed=(0, 0))), shape


def _pixels(logits_fn: LogitsFunction, images: Images | None, bounds: Bounds | PixelRange | None) -> PixelRange:
    """The range to serve, in agreement with a leading rescaling, or given against it."""
    pixels, told = find_range(logits_fn, images, bounds=bounds), range_of_model(logits_fn, images)
    if told and not np.allclose(told.bounds, pixels.bounds):
        message = f"`bounds` should agree with the model, which takes {told}. Received: {pixels}"
        require(pixels.given, message)
        warnings.warn(message, stacklevel=3)
    return pixels


def _has_gradient(logits_fn: LogitsFunction, image_shape: tuple[int, ...], detector: FisherDetector | None) -> bool:
    try:
        logits_fn.check_gradient(tf.zeros((1, *image_shape)))
    except NoGradientError:
        if detector is not None:
            raise ValueError("`detector` should be None: `model` has no gradient. Received: a detector") from None
        warnings.warn("`model` has no gradient: the signature `fisher` is left out", stacklevel=3)
        return False
    return True


def _next_version(folder: Path, version: int | None) -> int:
    """The version to write: the one asked for if it is free, or the next."""
    expected = "a path without [, ], * and ?, which TensorFlow takes for patterns when it loads a model"
    expect(not set("[]*?") & set(str(folder.resolve())), "folder", expected, received=repr(str(folder)))
    if version is None:
        return 1 + max((int(path.name) for path in folder.glob("*") if path.name.isdecimal()), default=0)
    expect(version >= 1 and not (folder / str(version)).exists(), "version", "a new positive integer", version)
    return version


def _published(unfinished: Path, target: Path) -> bool:
    """Rename; False if somebody else has just taken that version."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        records.publish(unfinished, target)
    except OSError:
        if target.exists():
            return False
        raise
    return True


def _write(serving: Serving, path: Path) -> dict[str, tf.types.experimental.ConcreteFunction]:
    """Write the SavedModel itself; its signatures as concrete functions."""
    signatures = {name: served.get_concrete_function() for name, served in classifier_signatures(serving).items()}
    module = tf.Module()
    # not the model: its variables would be saved twice, and a session (TensorFlow Serving's) would restore the others
    module.weights = [variable.value for variable in serving.logits_fn.model.variables]
    with tempfile.TemporaryDirectory() as temporary:
        if serving.labels is not None:
            num_classes = signatures["logits"].structured_outputs["logits"].shape[-1]
            valid = len(serving.labels) == num_classes and all(len(name.splitlines()) == 1 for name in serving.labels)
            expect(valid, "labels", f"{num_classes} names, a line each", serving.labels)
            file = Path(temporary) / "labels.txt"
            file.write_text("".join(f"{name}\n" for name in serving.labels), encoding="utf-8")
            module.labels = tf.saved_model.Asset(str(file))
        tf.saved_model.save(module, str(path), signatures=signatures)
    return signatures
