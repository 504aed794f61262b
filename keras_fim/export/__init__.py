"""Models as SavedModels that TensorFlow Serving loads, and the proof that they answer as the trained ones."""

from keras_fim.export.companions import Check, Verification, verify
from keras_fim.export.decoding import Limits
from keras_fim.export.saved import saved_model

__all__ = ["Check", "Limits", "Verification", "saved_model", "verify"]
