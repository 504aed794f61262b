"""Models as SavedModels that TensorFlow Serving loads, and the proof that they answer as the trained ones."""

from keras_fim.export.saved import saved_model
from keras_fim.export.verification import Check, Verification, verify

__all__ = ["Check", "Verification", "saved_model", "verify"]
