"""A guarantee: randomized smoothing, which certifies the smoothed classifier and no other."""

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_fim import pixels, validation
from keras_fim.arguments import Count, InnerShare, Positive, checked, expect
from keras_fim.attacks import draws
from keras_fim.evaluation.report import Ratio, Report, Row, wilson
from keras_fim.logits import LogitsFunction, logits_function, predict_logits
from keras_fim.typing import Bounds, Images, Labels, Model

ALPHA = 0.001
"""The probability that a certificate is wrong, unless told otherwise."""

ABSTAINED = -1
"""The class of an image for which no class can be certified."""


class Certificates(NamedTuple):
    """What `certify` proves of the smoothed classifier.

    Attributes:
        classes: int64 ``(n,)``, what it predicts; `ABSTAINED` where it does not say.
        radius: Float64 ``(n,)``, the l2 distance within which it predicts nothing else; 0 where it abstained.
        probability: Float64 ``(n,)``, the lower confidence bound of the class's probability under the noise.
    """

    classes: np.ndarray
    radius: np.ndarray
    probability: np.ndarray

    def accuracy(self, labels: Labels, radius: float = 0.0) -> float:
        """The share of images that are certified to be classified correctly within a radius."""
        right = self.classes == validation.check_labels(labels, len(self.classes), int(np.max(labels, initial=0)) + 1)
        return float(np.mean(right & (self.radius >= radius)))


@dataclasses.dataclass(frozen=True)
class CertifiedAccuracy(Report):
    """How many images are certified to be classified correctly by the smoothed classifier; prints as a table.

    Attributes:
        sigma: The standard deviation of the noise.
        num_draws: The number of draws for each certificate.
        alpha: The probability that the certificate of an image is wrong.
        radii: l2 radii, from 0 to the largest one that so many draws can certify.
        accuracy: For each of them the share of images whose certificate holds their class and reaches it.
        num_abstained: The number of images for which no class could be certified.
    """

    sigma: float
    num_draws: int
    alpha: float
    radii: tuple[float, ...]
    accuracy: tuple[Ratio, ...]
    num_abstained: int

    @classmethod
    def of(cls, certificates: Certificates, labels: np.ndarray, sigma: float, num_draws: int) -> "CertifiedAccuracy":
        """The summary of certificates of images with these class indices, at radii half a σ apart."""
        from scipy.stats import norm

        radii = np.arange(0, sigma * norm.ppf(ALPHA ** (1 / num_draws)), sigma / 2)
        right = certificates.classes == labels
        accuracy = [wilson(int((right & (certificates.radius >= radius)).sum()), len(labels)) for radius in radii]
        abstained = int((certificates.classes == ABSTAINED).sum())
        return cls(float(sigma), num_draws, ALPHA, tuple(radii.tolist()), tuple(accuracy), abstained)

    @property
    def points(self) -> list[tuple[str, Ratio, dict[str, Any]]]:
        """The points of the chart, as those of attacks."""
        name, pairs = f"smoothed, σ = {self.sigma:g}", zip(self.radii, self.accuracy, strict=True)
        return [(name, self.accuracy[0], {"epsilon": radius, "robust": ratio}) for radius, ratio in pairs]

    def tables(self) -> dict[str, list[Row]]:
        """A row for each radius."""
        pairs = zip(self.radii, self.accuracy, strict=True)
        return {"": [{"σ": self.sigma, "l2 radius": radius, "certified accuracy": ratio} for radius, ratio in pairs]}


@checked
def certify(
    model: Model,
    images: Images,
    sigma: Positive,
    *,
    num_selection: Count = 100,
    num_draws: Count = 10_000,
    alpha: InnerShare = ALPHA,
    batch_size: Count = 256,
    seed: int = 0,
    indices: Any = None,
    bounds: Bounds | pixels.PixelRange | None = None,
) -> Certificates:
    r"""The l2 radius within which the *smoothed* classifier keeps its class, with probability at least 1 - α.

    The smoothed classifier g predicts the class that a model f predicts most often under Gaussian noise,
    :math:`g(x) = \arg\max_c P(f(x + \sigma n) = c)`. The class is selected on some draws; on others, its probability
    is bounded from below by :math:`p_A` (Clopper and Pearson, one-sided, at level α), and

    .. math:: r = \sigma \, \Phi^{-1}(p_A) \quad\text{if } p_A > \tfrac12

    or else g abstains. The guarantee is about g, in l2, and for each image by itself: of n images α n may be wrong. It
    says nothing about f, which is not as robust. Train f with the same noise, or little is certified.

    Args:
        model: Any classifier that `keras_fim.logits.logits_function` takes.
        images: ``(n, ...)`` in the range that the model takes. The noise is added after this check and not clipped.
        sigma: The standard deviation σ of the noise, on the scale of the images.
        num_selection: The number of draws on which the class is selected.
        num_draws: The number N of draws on which its probability is bounded; the radius is at most
            :math:`\sigma \, \Phi^{-1}(\alpha^{1/N})`.
        alpha: The probability α that a certificate is wrong.
        batch_size: The number of noisy images worked on at a time, which bounds the memory.
        seed: The seed of the noise, which also depends on the index of an image and on nothing else.
        indices: The images' positions in their dataset, ``(n,)``; ``None`` for 0, 1, ...
        bounds: The smallest and the largest pixel value that the model takes; ``None`` for what its leading rescaling
            says, if it has one.

    Returns:
        `Certificates`. A draw on which the logits are not finite counts for no class.

    Raises:
        ValueError: If images are empty, not finite or outside of the range, or an option is out of range.

    Example:
        >>> model = logits_function(lambda x: tf.concat([x, -x], axis=-1), from_logits=True)  # the boundary is at 0
        >>> found = certify(model, [[0.5], [-0.3], [0.001]], sigma=0.25)
        >>> found.classes, bool((found.radius <= [0.5, 0.3, 0.001]).all())
        (array([ 0,  1, -1]), True)

    Source:
        Cohen, Rosenfeld, Kolter, Certified adversarial robustness via randomized smoothing (ICML 2019).
    """
    from scipy.stats import beta, norm

    images = pixels.images_in_range(model, images, bounds)
    draws_of = (0, num_selection), (num_selection, num_selection + num_draws)
    expect(indices is None or np.asarray(indices).dtype.kind in "iu", "indices", "integers", indices)
    selection, estimate = _votes(logits_function(model, images), images, sigma, draws_of, batch_size, seed, indices)
    top = selection.argmax(axis=-1)
    hits = estimate[np.arange(len(top)), top]
    bound = np.where(hits > 0, beta.ppf(alpha, np.maximum(hits, 1), num_draws - hits + 1), 0.0)
    return Certificates(np.where(bound > 0.5, top, ABSTAINED), sigma * norm.ppf(np.maximum(bound, 0.5)), bound)


