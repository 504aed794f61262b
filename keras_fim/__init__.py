"""Fisher-information robustness for Keras classifiers: how easily can a model be fooled, and what to change."""

import os as _os

_NEEDS = "keras_fim needs Keras on TensorFlow: set the environment variable KERAS_BACKEND=tensorflow."
if _os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
    raise ImportError(f"{_NEEDS} Received: KERAS_BACKEND={_os.environ['KERAS_BACKEND']}")

try:
    import keras as _keras
except ImportError as _error:  # its configuration file may name a backend that is not installed
    raise ImportError(f"{_NEEDS} Received: {_error}") from _error

if _keras.backend.backend() != "tensorflow":
    raise ImportError(f"{_NEEDS} Received: the backend {_keras.backend.backend()!r}")

from keras_fim import (
    attacks,
    callbacks,
    data,
    defenses,
    detection,
    evaluation,
    experiments,
    export,
    geometry,
    layers,
    logits,
    losses,
    metrics,
    models,
    plots,
)
from keras_fim.fisher import fisher_spectrum
from keras_fim.geometry.label_smoothing import default_mu, label_smoothing_from_mu, mu_from_label_smoothing
from keras_fim.losses import FisherEigenvalueLoss, FisherTraceLoss

__version__ = "0.1.0"

__all__ = [
    "FisherEigenvalueLoss",
    "FisherTraceLoss",
    "attacks",
    "callbacks",
    "data",
    "default_mu",
    "defenses",
    "detection",
    "evaluation",
    "experiments",
    "export",
    "fisher_spectrum",
    "geometry",
    "label_smoothing_from_mu",
    "layers",
    "logits",
    "losses",
    "metrics",
    "models",
    "mu_from_label_smoothing",
    "plots",
]
