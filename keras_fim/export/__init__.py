"""Models as SavedModels that TensorFlow Serving loads, and the proof that they answer as the trained ones."""

from keras_fim.export.decoding import Limits
from keras_fim.export.saved import saved_model
from keras_fim.export.verification import Check, Verification, verify

__all__ = ["Check", "Limits", "Verification", "saved_model", "verify"]
