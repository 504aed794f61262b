"""How robust a model is: figures as plain dataclasses."""

from keras_fim.evaluation.curves import Confidence, RobustnessCurve, clean_performance, robustness_curve, samples

__all__ = ["Confidence", "RobustnessCurve", "clean_performance", "robustness_curve", "samples"]
