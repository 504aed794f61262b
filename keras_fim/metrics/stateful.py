"""The ratios as Keras metrics, over batches."""

from __future__ import annotations

from typing import Any

import keras

__all__ = ["FoolingRatio", "RobustAccuracy"]


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
        success, was_correct = (keras.ops.cast(mask, self.dtype) for mask in (success, was_correct))
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