@checked
def smoothed(model: Model, sigma: Positive, *, num_draws: Count = 32, seed: int = 0) -> LogitsFunction:
    r"""The smoothed classifier as a function that has gradients, for attacks on it.

    .. math:: z(x) = \log \frac1m \sum_{i=1}^m \operatorname{softmax} f(x + \sigma n_i)

    with the same m draws at every point, so that a gradient is the mean over them. An attack on it should be judged by
    `smoothed_classes`, on other draws.

    Args:
        model: Any classifier that `keras_fim.logits.logits_function` takes.
        sigma: The standard deviation σ of the noise, on the scale of the images.
        num_draws: The number m of draws; an attack works on as many noisy copies of each image of its batch.
        seed: The seed of the noise.

    Returns:
        The logits function, which is accepted wherever a model is.

    Raises:
        ValueError: If an option is out of range.

    Source:
        Salman et al., Provably robust deep learning via adversarially trained smoothed classifiers (NeurIPS 2019).
    """
    logits_fn = logits_function(model)

    def logits_of(images: tf.Tensor) -> tf.Tensor:
        shape = images.shape[1:]
        noise = sigma * draws.normal(draws.keys_of(seed, tf.range(num_draws)), shape, images.dtype)
        log_p = tf.nn.log_softmax(logits_fn(tf.reshape(images[:, None] + noise, [-1, *shape])))
        return tf.reduce_logsumexp(tf.reshape(log_p, [-1, num_draws, log_p.shape[-1]]), axis=1) - math.log(num_draws)

    return LogitsFunction(logits_of, "logits")


@checked
def smoothed_classes(
    model: Model, images: Images, sigma: Positive, *, num_draws: Count = 1000, batch_size: Count = 256, seed: int = 1
) -> np.ndarray:
    """The class that the smoothed classifier predicts: the most frequent one under the noise, without a guarantee.

    Args:
        model: As in `certify`.
        images: ``(n, ...)``, finite.
        sigma: As in `certify`.
        num_draws: The number of draws for each image.
        batch_size: As in `certify`.
        seed: The seed of the noise; another one than that of `smoothed`.

    Returns:
        int64 ``(n,)``.

    Raises:
        ValueError: If images are empty or not finite, or an option is out of range.
    """
    images = validation.check_images(images)
    (votes,) = _votes(logits_function(model, images), images, sigma, [(0, num_draws)], batch_size, seed, None)
    return np.asarray(votes.argmax(axis=-1))


def _votes(
    logits_fn: LogitsFunction, images: Images, sigma: float, intervals: Any, batch_size: int, seed: int, indices: Any
) -> list[np.ndarray]:
    """For each interval of draws how often each class is predicted, int64 ``(n, K)``."""
    images, size = logits_fn.cast(images), min(batch_size, len(images))
    keys = draws.keys_of(seed, tf.constant(np.arange(len(images)) if indices is None else indices, tf.int64))
    classes = logits_fn.compiled(predict_logits)(images[:1]).shape[-1]
    count, numbers = logits_fn.compiled(_counts, classes, max(1, batch_size // size)), tf.constant(intervals, tf.int64)
    parts = []
    for start in range(0, len(images), size):
        given = images[start : start + size], keys[start : start + size], tf.constant(sigma, images.dtype)
        parts.append([count(*given, first, last).numpy() for first, last in numbers])
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def _counts(
    classes: int, repeats: int, logits_fn: LogitsFunction, images: tf.Tensor, keys: tf.Tensor, *numbers: tf.Tensor
) -> tf.Tensor:
    """How often each class is predicted; int64 ``(batch, K)``. The numbers are σ, the first draw, and the last + 1."""
    sigma, first, last = numbers
    repeated, keys_of_copies = tf.repeat(images, repeats, axis=0), tf.repeat(keys, repeats)

    def body(draw: tf.Tensor, counts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        places = tf.tile(draw + tf.range(repeats, dtype=tf.int64), [tf.shape(images)[0]])
        noise = draws.normal(draws.fold(keys_of_copies, places), images.shape[1:], images.dtype)
        logits = logits_fn(repeated + sigma * noise)
        valid = tf.reduce_all(tf.math.is_finite(logits), axis=-1) & (places < last)
        votes = tf.where(valid[:, None], tf.one_hot(tf.argmax(logits, axis=-1), classes, dtype=tf.int64), 0)
        return draw + repeats, counts + tf.reduce_sum(tf.reshape(votes, [-1, repeats, classes]), axis=1)

    start = first, tf.zeros([tf.shape(images)[0], classes], tf.int64)
    return tf.while_loop(lambda draw, _: draw < last, body, start, parallel_iterations=1)[1]
