"""A detector of adversarial input, and how well scores tell two kinds of samples apart.

It looks at the Fisher spectrum around an image, how sure the prediction is, and how near its end.
"""

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from keras_fim.arguments import Count, ShareBelowOne, check_fields, checked, expect, require
from keras_fim.attacks import losses
from keras_fim.geometry import boundary_distance, linearize
from keras_fim.geometry.spectrum import spectrum_and_logits
from keras_fim.logits import LogitsFunction, logits_function
from keras_fim.pixels import images_in_range
from keras_fim.typing import Bounds, Images, LogitsCallable, Model

FEATURES = ("log_lambda_1", "log_lambda_2", "log_trace", "log_unsure", "log_radius")
_TINY = 1e-30
"""The logarithm of an eigenvalue that is 0 stays finite."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FisherDetector:
    r"""A linear score of spectral features; what scores above a threshold is taken for adversarial.

    Without attacked samples the score is :math:`\log \lambda_{\max}(G_x)`, the detector of Zhao et al.; with them it is
    the log odds of a logistic regression on `keras_fim.detection.FEATURES`. Make one with `fit`.

    **An attacker who knows the detector can evade it** (`keras_fim.detection.AdaptivePGD`); measure before you rely
    on it.

    Args:
        weights: The weights of the features, in the order of `FEATURES`; four of them, from before the boundary radius
            was one, leave it out.
        bias: What is added to the weighted sum.
        threshold: The largest score that passes for benign.
        false_positive_rate: The share of the benign samples of `fit` that may score above the threshold.
        least_log_radius: The smallest logarithm of a boundary radius that counts as it is; smaller ones count as this
            one. A regression's is the smallest of a benign sample of `fit`: attacks that stop at the boundary go far
            below, where a line through the attacks of the fit says nothing.

    Example:
        >>> from keras_fim import models
        >>> images = np.random.default_rng(0).uniform(size=(8, 28, 28, 1))
        >>> detector = FisherDetector.fit(models.convnet(), images, false_positive_rate=0.25)
        >>> int(detector.detect(models.convnet(), images).sum()) <= 8
        True

    Source:
        Zhao, Fletcher, Yu, Peng, Zhang, Shen, The adversarial attack and detection under the Fisher information
        metric (AAAI 2019).
    """

    weights: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 0.0)
    bias: float = 0.0
    threshold: float
    false_positive_rate: ShareBelowOne
    least_log_radius: float = float(np.log(_TINY))

    def __post_init__(self) -> None:
        check_fields(self)
        weights = tuple(float(weight) for weight in self.weights)
        object.__setattr__(self, "weights", (*weights, 0.0) if len(weights) == len(FEATURES) - 1 else weights)
        expect(len(self.weights) == len(FEATURES), "weights", f"{len(FEATURES)} numbers", self.weights)
        if not np.isfinite([*self.weights, self.bias, self.threshold, self.least_log_radius]).all():
            raise ValueError(f"`weights`, `bias` and `threshold` should be finite. Received: {self!r}")

    @classmethod
    @checked
    def fit(
        cls,
        model: Model,
        benign: Images,
        attacked: Images | None = None,
        *,
        false_positive_rate: ShareBelowOne = 0.05,
        batch_size: Count = 128,
        bounds: Bounds | None = None,
    ) -> "FisherDetector":
        """Choose the weights, and the threshold that passes all but a share of the benign samples.

        Args:
            model: any classifier that `keras_fim.logits.logits_function` takes.
            benign: ``(n, ...)`` images that nobody tampered with, better not those that the model was trained on.
            attacked: ``(m, ...)`` adversarial images for a logistic regression (needs scikit-learn, the extra
                ``[detection]``); ``None`` for a threshold on λ_max alone.
            false_positive_rate: in [0, 1).
            batch_size: images worked on at a time.
            bounds: As of `keras_fim.fisher_spectrum`.

        Returns:
            `FisherDetector`.

        Raises:
            ValueError: if images or an option are not valid, or most of the eigenvalues are 0, as of a model that is
                given images of another scale.
            ImportError: if scikit-learn is needed and not installed.
        """
        wanted = (1, False) if attacked is None else (2, True)
        features = _features(model, benign, *wanted, batch_size, bounds)
        zero = float(np.mean(features[:, 0] <= np.log(_TINY)))
        advice = "the model is constant around these images; are they on the scale that it takes?"
        received = f"{100 * zero:.0f} % of the largest eigenvalues are 0: {advice}"
        require(zero <= 0.5, f"`benign` should have Fisher information. Received: {received}")
        weights, bias, least = cls.weights, 0.0, cls.least_log_radius
        if attacked is not None:
            least = float(min((radius for radius in features[:, -1] if radius > least + 1), default=least))  # defined
            others = _features(model, attacked, *wanted, batch_size, bounds)
            weights, bias = _regression(features, _floored(others, least).numpy())
        scores = features @ np.asarray(weights, np.float32) + np.float32(bias)
        threshold = float(np.quantile(scores, 1 - false_positive_rate, method="higher"))
        fitted: dict[str, Any] = {"weights": weights, "bias": bias, "least_log_radius": least}
        return cls(threshold=threshold, false_positive_rate=false_positive_rate, **fitted)

    @property
    def pairs(self) -> int:
        """Eigenpairs that it needs: 2, or 1 where the second eigenvalue has no weight."""
        return 2 if self.weights[1] else 1

    @property
    def radius(self) -> bool:
        """Whether it needs the boundary radius."""
        return bool(self.weights[4])

    def score(self, logits_fn: LogitsFunction, images: tf.Tensor) -> tf.Tensor:
        """The score of images, as a function of tensors.

        Args:
            logits_fn: the classifier.
            images: ``(batch, ...)`` in its dtype, at least one.

        Returns:
            ``(batch,)``.
        """
        return self.combine(spectral_features(logits_fn, images, pairs=self.pairs, radius=self.radius))

    def combine(self, features: tf.Tensor) -> tf.Tensor:
        """The score ``(batch,)`` of features ``(batch, 5)``."""
        features = _floored(features, self.least_log_radius)
        return tf.linalg.matvec(features, tf.constant(self.weights, features.dtype)) + self.bias

    def scores(
        self, model: Model, images: Images, *, batch_size: int = 128, bounds: Bounds | None = None
    ) -> np.ndarray:
        """The score of images: the larger, the more suspect.

        Args:
            model: any classifier that `keras_fim.logits.logits_function` takes.
            images: ``(batch, ...)``.
            batch_size: images worked on at a time.
            bounds: As of `keras_fim.fisher_spectrum`.

        Returns:
            ``(batch,)``.

        Raises:
            ValueError: As `keras_fim.fisher_spectrum` of images.
        """
        return np.asarray(self.combine(_features(model, images, self.pairs, self.radius, batch_size, bounds)))

    def detect(self, model: Model, images: Images, **options: Any) -> np.ndarray:
        """Whether each image scores above the threshold, or has no finite score: bool ``(batch,)``; as of `scores`."""
        return ~(self.scores(model, images, **options) <= self.threshold)

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON; ``FisherDetector(**detector.as_dict())`` is equal to it."""
        return dataclasses.asdict(self)


