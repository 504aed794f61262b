"""The paper's losses: cross-entropy plus a multiple of the Fisher information in the softmax output.

``FisherTraceLoss`` is eq. (4), ``FisherEigenvalueLoss`` eq. (3). Both are computed from logits in float32 (float64
where that is Keras' ``floatx``), also behind a softmax and under a mixed-precision policy.
"""

import math
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from keras_fim.arguments import PositiveOrNone, ShareBelowOne, checked, expect
from keras_fim.geometry.simplex import penalized_cross_entropy, two_classes
from keras_fim.validation import refuse

Mu: TypeAlias = float | keras.Variable
"""The weight μ of a penalty: a number, or a variable that others may change."""

_NOT_PROBABILITIES = (
    "`y_pred` should hold probabilities: no negative entries, rows that sum to 1. Pass from_logits=True to the loss if "
    "the model returns logits."
)
_NOT_A_SIGMOID = (
    "`y_pred` should hold probabilities of class 1, from 0 to 1, as of one sigmoid unit. A softmax over one unit is "
    "always 1. Pass from_logits=True to the loss if the model returns logits."
)
_NOT_OF_CLASS_1 = "`y_true` should hold classes 0 and 1 for one unit. Received one outside."
_TINY = 1e-37  # a probability that underflowed to 0 counts as this one: log p = -85.2


def mu_variable(mu: Mu) -> keras.Variable:
    """A scalar variable that holds μ, so that a schedule can change it in a compiled training step.

    Args:
        mu: a finite number >= 0, or a ``keras.Variable``, which is returned as it is.

    Returns:
        A float32 ``keras.Variable`` of shape ().

    Raises:
        ValueError: if ``mu`` is negative, NaN or infinite, or not a scalar.
    """
    if isinstance(mu, keras.Variable):
        expect(tuple(mu.shape) == (), "mu", "a scalar", received=f"a variable of shape {tuple(mu.shape)}")
        mu_variable(mu_value(mu))  # the same bounds
        return mu
    try:
        value = float(mu)
    except (TypeError, ValueError):
        value = math.nan
    expect(0 <= value < math.inf, "mu", "a finite number >= 0", received=f"mu={mu!r:.80}")
    return keras.Variable(value, trainable=False, autocast=False, dtype="float32", name="mu")


def mu_value(mu: keras.Variable) -> float:
    """What `mu_variable` holds now, as the number that it was given: 0.02, not 0.019999999552965164."""
    with tf.init_scope():  # Keras asks for a loss's configuration while it traces a training step, too
        return float(str(keras.ops.convert_to_numpy(mu)))


