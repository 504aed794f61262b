"""How far an attack succeeds: ratios and distances as functions of arrays, and the ratios as Keras metrics.

All but the robust accuracy are taken over the samples that were classified correctly before the attack. Functions and
metrics take the arrays of `keras_fim.typing.AttackResult` as they are.
"""

from typing import Any

import keras
import numpy as np

from keras_fim.arguments import checked, expect


def fooling_ratio(success: Any, was_correct: Any) -> float:
    """Fooled samples over originally correct ones, the paper's definition (section 4).

    Args:
        success: bool ``(batch,)``, who was classified correctly before and wrongly now.
        was_correct: bool ``(batch,)``, who was classified correctly before.

    Returns:
        In [0, 1]; NaN if none was correct.

    Example:
        >>> fooling_ratio([True, False, False], [True, True, False])
        0.5
    """
    success, was_correct = _checked(success, was_correct)
    total = int(was_correct.sum())
    return float(success.sum() / total) if total else float("nan")


def robust_accuracy(success: Any, was_correct: Any) -> float:
    """Samples that are right before and after the attack, over all samples.

    Args:
        success: as in `fooling_ratio`.
        was_correct: as in `fooling_ratio`.

    Returns:
        In [0, 1]; NaN without samples.

    Example:
        >>> robust_accuracy([True, False, False, False], [True, True, True, False])
        0.5
    """
    success, was_correct = _checked(success, was_correct)
    return float((was_correct & ~success).mean()) if len(success) else float("nan")


def standing_distances(distances: Any, success: Any, was_correct: Any) -> np.ndarray:
    """Distance to the adversarial of each originally correct sample, inf where the attack failed.

    Args:
        distances: floats ``(batch,)``; read only where ``success``.
        success: as in `fooling_ratio`.
        was_correct: as in `fooling_ratio`.

    Returns:
        float64, one for each originally correct sample.
    """
    success, was_correct = _checked(success, was_correct)
    if np.shape(distances) != success.shape or np.asarray(distances).dtype.kind not in "fiu":
        raise ValueError(f"`distances` should be {len(success)} numbers. Received: {distances!r:.80}")
    return np.asarray(np.where(success, np.asarray(distances, np.float64), np.inf)[was_correct])


def median_distance(distances: Any, success: Any, was_correct: Any) -> float:
    """Median distance over the originally correct samples; a failed attack counts as inf.

    Args:
        distances: as in `standing_distances`.
        success: as in `fooling_ratio`.
        was_correct: as in `fooling_ratio`.

    Returns:
        A float >= 0; NaN if none was correct.

    Example:
        >>> median_distance([1.0, 3.0, 0.0, 0.0], [True, True, False, False], [True, True, True, False])
        3.0
    """
    values = standing_distances(distances, success, was_correct)
    return float(np.median(values)) if len(values) else float("nan")


def mean_distance(distances: Any, success: Any, was_correct: Any) -> tuple[float, float]:
    """Mean distance over the successes, and the share of originally correct samples that they are.

    Args:
        distances: as in `standing_distances`.
        success: as in `fooling_ratio`.
        was_correct: as in `fooling_ratio`.

    Returns:
        ``(mean, share)``; the mean is NaN without a success, the share is the `fooling_ratio`.

    Example:
        >>> mean_distance([1.0, 3.0, 0.0, 0.0], [True, True, False, False], [True, True, True, True])
        (2.0, 0.5)
    """
    values = standing_distances(distances, success, was_correct)
    finite = values[np.isfinite(values)]
    return (float(finite.mean()) if len(finite) else float("nan")), fooling_ratio(success, was_correct)


@checked
def in_convention(
    distances: Any, norm: float, size: int, *, convention: str, bounds: tuple[float, float] = (0.0, 1.0)
) -> np.ndarray:
    r"""Norms as one convention or another reports them.

    ``"norm"`` leaves them. ``"foolbox"`` is what Foolbox before version 2 calls a distance, and the paper's table 1
    uses: for l2 the mean squared error :math:`\|d\|_2^2 / D`, for l1 the mean absolute error :math:`\|d\|_1 / D`, for
    l∞ the largest change, for l0 the number of changed values (a count, as the table's 28.26 shows), with changes in
    units of the range of pixel values.

    Args:
        distances: norms, of any shape.
        norm: the p of the lp norm: 0, 1, 2 or ``np.inf``.
        size: number of values D in an image.
        convention: ``"norm"`` or ``"foolbox"``.
        bounds: smallest and largest pixel value.

    Returns:
        float64, as ``distances``.

    Raises:
        ValueError: if the norm or the convention is another.

    Example:
        >>> in_convention([2.0], 2, 16, convention="foolbox")
        array([0.25])
    """
    expect(norm in (0, 1, 2, np.inf), "norm", "0, 1, 2 or inf", norm)
    expect(convention in ("norm", "foolbox"), "convention", "norm or foolbox", convention)
    values = np.asarray(distances, np.float64)
    if convention == "norm" or norm == 0:
        return values
    values = values / (bounds[1] - bounds[0])
    return np.asarray({1: values / size, 2: values**2 / size, np.inf: values}[norm])


def _checked(success: Any, was_correct: Any) -> tuple[np.ndarray, np.ndarray]:
    success, was_correct = np.asarray(success, bool), np.asarray(was_correct, bool)
    if success.shape != was_correct.shape or success.ndim != 1:
        received = f"shapes {success.shape} and {was_correct.shape}"
        raise ValueError(f"`success` and `was_correct` should have one shape (batch,). Received: {received}")
    if (success & ~was_correct).any():
        raise ValueError("`success` should hold originally correct samples only. Received: one that was wrong before")
    return success, was_correct


class _Ratio(keras.metrics.Mean):
    """A mean that is NaN of nothing, which a ratio of 0 would hide."""

    def result(self) -> Any:
        """The ratio; NaN if there is nothing to take it of."""
        return self.total / self.count


@keras.saving.register_keras_serializable("keras_fim")
class FoolingRatio(_Ratio):
    """Fooled samples over originally correct ones (`fooling_ratio`), over all batches seen.

    Example:
        >>> metric = FoolingRatio()
        >>> metric.update_state([True, False, False], [True, True, False])
        >>> float(metric.result())
        0.5
    """

    @checked
    def __init__(self, name: str = "fooling_ratio", dtype: str | keras.DTypePolicy | None = None) -> None:
        super().__init__(name, dtype)

    def update_state(self, success: Any, was_correct: Any) -> None:
        """Add the samples of a batch.

        Args:
            success: bool ``(batch,)``, classified correctly before the attack and wrongly after it.
            was_correct: bool ``(batch,)``, classified correctly before the attack.
        """
        super().update_state(success, sample_weight=was_correct)


@keras.saving.register_keras_serializable("keras_fim")
class RobustAccuracy(_Ratio):
    """Samples that are right before and after the attack, over all (`robust_accuracy`), over all batches seen.

    Example:
        >>> metric = RobustAccuracy()
        >>> metric.update_state([True, False, False, False], [True, True, True, False])
        >>> float(metric.result())
        0.5
    """

    @checked
    def __init__(self, name: str = "robust_accuracy", dtype: str | keras.DTypePolicy | None = None) -> None:
        super().__init__(name, dtype)

    def update_state(self, success: Any, was_correct: Any) -> None:
        """Add the samples of a batch; the arguments are those of `FoolingRatio.update_state`."""
        super().update_state(keras.ops.logical_and(was_correct, keras.ops.logical_not(success)))
