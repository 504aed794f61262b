"""Defenses: Keras models around a classifier, which train it differently."""

from keras_fim.defenses.adversarial import AdversarialTraining, n_fgm, n_fgsm
from keras_fim.defenses.base import Defense, plain
from keras_fim.defenses.gaussian import GaussianAugmentation
from keras_fim.defenses.gradient_penalty import GradientPenalty
from keras_fim.defenses.label_smoothing import AdversarialLabelSmoothing
from keras_fim.defenses.overfitting import CatastrophicOverfitting
from keras_fim.defenses.spectral import SpectralDefense, mu_from_budget
from keras_fim.defenses.trades import TRADES

__all__ = [
    "AdversarialLabelSmoothing", "AdversarialTraining", "CatastrophicOverfitting", "Defense", "GaussianAugmentation",
    "GradientPenalty", "SpectralDefense", "TRADES", "mu_from_budget", "n_fgm", "n_fgsm", "plain",
]  # fmt: skip