def _one_hot(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """One-hot targets in the shape of ``logits`` from class indices ``(batch, ...)`` or ``(batch, ..., 1)``."""
    if labels.shape.rank == logits.shape.rank and labels.shape[-1] == 1:
        labels = tf.squeeze(labels, axis=-1)
    if labels.shape.rank is None or not labels.shape.is_compatible_with(logits.shape[:-1]):
        expected = "class indices or class probabilities for each prediction"
        received = f"y_true of shape {labels.shape}, y_pred of shape {logits.shape}"
        raise ValueError(f"`y_true` should hold {expected}. Received: {received}")
    num_classes = logits.shape[-1]
    whole = tf.cast(tf.cast(labels, tf.int32), labels.dtype)
    invalid = ~tf.reduce_all((labels >= 0) & (labels < num_classes) & (labels == whole))  # NaN is no class
    message = f"`y_true` should hold class indices from 0 to {num_classes - 1}. Received one outside."
    return refuse(invalid, message, tf.one_hot(tf.cast(labels, tf.int32), num_classes, dtype=logits.dtype))


class _FisherLoss(keras.losses.Loss):
    """Cross-entropy plus μ times a penalty; a subclass names the penalty."""

    _penalty: str

    @checked
    def __init__(
        self,
        mu: Mu = 0.02,
        from_logits: bool = False,
        label_smoothing: ShareBelowOne = 0.0,
        gradient_limit: PositiveOrNone = 1.0,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
    ) -> None:
        dtype = "float64" if keras.config.floatx() == "float64" else "float32"
        super().__init__(name=name or f"fisher_{self._penalty}_loss", reduction=reduction, dtype=dtype)
        self.mu = mu_variable(mu)
        self.from_logits = bool(from_logits)
        self.label_smoothing = float(label_smoothing)
        self.gradient_limit = None if gradient_limit is None else float(gradient_limit)

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Reduce the weighted losses; keeps the logits that Keras hangs on a softmax output."""
        logits = getattr(y_pred, "_keras_logits", None)
        if logits is not None:
            mask = getattr(y_pred, "_keras_mask", None)
            # Keras converts the prediction to the loss's dtype first and would lose the logits of a float16 one
            y_pred = tf.identity(tf.cast(y_pred, self.dtype))
            y_pred._keras_logits, y_pred._keras_mask = logits, mask
        return super().__call__(y_true, y_pred, sample_weight)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """The loss of each sample.

        Args:
            y_true: class indices ``(batch, ...)`` or class probabilities ``(batch, ..., K)``; with one unit,
                probabilities of class 1, ``(batch, ...)`` or ``(batch, ..., 1)``.
            y_pred: predictions ``(batch, ..., K)``: probabilities, or logits with ``from_logits=True``. One sigmoid
                unit, ``(batch, ..., 1)``, is the classifier of two classes with logits (0, z).

        Returns:
            ``(batch, ...)``, in nats.

        Raises:
            ValueError: if shapes do not match, or labels or probabilities are not valid (NaN is no label). In a
                compiled training step TensorFlow reports the latter as its own error; under XLA, which knows none,
                the loss is NaN.
        """
        y_pred = tf.convert_to_tensor(y_pred)
        logits = self._logits(y_pred)
        targets = self._targets(y_true, logits, one_unit=y_pred.shape[-1] == 1)
        mu, limit = tf.cast(self.mu, logits.dtype), self.gradient_limit
        return penalized_cross_entropy(targets, logits, mu, penalty=self._penalty, gradient_limit=limit)

    def _logits(self, y_pred: Any) -> tf.Tensor:
        behind = getattr(y_pred, "_keras_logits", None)
        fits = not self.from_logits or behind is None
        expect(fits, "from_logits", "False for a model that ends in a softmax", self.from_logits)
        y_pred = tf.cast(y_pred, self.dtype)
        if y_pred.shape.rank is not None and y_pred.shape.rank < 2:
            raise ValueError(f"`y_pred` should have shape (batch, ..., classes). Received: shape={tuple(y_pred.shape)}")
        one_unit = y_pred.shape[-1] == 1
        if self.from_logits:
            return two_classes(y_pred) if one_unit else y_pred
        log_p = tf.math.log(tf.maximum(y_pred, _TINY))
        if one_unit:
            log_odds = log_p - tf.math.log(tf.maximum(1 - y_pred, _TINY))
            logit = log_odds if behind is None else tf.cast(behind, self.dtype)
            wrong = (y_pred < 0) | (y_pred > 1) | (tf.abs(tf.sigmoid(logit) - y_pred) >= 1e-2)
            return refuse(tf.reduce_any(wrong), _NOT_A_SIGMOID, two_classes(logit))
        sums = tf.reduce_sum(y_pred, axis=-1)  # NaN passes on to the loss, which then says so
        invalid = tf.reduce_any(y_pred < 0) | tf.reduce_any(tf.abs(sums - 1) >= 1e-2)
        return refuse(invalid, _NOT_PROBABILITIES, log_p if behind is None else tf.cast(behind, self.dtype))

    def _targets(self, y_true: Any, logits: tf.Tensor, *, one_unit: bool) -> tf.Tensor:
        num_classes = logits.shape[-1]
        y_true = tf.convert_to_tensor(y_true)
        if one_unit:
            y_true = tf.cast(y_true if y_true.shape.rank == logits.shape.rank else y_true[..., None], logits.dtype)
            outside = ~tf.reduce_all((y_true >= 0) & (y_true <= 1))
            targets = refuse(outside, _NOT_OF_CLASS_1, tf.concat([1 - y_true, y_true], axis=-1))
        elif y_true.shape.rank == logits.shape.rank and y_true.shape[-1] in (None, num_classes):
            targets = tf.cast(tf.ensure_shape(y_true, logits.shape), logits.dtype)
        else:
            targets = _one_hot(y_true, logits)
        return targets * (1 - self.label_smoothing) + self.label_smoothing / num_classes

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments; ``mu`` as the number that it is now."""
        options = {name: getattr(self, name) for name in ("from_logits", "label_smoothing", "gradient_limit")}
        return {**super().get_config(), "mu": mu_value(self.mu), **options}

    def __repr__(self) -> str:
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


@keras.saving.register_keras_serializable("keras_fim")
class FisherTraceLoss(_FisherLoss):
    r"""Cross-entropy plus μ times the trace of the FIM in the softmax output, the paper's eq. (4).

    .. math:: \tilde L = -\sum_i y_i \log p_i + \mu \sum_{i=1}^K \frac{1}{p_i}

    On a single sample it is minimal where label smoothing would be, at a strength that `label_smoothing_from_mu` gives.
    It flattens the predicted distribution; it need not lower the eigenvalues of the FIM in the input.

    Args:
        mu: weight μ >= 0 of the trace: a number, or a ``keras.Variable`` that others may change (`MuSchedule` changes
            the variable in either case). What suits K classes is `default_mu`.
        from_logits: whether predictions are logits. On the output of a Keras softmax the logits behind it are found
            and used, so ``False`` loses no precision there. (Of another softmax, such as ``tf.nn.softmax``, only the
            probabilities are known: where one underflows to 0 its gradient is gone, and in float16 the gradient may be
            infinite or NaN.)
        label_smoothing: share α in [0, 1) of each label that is spread over all classes first.
        gradient_limit: largest l2 norm of a sample's gradient in its logits, because a few samples with a tiny p
            otherwise drown the batch; ``None`` is the plain derivative. The value of the loss is never changed.
        reduction: as in `keras.losses.Loss`.
        name: name of the loss.

    Raises:
        ValueError: if ``mu`` is negative or not finite, or another argument is out of its range.

    Example:
        >>> loss = FisherTraceLoss(mu=0.02)
        >>> float(loss([0], tf.constant([[0.5, 0.5]])))  # log 2 + 0.02 * (2 + 2)
        0.7731471657752991

    Source:
        Shen, Peng, Zhang, Fan (arXiv 1909.06137), eq. (4).
    """

    _penalty = "trace"


@keras.saving.register_keras_serializable("keras_fim")
class FisherEigenvalueLoss(_FisherLoss):
    r"""Cross-entropy plus μ times the largest eigenvalue of the FIM in the softmax output, the paper's eq. (3).

    .. math:: L + \mu \lambda_{\max}(G_s) = -\sum_i y_i \log p_i + \mu \max_i \frac{1}{p_i}

    Args:
        mu: as in `FisherTraceLoss`.
        from_logits: as in `FisherTraceLoss`.
        label_smoothing: as in `FisherTraceLoss`.
        gradient_limit: as in `FisherTraceLoss`.
        reduction: as in `keras.losses.Loss`.
        name: name of the loss.

    Raises:
        ValueError: if ``mu`` is negative or not finite, or another argument is out of its range.

    Example:
        >>> loss = FisherEigenvalueLoss(mu=0.02)
        >>> float(loss([0], tf.constant([[0.5, 0.5]])))  # log 2 + 0.02 * 2
        0.7331472039222717

    Source:
        Shen, Peng, Zhang, Fan (arXiv 1909.06137), eq. (3), with ``λ_max(G_s) = 1/min_i p_i``.
    """

    _penalty = "eigenvalue"
