"""The ratios as Keras metrics, over batches."""

from typing import Any

import keras

from keras_fim.arguments import checked


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
