"""Defences: classifiers that train differently."""

from keras_fim.defenses.base import Defense
from keras_fim.defenses.spectral import SpectralDefense

__all__ = ["Defense", "SpectralDefense"]
