"""What a server is asked: the signatures of an exported classifier, as functions that need no Python."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_fim.arguments import Count, Positive, check_fields, expect
from keras_fim.detection import FisherDetector
from keras_fim.evaluation.radius import Calibration
from keras_fim.evaluation.spectrum import spectrum_and_radius
from keras_fim.export.decoding import Limits, decoded
from keras_fim.geometry import boundary, linearize
from keras_fim.geometry.spectrum import spectrum_and_logits
from keras_fim.logits import LogitsFunction
from keras_fim.pixels import PixelRange
from keras_fim.validation import inside_or_not

Outputs = dict[str, tf.Tensor]
_FILES = tf.TensorSpec((None,), tf.string, name="image_bytes")
_INFORMATION = "the Fisher information is"
_RADII = ("kl_radius", "boundary_radius", "calibrated_radius")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Serving:
    """What is served of a classifier.

    Attributes:
        logits_fn: The classifier.
        image_shape: shape of one image.
        pixels: The pixel values that the model takes.
        kl: Kullback-Leibler divergence, in nats, that ``kl_radius`` is for.
        direction: whether ``fisher`` returns the eigenvector, too.
        fisher_steps: largest number of Krylov steps of ``fisher``.
        detector: of the signature ``detect``.
        calibration: What ``trust`` multiplies the boundary radius by for its calibrated one; ``None`` for none.
        differentiable: Whether the model has a gradient; without one there is no ``fisher``, ``trust``, ``detect``.
        limits: What one request may ask.
        labels: The names of the classes, or ``None``.
    """

    logits_fn: LogitsFunction
    image_shape: tuple[int, ...]
    pixels: PixelRange
    kl: Positive
    direction: bool
    fisher_steps: Count
    detector: FisherDetector | None
    calibration: Calibration | None = None
    differentiable: bool = True
    limits: Limits = Limits()
    labels: list[str] | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        expect(self.calibration is None or self.calibration.norm == "l2", "calibration", "one in l2", self.calibration)

    @property
    def decodes(self) -> bool:
        """Whether images can come as PNG or JPEG."""
        return len(self.image_shape) == 3 and self.image_shape[-1] in (1, 3)

    def radius(self, eigenvalues: Any) -> tf.Tensor:
        r""":math:`\sqrt{2\,\mathrm{kl} / \lambda}`, at most the diagonal of the box of all images."""
        spans = np.broadcast_to(np.subtract(self.pixels.high, self.pixels.low), self.image_shape)
        return tf.sqrt(2 * self.kl / tf.maximum(eigenvalues, 2 * self.kl / float(np.linalg.norm(spans)) ** 2))

    def boundary_radii(self, radius: Any) -> dict[str, Any]:
        """The boundary radius, and the calibrated one if there is a calibration, as ``trust`` calls them."""
        calibrated = {} if self.calibration is None else {"calibrated_radius": self.calibration.factor * radius}
        return {"boundary_radius": radius, **calibrated}


def classifier_signatures(serving: Serving) -> dict[str, Any]:
    """The signatures by name, each for any number of images: none at all gives outputs of length 0.

    A value that is not finite, in an image or in what the model makes of it, is an error of that request. An image
    outside of the pixel range by less than 0.5/255 of it is clipped; one further outside has ``in_bounds`` False, and
    its figures of robustness are NaN.

    Args:
        serving: What is served.

    Returns:
        ``tf.function`` by name, ready for ``tf.saved_model.save``.
    """
    logits_fn = serving.logits_fn
    detector: Any = serving.detector
    images = tf.TensorSpec((None, *serving.image_shape), tf.float32, name="images")

    def predict(images: tf.Tensor) -> Outputs:
        logits = _finite(logits_fn(images))
        return {"probabilities": tf.nn.softmax(logits), "classes": tf.argmax(logits, axis=-1)}

    def fisher(images: tf.Tensor) -> Outputs:
        spectrum, logits = spectrum_and_logits(logits_fn, images, 1, max_steps=serving.fisher_steps)
        with tf.control_dependencies([_finite(logits)]):
            eigenvalues = _finite(spectrum.eigenvalues[:, 0], _INFORMATION)
        outputs = {"lambda_max": eigenvalues, "kl_radius": serving.radius(eigenvalues)}
        return {**outputs, "direction": spectrum.directions[:, 0]} if serving.direction else outputs

    def trust(images: tf.Tensor) -> Outputs:
        figures = trusted(serving.fisher_steps, logits_fn, images)
        with tf.control_dependencies([_finite(figures["logits"])]):
            radius = tf.identity(figures["radius"])
        eigenvalues = _finite(figures["lambda_max"], _INFORMATION)
        return {**serving.boundary_radii(radius), "confidence": figures["confidence"], "lambda_max": eigenvalues}

    def detect(images: tf.Tensor) -> Outputs:
        score = _finite(detector.score(logits_fn, images), "the score is")
        return {"score": score, "is_adversarial": score > tf.cast(detector.threshold, score.dtype)}

    def image_bytes(image_bytes: tf.Tensor) -> Outputs:
        files, pixels = serving.limits.checked(image_bytes, "image_bytes"), serving.pixels.bounds
        return for_any_batch(predict)(decoded(files, serving.image_shape, pixels, serving.limits))

    def for_any_batch(function: Callable[[tf.Tensor], Outputs]) -> Callable[[tf.Tensor], Outputs]:
        def signature(images: tf.Tensor) -> Outputs:
            images = serving.limits.checked(images, "images")
            given = _never_empty(tf.debugging.check_numerics(images, "`images` should be finite"))
            points, in_bounds = inside_or_not(given, serving.pixels.bounds)
            outputs = {**_marked(function(logits_fn.cast(points)), in_bounds), "in_bounds": in_bounds}
            return {name: value[: tf.shape(images)[0]] for name, value in outputs.items()}

        return signature

    served = {"serving_default": predict, "logits": lambda x: {"logits": _finite(logits_fn(x))}}
    served |= {"fisher": fisher, "trust": trust} if serving.differentiable else {}
    served |= {"detect": detect} if detector else {}
    signatures = {name: _compiled(for_any_batch(function), name, images) for name, function in served.items()}
    if serving.decodes:
        signatures["image_bytes"] = _compiled(image_bytes, "image_bytes", _FILES)
    return signatures


def trusted(steps: int, logits_fn: LogitsFunction, images: tf.Tensor) -> Outputs:
    """What ``trust`` is made of, from as few gradients as possible: λ and the boundary radius share them.

    Args:
        steps: The largest number of Krylov steps.
        logits_fn: The classifier.
        images: ``(batch, ...)``, floating, at least one.

    Returns:
        ``lambda_max``, ``radius`` and ``confidence`` ``(batch,)``, and ``logits``. With more than four classes λ comes
        from another Krylov space than that of ``fisher``; both are at most the eigenvalue.
    """
    jacobian = linearize(logits_fn, images)
    logits = jacobian.logits
    if logits.shape[-1] > boundary.RIVALS + 1:
        spectrum, radius = spectrum_and_radius(logits_fn, jacobian, images, steps)
    else:
        spectrum, radius = spectrum_and_logits(logits_fn, images, 1)[0], boundary.boundary_distance(jacobian)[0]
    confidence = tf.reduce_max(tf.nn.softmax(logits), axis=-1)
    return {"lambda_max": spectrum.eigenvalues[:, 0], "radius": radius, "confidence": confidence, "logits": logits}


def _finite(tensor: tf.Tensor, name: str = "the model's logits are") -> tf.Tensor:
    """The tensor, unless a value is NaN or infinite: an error of the request."""
    return tf.debugging.check_numerics(tensor, f"{name} not finite")


def _marked(outputs: Outputs, in_bounds: tf.Tensor) -> Outputs:
    """Outputs in float32; of an image outside of the range NaN for how robust it is, and adversarial as its verdict."""
    marked = {k: tf.cast(v, tf.float32) if v.dtype.is_floating else v for k, v in outputs.items()}
    for name in {*_RADII, "lambda_max", "direction", "score"} & set(outputs):
        keep = tf.reshape(in_bounds, [-1, *[1] * (outputs[name].shape.rank - 1)])
        marked[name] = tf.where(keep, marked[name], math.nan)
    if "is_adversarial" in outputs:
        marked["is_adversarial"] = outputs["is_adversarial"] | ~in_bounds
    return marked


def _compiled(function: Callable[[tf.Tensor], Outputs], name: str, spec: tf.TensorSpec) -> Any:
    """A ``tf.function`` whose name, which a trace of the server shows, is that of the signature."""
    function.__name__ = name
    return tf.function(function, input_signature=[spec])


def _never_empty(images: tf.Tensor) -> tf.Tensor:
    """Images, or one of zeros where there are none: convolutions of an empty batch return wrong shapes."""
    missing = tf.cast(tf.equal(tf.shape(images)[0], 0), tf.int32)
    return tf.pad(images, [[0, missing], *[[0, 0]] * (images.shape.rank - 1)])
