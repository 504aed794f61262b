"""Adversarial attacks, compiled, behind one call."""

from keras_fim.attacks.base import Attack, FixedBudgetAttack, MinimalDistanceAttack
from keras_fim.attacks.iterative import BIM, MIM, PGD
from keras_fim.attacks.minimal import MinimalDistance
from keras_fim.attacks.one_step import FGM, FGSM, OTCM
from keras_fim.attacks.ossa import OSSA

__all__ = [
    "BIM",
    "FGM",
    "FGSM",
    "MIM",
    "OSSA",
    "OTCM",
    "PGD",
    "Attack",
    "FixedBudgetAttack",
    "MinimalDistance",
    "MinimalDistanceAttack",
]
