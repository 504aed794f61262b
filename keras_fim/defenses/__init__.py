"""Defenses: Keras models around a classifier, which train it differently."""

from keras_fim.defenses.adversarial import (  # noqa: I001 - as `__all__`
    AdversarialTraining, CatastrophicOverfitting, GaussianAugmentation, n_fgm, n_fgsm,
)  # fmt: skip
from keras_fim.defenses.base import Defense, plain
from keras_fim.defenses.penalties import TRADES, AdversarialLabelSmoothing, mu_from_budget
from keras_fim.defenses.spectral import GradientPenalty, SpectralDefense

__all__ = [
    "AdversarialLabelSmoothing", "AdversarialTraining", "CatastrophicOverfitting", "Defense", "GaussianAugmentation",
    "GradientPenalty", "SpectralDefense", "TRADES", "mu_from_budget", "n_fgm", "n_fgsm", "plain",
]  # fmt: skip
