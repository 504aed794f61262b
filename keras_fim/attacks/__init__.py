"""Adversarial attacks, compiled, behind one call."""

from keras_fim.attacks.adapters import ART, CleverHans, Foolbox
from keras_fim.attacks.apgd import APGD
from keras_fim.attacks.base import Attack
from keras_fim.attacks.boundaries import FAB, DeepFool
from keras_fim.attacks.catalog import DEFAULT_EPSILONS, attack_by_name, attack_names, resolve_epsilons
from keras_fim.attacks.ensembles import AutoAttack, Strong
from keras_fim.attacks.iterative import BIM, MIM, PGD
from keras_fim.attacks.jsma import JSMA
from keras_fim.attacks.kinds import FixedBudgetAttack, MinimalDistance, MinimalDistanceAttack, SearchAttack
from keras_fim.attacks.minimum_norm import FMN, CarliniWagner, SigmaZero
from keras_fim.attacks.single_steps import FGM, FGSM, OSSA, OTCM, TSSA
from keras_fim.attacks.square import Square

__all__ = [
    "APGD", "ART", "BIM", "CarliniWagner", "DEFAULT_EPSILONS", "DeepFool", "FAB", "FGM", "FGSM", "FMN", "JSMA", "MIM",
    "OSSA", "OTCM", "PGD", "TSSA", "Attack", "AutoAttack", "CleverHans", "FixedBudgetAttack", "Foolbox",
    "MinimalDistance", "MinimalDistanceAttack", "SearchAttack", "SigmaZero", "Square", "Strong", "attack_by_name",
    "attack_names", "resolve_epsilons",
]  # fmt: skip
