"""Attacks of CleverHans, Foolbox and ART behind the package's own call."""

from keras_fim.attacks.adapters.cleverhans import CleverHans
from keras_fim.attacks.adapters.foreign import ART, Foolbox

__all__ = ["ART", "CleverHans", "Foolbox"]
