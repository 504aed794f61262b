"""Keras callbacks."""

from keras_fim.callbacks.mu_schedule import MuSchedule

__all__ = ["MuSchedule"]
