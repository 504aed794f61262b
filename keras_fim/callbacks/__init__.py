"""Keras callbacks."""

from keras_fim.callbacks.fisher_spectrum import FisherSpectrum
from keras_fim.callbacks.mu_schedule import MuSchedule
from keras_fim.callbacks.robustness_curve import RobustnessCurve

__all__ = ["FisherSpectrum", "MuSchedule", "RobustnessCurve"]
