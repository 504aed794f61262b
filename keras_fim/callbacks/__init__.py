"""Keras callbacks."""

from keras_fim.callbacks.fisher import FisherSpectrum, MuSchedule
from keras_fim.callbacks.robustness_curve import RobustnessCurve

__all__ = ["FisherSpectrum", "MuSchedule", "RobustnessCurve"]
