"""Models as SavedModels that TensorFlow Serving loads."""

from keras_fim.export.saved import saved_model

__all__ = ["saved_model"]
