"""What attacks raise: functions of logits and labels whose gradient does not vanish on confident samples."""

from typing import Any

import numpy as np
import tensorflow as tf

from keras_fim.attacks import lp
from keras_fim.geometry.jacobian import gradient, usable_gradient, watched
from keras_fim.logits import LogitsFunction


def log_odds_against(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """``log((1 - p_y) / p_y)``: grows with the cross-entropy, and does not saturate where p_y rounds to 1.

    Its gradient is that of the cross-entropy divided by ``1 - p_y``, so it has the same direction.

    Args:
        logits: ``(batch, K)``.
        labels: ``(batch,)``, class indices.

    Returns:
        ``(batch,)``.
    """
    return tf.reduce_logsumexp(others(logits, labels), axis=-1) - tf.gather(logits, labels, batch_dims=1)


def margin_against(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """``max_{j≠y} z_j - z_y``: positive where the label is not predicted.

    Args:
        logits: ``(batch, K)``.
        labels: ``(batch,)``, class indices.

    Returns:
        ``(batch,)``.
    """
    return tf.reduce_max(others(logits, labels), axis=-1) - tf.gather(logits, labels, batch_dims=1)


def logits_ratio_against(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    r"""Difference of logits ratio, :math:`-(z_y - \max_{j≠y} z_j) / (z_{π_1} - z_{π_3})`, π sorting z downwards.

    It depends neither on a shift nor on the scale of the logits. Of two classes there is no third one, and the ratio
    would be 1 or -1: there it is the plain margin.

    Args:
        logits: ``(batch, K)``.
        labels: ``(batch,)``, class indices.

    Returns:
        ``(batch,)``, from -1 to 1 with more than two classes; 0 where the three largest logits are equal.

    Source:
        Croce & Hein, Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks
        (ICML 2020), eq. 6.
    """
    margin = margin_against(logits, labels)
    if logits.shape[-1] == 2:
        return margin
    largest = tf.math.top_k(logits, 3).values
    return tf.math.divide_no_nan(margin, largest[:, 0] - largest[:, 2])


def targeted_margin(logits: tf.Tensor, labels: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """``z_t - z_y``: positive where the target is ahead of the label.

    Args:
        logits: ``(batch, K)``.
        labels: ``(batch,)``, class indices.
        targets: ``(batch,)``, class indices.

    Returns:
        ``(batch,)``.
    """
    return tf.gather(logits, targets, batch_dims=1) - tf.gather(logits, labels, batch_dims=1)


def targeted_ratio(logits: tf.Tensor, labels: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    r"""Targeted difference of logits ratio, :math:`-(z_y - z_t) / (z_{π_1} - (z_{π_3} + z_{π_4}) / 2)`.

    It depends neither on a shift nor on the scale of the logits, and needs at least four classes.

    Args:
        logits: ``(batch, K)``.
        labels: ``(batch,)``, class indices.
        targets: ``(batch,)``, class indices.

    Returns:
        ``(batch,)``; 0 where the four largest logits are equal.

    Source:
        Croce & Hein, Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks
        (ICML 2020), eq. 7.
    """
    largest = tf.math.top_k(logits, 4).values
    spread = largest[:, 0] - (largest[:, 2] + largest[:, 3]) / 2
    return tf.math.divide_no_nan(targeted_margin(logits, labels, targets), spread)


LOSSES = {"cross_entropy": log_odds_against, "margin": margin_against, "dlr": logits_ratio_against}
TARGETED_LOSSES = {"targeted_margin": targeted_margin, "dlr_targeted": targeted_ratio}


def loss_value(logits: tf.Tensor, labels: tf.Tensor, loss: str, targets: tf.Tensor | None = None) -> tf.Tensor:
    """What an attack raises.

    Args:
        logits: ``(batch, K)``.
        labels: ``(batch,)``, class indices.
        loss: A key of `LOSSES` or of `TARGETED_LOSSES`.
        targets: ``(batch,)``, the classes aimed at: with a key of `LOSSES` its negative for them is raised. ``None``
            for away from the labels.

    Returns:
        ``(batch,)``.
    """
    if loss in TARGETED_LOSSES:
        return TARGETED_LOSSES[loss](logits, labels, targets)
    return LOSSES[loss](logits, labels) if targets is None else -LOSSES[loss](logits, targets)


def loss_gradient(
    logits_fn: LogitsFunction, images: tf.Tensor, labels: tf.Tensor, *, loss: str = "cross_entropy", targets: Any = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Gradient of each image's loss in the image, up to a positive factor per image, and the logits.

    Args:
        logits_fn: the classifier.
        images: ``(batch, ...)``.
        labels: ``(batch,)``, class indices.
        loss: As for `loss_value`; ``"cross_entropy"`` gives the gradient of `log_odds_against`.
        targets: As for `loss_value`, or a function of the logits that returns them.

    Returns:
        ``(gradients, logits)``.
    """
    with watched(images) as tape:
        logits = logits_fn(images)
        value = loss_value(logits, labels, loss, targets(logits) if callable(targets) else targets)
    return usable_gradient(tape, value, images), logits


def most_probable_others(logits: tf.Tensor, labels: tf.Tensor, count: int) -> tf.Tensor:
    """The most probable wrong classes, the first the most, ``(batch, r)``: ``count``, but at most K - 1."""
    return tf.math.top_k(others(logits, labels), min(count, logits.shape[-1] - 1)).indices


def others(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Logits with -inf in place of the label's."""
    own = tf.one_hot(labels, logits.shape[-1], on_value=True, off_value=False)
    return tf.where(own, tf.cast(-np.inf, logits.dtype), logits)


def decided(logits: tf.Tensor, classes: tf.Tensor, first: tf.Tensor) -> tf.Tensor:
    """Logits, or votes, ``(batch, K)``, with that of a class the largest where ``first`` says so, else the smallest."""
    alone = tf.one_hot(classes, logits.shape[-1], on_value=0, off_value=-np.inf, dtype=logits.dtype)
    return tf.where(first[:, None], alone, others(logits, classes))


def slope(logits_fn: LogitsFunction, points: tf.Tensor, labels: tf.Tensor | None = None) -> tf.Tensor:
    """The l1 norm of the gradient of the margin at each point, ``(n,)``, of the label or else of the predicted class.

    It is NaN or infinite where the gradient is not finite.
    """
    with watched(points) as tape:
        logits = logits_fn(points)
        margin = margin_against(logits, tf.argmax(logits, axis=-1) if labels is None else labels)
    return lp.norms_of(gradient(tape, margin, points), 1)
