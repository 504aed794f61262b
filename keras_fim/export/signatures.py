"""What a server is asked: the signatures of an exported classifier, as functions that need no Python."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_fim.detection import FisherDetector
from keras_fim.geometry.spectrum import spectrum_and_logits
from keras_fim.logits import LogitsFunction

__all__ = ["MAX_PIXELS", "Serving", "classifier_signatures"]

MAX_PIXELS = 1 << 24
"""Largest image, width times height, that ``image_bytes`` decodes: a small file can announce gigabytes."""

Outputs = dict[str, tf.Tensor]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Serving:
    """What is served of a classifier.

    Attributes:
        image_shape: shape of one image.
        bounds: smallest and largest pixel value.
        kl: Kullback-Leibler divergence, in nats, that ``kl_radius`` is for.
        direction: whether ``fisher`` returns the eigenvector, too.
        fisher_steps: largest number of Krylov steps of ``fisher``.
        detector: of the signature ``detect``.
    """

    image_shape: tuple[int, ...]
    bounds: tuple[float, float]
    kl: float
    direction: bool
    fisher_steps: int
    detector: FisherDetector | None

    def __post_init__(self) -> None:
        if not 0 < self.kl < math.inf:
            raise ValueError(f"`kl` should be a positive number. Received: kl={self.kl}")
        if self.fisher_steps < 1:
            raise ValueError(f"`fisher_steps` should be a positive integer. Received: fisher_steps={self.fisher_steps}")

    @property
    def decodes(self) -> bool:
        """Whether images can come as PNG or JPEG."""
        return len(self.image_shape) == 3 and self.image_shape[-1] in (1, 3)

    def radius(self, eigenvalues: Any) -> tf.Tensor:
        r""":math:`\sqrt{2\,\mathrm{kl} / \lambda}`, at most the diagonal of the box of all images."""
        diagonal = (self.bounds[1] - self.bounds[0]) * math.sqrt(math.prod(self.image_shape))
        smallest = tf.maximum(eigenvalues, 2 * self.kl / diagonal**2)
        return tf.sqrt(2 * self.kl / smallest)


def classifier_signatures(logits_fn: LogitsFunction, serving: Serving) -> dict[str, Any]:
    """The signatures by name, each for any number of images: none at all gives outputs of length 0.

    A value that is not finite, in an image or in what the model makes of it, is an error of that request.

    Args:
        logits_fn: the classifier.
        serving: what is served of it.

    Returns:
        ``tf.function`` by name, ready for ``tf.saved_model.save``.
    """
    images = tf.TensorSpec((None, *serving.image_shape), tf.float32, name="images")

    def logits_of(images: tf.Tensor) -> tf.Tensor:
        return tf.debugging.check_numerics(logits_fn(images), "the model's logits are not finite")

    def predict(images: tf.Tensor) -> Outputs:
        logits = logits_of(images)
        return {"probabilities": tf.nn.softmax(logits), "classes": tf.argmax(logits, axis=-1)}

    def fisher(images: tf.Tensor) -> Outputs:
        spectrum, logits = spectrum_and_logits(logits_fn, images, 1, max_steps=serving.fisher_steps)
        with tf.control_dependencies([tf.debugging.check_numerics(logits, "the model's logits are not finite")]):
            eigenvalues = tf.identity(spectrum.eigenvalues[:, 0])
        outputs = {"lambda_max": eigenvalues, "kl_radius": serving.radius(eigenvalues)}
        return {**outputs, "direction": spectrum.directions[:, 0]} if serving.direction else outputs

    def image_bytes(image_bytes: tf.Tensor) -> Outputs:
        return for_any_batch(predict)(_decoded(image_bytes, serving))

    def for_any_batch(function: Callable[[tf.Tensor], Outputs]) -> Callable[[tf.Tensor], Outputs]:
        def signature(images: tf.Tensor) -> Outputs:
            images = tf.debugging.check_numerics(images, "`images` should be finite")
            outputs = function(logits_fn.cast(_never_empty(images)))
            return {name: _float32(value[: tf.shape(images)[0]]) for name, value in outputs.items()}

        return signature

    served = {"serving_default": predict, "logits": lambda x: {"logits": logits_of(x)}, "fisher": fisher}
    if serving.detector:
        served["detect"] = _detection(serving.detector, logits_fn)
    signatures = {name: _compiled(for_any_batch(function), name, images) for name, function in served.items()}
    if serving.decodes:
        encoded = tf.TensorSpec((None,), tf.string, name="image_bytes")
        signatures["image_bytes"] = _compiled(image_bytes, "image_bytes", encoded)
    return signatures


def _detection(detector: FisherDetector, logits_fn: LogitsFunction) -> Callable[[tf.Tensor], Outputs]:
    def detect(images: tf.Tensor) -> Outputs:
        score = tf.debugging.check_numerics(detector.score(logits_fn, images), "the score is not finite")
        return {"score": score, "is_adversarial": score > tf.cast(detector.threshold, score.dtype)}

    return detect


def _compiled(function: Callable[[tf.Tensor], Outputs], name: str, spec: tf.TensorSpec) -> Any:
    """A ``tf.function`` whose name, which a trace of the server shows, is that of the signature."""
    function.__name__ = name
    return tf.function(function, input_signature=[spec])


def _never_empty(images: tf.Tensor) -> tf.Tensor:
    """Images, or one of zeros where there are none: convolutions of an empty batch return wrong shapes."""
    missing = tf.cast(tf.equal(tf.shape(images)[0], 0), tf.int32)
    return tf.pad(images, [[0, missing], *[[0, 0]] * (images.shape.rank - 1)])


def _float32(tensor: tf.Tensor) -> tf.Tensor:
    return tf.cast(tensor, tf.float32) if tensor.dtype.is_floating else tensor


def _decoded(encoded: tf.Tensor, serving: Serving) -> tf.Tensor:
    """Images of PNG or JPEG files: decoded, resized (bilinear, with antialiasing), scaled to the bounds."""
    height, width, channels = serving.image_shape
    low, high = serving.bounds

    def decode(file: tf.Tensor) -> tf.Tensor:
        with tf.control_dependencies([_check_size(file)]):
            image = tf.io.decode_png(file, channels=channels)  # decodes JPEG as well
        image = tf.image.resize(image, (height, width), antialias=True)
        return low + (high - low) * image / 255.0

    return tf.map_fn(decode, encoded, fn_output_signature=tf.TensorSpec(serving.image_shape, tf.float32))


def _check_size(file: tf.Tensor) -> tf.Operation:
    """An error if a file is neither PNG nor JPEG, or announces more than `MAX_PIXELS`."""
    png = tf.strings.regex_full_match(tf.strings.substr(file, 1, 3), "PNG")

    def of_png() -> tf.Tensor:
        return tf.io.decode_raw(tf.strings.substr(file, 16, 8), tf.int32, little_endian=False)

    def of_jpeg() -> tf.Tensor:
        return tf.io.extract_jpeg_shape(file)[:2]

    height_width = tf.cast(tf.cond(png, of_png, of_jpeg), tf.int64)
    pixels = tf.reduce_prod(tf.clip_by_value(height_width, 0, MAX_PIXELS + 1))
    allowed = tf.constant(MAX_PIXELS, tf.int64)
    return tf.debugging.assert_less_equal(pixels, allowed, "`image_bytes` should not have more pixels")
