"""Fisher-information robustness for Keras classifiers: how easily can a model be fooled, and what to change."""

import keras as _keras

if _keras.backend.backend() != "tensorflow":
    raise ImportError(
        "keras_fim needs Keras to run on TensorFlow. "
        f"Received: backend={_keras.backend.backend()!r}; set the environment variable KERAS_BACKEND=tensorflow."
    )

from keras_fim import data, models
from keras_fim.geometry.label_smoothing import default_mu, label_smoothing_from_mu, mu_from_label_smoothing
from keras_fim.losses import FisherEigenvalueLoss, FisherTraceLoss

__version__ = "0.1.0"

__all__ = [
    "FisherEigenvalueLoss",
    "FisherTraceLoss",
    "data",
    "default_mu",
    "label_smoothing_from_mu",
    "models",
    "mu_from_label_smoothing",
]
