"""The same as Keras metrics, over batches."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_fim.metrics.functions import check_convention, check_norm, distances_of, in_convention, standing_distances

__all__ = ["FoolingRatio", "MeanDistance", "MedianDistance", "RobustAccuracy"]


class _Ratio(keras.metrics.Metric):
    """Counts of float32; a subclass says of what."""

    _default_name: str

    def __init__(self, name: str | None = None, dtype: Any = None) -> None:
        super().__init__(name=name or self._default_name, dtype=dtype)
        self.hits = self.add_variable((), initializer="zeros", name="hits")
        self.total = self.add_variable((), initializer="zeros", name="total")

    def update_state(self, success: Any, was_correct: Any) -> None:
        """Add the samples of a batch.

        Args:
            success: bool ``(batch,)``, who was classified correctly before the attack and wrongly after.
            was_correct: bool ``(batch,)``, who was classified correctly before.
        """
        success, was_correct = (keras.ops.cast(each, self.dtype) for each in (success, was_correct))
        hits, total = self._counts(success, was_correct)
        self.hits.assign_add(keras.ops.sum(hits))
        self.total.assign_add(keras.ops.sum(total))

    def _counts(self, success: Any, was_correct: Any) -> tuple[Any, Any]:
        raise NotImplementedError

    def result(self) -> Any:
        """The ratio; NaN if there is nothing to take it of."""
        return self.hits / self.total


@keras.saving.register_keras_serializable("keras_fim")
class FoolingRatio(_Ratio):
    """Fooled samples over originally correct ones (`fooling_ratio`), over all batches seen.

    Example:
        >>> metric = FoolingRatio()
        >>> metric.update_state([True, False, False], [True, True, False])
        >>> float(metric.result())
        0.5
    """

    _default_name = "fooling_ratio"

    def _counts(self, success: Any, was_correct: Any) -> tuple[Any, Any]:
        return success * was_correct, was_correct


@keras.saving.register_keras_serializable("keras_fim")
class RobustAccuracy(_Ratio):
    """Samples that are right before and after the attack, over all (`robust_accuracy`), over all batches seen.

    Example:
        >>> metric = RobustAccuracy()
        >>> metric.update_state([True, False, False, False], [True, True, True, False])
        >>> float(metric.result())
        0.5
    """

    _default_name = "robust_accuracy"

    def _counts(self, success: Any, was_correct: Any) -> tuple[Any, Any]:
        return was_correct * (1 - success), keras.ops.ones_like(was_correct)


class _Distance(keras.metrics.Metric):
    """Keeps the distance of each sample, because a median cannot be had of less. Eager: takes arrays, not a graph's.

    Args:
        norm: 0, 1, 2 or ``np.inf`` (``"inf"``).
        convention: ``"norm"`` or ``"foolbox"``; see `in_convention`.
        bounds: smallest and largest pixel value.
        name: name of the metric.
        dtype: of the result.
    """

    _statistic: str

    def __init__(
        self,
        norm: float | str = 2,
        convention: str = "norm",
        bounds: tuple[float, float] = (0.0, 1.0),
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        norm = float(norm)
        check_norm(norm)
        check_convention(convention)
        norm_name = "linf" if norm == np.inf else f"l{norm:g}"
        foolbox = "_foolbox" if convention == "foolbox" else ""
        super().__init__(name=name or f"{self._statistic}_distance_{norm_name}{foolbox}", dtype=dtype)
        self.norm, self.convention, self.bounds = norm, convention, (float(bounds[0]), float(bounds[1]))
        self._batches: list[np.ndarray] = []

    def update_state(self, images: Any, adversarials: Any, success: Any, was_correct: Any) -> None:
        """Add the samples of a batch.

        Args:
            images: ``(batch, ...)``, any number type.
            adversarials: as ``images``.
            success: bool ``(batch,)``, who was classified correctly before the attack and wrongly after.
            was_correct: bool ``(batch,)``, who was classified correctly before.
        """
        size = max(1, int(np.prod(np.shape(images)[1:])))
        values = in_convention(
            distances_of(images, adversarials, self.norm),
            self.norm,
            size,
            convention=self.convention,
            bounds=self.bounds,
        )
        self._batches.append(standing_distances(values, success, was_correct))

    def reset_state(self) -> None:
        """Forget all samples."""
        super().reset_state()
        self._batches = []

    @property
    def share(self) -> float:
        """Successes over originally correct samples."""
        return float(np.isfinite(self._values()).mean()) if len(self._values()) else float("nan")

    def _values(self) -> np.ndarray:
        return np.concatenate([np.zeros(0), *self._batches])

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        norm = "inf" if self.norm == np.inf else self.norm  # JSON knows no infinity
        return {**super().get_config(), "norm": norm, "convention": self.convention, "bounds": self.bounds}


@keras.saving.register_keras_serializable("keras_fim")
class MeanDistance(_Distance):
    """Mean distance over the successes (`mean_distance`); the property ``share`` says how many those are.

    Example:
        >>> metric = MeanDistance(norm=np.inf)
        >>> metric.update_state(np.zeros((2, 3)), [[0, 0.1, 0.3], [0, 0, 0]], [True, False], [True, True])
        >>> round(float(metric.result()), 3), metric.share
        (0.3, 0.5)
    """

    _statistic = "mean"

    def result(self) -> Any:
        """The mean; NaN without a success."""
        values = self._values()
        finite = values[np.isfinite(values)]
        return keras.ops.convert_to_tensor(finite.mean() if len(finite) else np.nan, dtype=self.dtype)


@keras.saving.register_keras_serializable("keras_fim")
class MedianDistance(_Distance):
    """Median distance over the originally correct samples, inf for a failed attack (`median_distance`).

    Example:
        >>> metric = MedianDistance(norm=2)
        >>> metric.update_state(np.zeros((1, 2)), [[3.0, 4.0]], [True], [True])
        >>> float(metric.result())
        5.0
    """

    _statistic = "median"

    def result(self) -> Any:
        """The median; NaN if no sample was correct."""
        values = self._values()
        return keras.ops.convert_to_tensor(np.median(values) if len(values) else np.nan, dtype=self.dtype)
