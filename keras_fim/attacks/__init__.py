"""Adversarial attacks, compiled, behind one call."""

from keras_fim.attacks.base import Attack, FixedBudgetAttack
from keras_fim.attacks.gradient import FGSM
from keras_fim.attacks.ossa import OSSA

__all__ = ["FGSM", "OSSA", "Attack", "FixedBudgetAttack"]