def spectral_features(
    logits_fn: LogitsCallable, images: tf.Tensor, *, pairs: int = 2, radius: bool = True
) -> tf.Tensor:
    r"""Logarithms of what the detector knows of each image.

    Of the two largest eigenvalues of :math:`G_x`, of the trace :math:`\sum_i 1/p_i` in the softmax output, of
    :math:`1 - p_y`, where y is the predicted class, and of the boundary radius (`keras_fim.boundary_radius`, l2).

    Args:
        logits_fn: A logits function.
        images: ``(batch, ...)``, floating, at least one.
        pairs: 2, or 1 to go without the second eigenvalue, at half the cost.
        radius: Whether to compute the boundary radius, from three gradients.

    Returns:
        ``(batch, 5)``, in the order of `FEATURES`. An eigenvalue or radius that is 0, undefined or not computed counts
        as 1e-30, so that an image of which nothing is known passes for one at the boundary.
    """
    pairs = min(pairs, logits_fn(images[:1]).shape[-1])  # compiled, this pass is not executed
    spectrum, logits = spectrum_and_logits(logits_fn, images, pairs)
    missing = tf.zeros_like(logits[:, : 2 - pairs])
    distance = boundary_distance(linearize(logits_fn, images))[0] if radius else tf.zeros_like(logits[:, 0])
    return features_of(logits, tf.concat([spectrum.eigenvalues, missing], axis=-1), distance)


