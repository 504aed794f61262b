"""Adversarial attacks, compiled, behind one call."""

from keras_fim.attacks.adapters import ART, CleverHans, Foolbox
from keras_fim.attacks.apgd import APGD
from keras_fim.attacks.autoattack import AutoAttack
from keras_fim.attacks.base import Attack
from keras_fim.attacks.carlini_wagner import CarliniWagner
from keras_fim.attacks.catalog import DEFAULT_EPSILONS, attack_by_name, attack_names, resolve_epsilons
from keras_fim.attacks.deepfool import DeepFool
from keras_fim.attacks.fab import FAB
from keras_fim.attacks.fixed_budget import FixedBudgetAttack
from keras_fim.attacks.fmn import FMN
from keras_fim.attacks.iterative import BIM, MIM, PGD
from keras_fim.attacks.jsma import JSMA
from keras_fim.attacks.minimal import MinimalDistance
from keras_fim.attacks.nearest import MinimalDistanceAttack, SearchAttack
from keras_fim.attacks.one_step import FGM, FGSM, OTCM
from keras_fim.attacks.ossa import OSSA, TSSA
from keras_fim.attacks.sigma_zero import SigmaZero
from keras_fim.attacks.square import Square
from keras_fim.attacks.strong import Strong

__all__ = [
    "APGD", "ART", "BIM", "CarliniWagner", "DEFAULT_EPSILONS", "DeepFool", "FAB", "FGM", "FGSM", "FMN", "JSMA", "MIM",
    "OSSA", "OTCM", "PGD", "TSSA", "Attack", "AutoAttack", "CleverHans", "FixedBudgetAttack", "Foolbox",
    "MinimalDistance", "MinimalDistanceAttack", "SearchAttack", "SigmaZero", "Square", "Strong", "attack_by_name",
    "attack_names", "resolve_epsilons",
]  # fmt: skip
