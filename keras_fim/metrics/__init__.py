"""What is said about an attack's success: ratios and distances, as functions of arrays and as Keras metrics.

All but `RobustAccuracy` are taken over the samples that were classified correctly before the attack. Functions and
metrics take the arrays of `keras_fim.typing.AttackResult` as they are.
"""

from keras_fim.metrics.functions import (
    distances_of,
    fooling_ratio,
    in_convention,
    mean_distance,
    median_distance,
    robust_accuracy,
    standing_distances,
)
from keras_fim.metrics.stateful import FoolingRatio, MeanDistance, MedianDistance, RobustAccuracy

__all__ = [
    "FoolingRatio",
    "MeanDistance",
    "MedianDistance",
    "RobustAccuracy",
    "distances_of",
    "fooling_ratio",
    "in_convention",
    "mean_distance",
    "median_distance",
    "robust_accuracy",
    "standing_distances",
]