def features_of(logits: tf.Tensor, eigenvalues: tf.Tensor, radius: tf.Tensor) -> tf.Tensor:
    """The features ``(batch, 5)`` of logits ``(batch, K)``, two eigenvalues ``(batch, 2)`` and radii ``(batch,)``."""
    log_p = tf.nn.log_softmax(logits)
    log_others = losses.others(log_p, tf.argmax(logits, axis=-1))
    of_prediction = [tf.reduce_logsumexp(-log_p, axis=-1), tf.reduce_logsumexp(log_others, axis=-1)]
    radius = tf.where(tf.math.is_nan(radius), tf.zeros_like(radius), radius)
    floored = (tf.where(v < _TINY, tf.cast(_TINY, v.dtype), v) for v in (eigenvalues, radius))  # NaN stays NaN
    log_eigenvalues, log_radius = map(tf.math.log, floored)
    return tf.concat([log_eigenvalues, tf.stack([*of_prediction, log_radius], axis=-1)], axis=-1)


def _floored(features: Any, least: float) -> tf.Tensor:
    """Features whose last one, which is never NaN, is at least ``least``."""
    return tf.concat([features[:, :-1], tf.maximum(features[:, -1:], least)], axis=-1)


def _features(
    model: Model, images: Images, pairs: int, radius: bool, batch_size: int, bounds: Bounds | None
) -> np.ndarray:
    images = images_in_range(model, images, bounds)
    options = {"pairs": pairs, "radius": radius, "batch_size": batch_size}
    return np.asarray(logits_function(model, images).in_batches(spectral_features, images, **options))


def _regression(benign: np.ndarray, attacked: np.ndarray) -> tuple[tuple[float, ...], float]:
    """Weights and bias of a logistic regression on the features as they are; both kinds weigh the same."""
    from sklearn.linear_model import LogisticRegression

    features = np.concatenate([benign, attacked]).astype(np.float64)
    mean, deviation = features.mean(axis=0), features.std(axis=0) + 1e-12
    regression = LogisticRegression(class_weight="balanced")
    regression.fit((features - mean) / deviation, np.repeat([0, 1], [len(benign), len(attacked)]))
    weights = regression.coef_[0] / deviation
    return tuple(weights.tolist()), float(regression.intercept_[0] - weights @ mean)


@dataclasses.dataclass(frozen=True)
class DetectionCurves:
    """ROC and precision-recall curve of a detector on one attack.

    Attributes:
        auc: area under the ROC curve: the chance that an attacked sample scores above a benign one; 0.5 is guessing.
        average_precision: area under the precision-recall curve.
        false_positive_rates: of the ROC curve, ascending.
        true_positive_rates: belonging to them.
        precisions: of the precision-recall curve.
        recalls: belonging to them, descending.
        num_benign: number of benign samples.
        num_attacked: number of attacked samples.
    """

    auc: float
    average_precision: float
    false_positive_rates: tuple[float, ...]
    true_positive_rates: tuple[float, ...]
    precisions: tuple[float, ...]
    recalls: tuple[float, ...]
    num_benign: int
    num_attacked: int

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return dataclasses.asdict(self)


@checked
def detection_curves(benign_scores: np.ndarray, attacked_scores: np.ndarray) -> DetectionCurves:
    """Curves of scores that should be larger for attacked samples. Needs scikit-learn (the extra ``[detection]``).

    Args:
        benign_scores: ``(n,)``.
        attacked_scores: ``(m,)``.

    Returns:
        `DetectionCurves`.

    Raises:
        ValueError: if there are no scores of one kind.
        ImportError: if scikit-learn is not installed.

    Example:
        >>> detection_curves([0.0, 1.0], [2.0, 3.0]).auc
        1.0
    """
    from sklearn import metrics

    shapes = np.shape(benign_scores), np.shape(attacked_scores)
    filled = all(len(shape) == 1 and shape[0] for shape in shapes)
    require(filled, f"`benign_scores` and `attacked_scores` should be (n,) and (m,) and not empty. Received: {shapes}")
    scores = np.concatenate([benign_scores, attacked_scores])
    truth = np.repeat([0, 1], [len(benign_scores), len(attacked_scores)])
    columns = (*metrics.roc_curve(truth, scores)[:2], *metrics.precision_recall_curve(truth, scores)[:2])
    false_positives, true_positives, precisions, recalls = (tuple(column.tolist()) for column in columns)
    areas = float(metrics.roc_auc_score(truth, scores)), float(metrics.average_precision_score(truth, scores))
    sizes = len(benign_scores), len(attacked_scores)
    return DetectionCurves(*areas, false_positives, true_positives, precisions, recalls, *sizes)
