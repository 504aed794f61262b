"""How far an attack succeeds: ratios and distances as functions of arrays, and the ratios as Keras metrics.

All but the robust accuracy are taken over the samples that were classified correctly before the attack. Functions and
metrics take the arrays of `keras_fim.typing.AttackResult` as they are.
"""

from keras_fim.metrics.functions import (
    fooling_ratio,
    in_convention,
    mean_distance,
    median_distance,
    robust_accuracy,
    standing_distances,
)
from keras_fim.metrics.stateful import FoolingRatio, RobustAccuracy

__all__ = [
    "FoolingRatio", "RobustAccuracy", "fooling_ratio", "in_convention", "mean_distance", "median_distance",
    "robust_accuracy", "standing_distances",
]  # fmt: skip
