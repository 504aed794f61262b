"""Which defenses are compared on a data set, how each is trained there, and at which budgets it is attacked."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_fim.training.config import TrainingConfig, recipe

__all__ = ["BUDGETS", "CONTESTANTS", "DEFAULTS", "IMAGES", "MASKING_IMAGES", "contestant", "stored_as"]

_DIGITS: dict[float, tuple[float, ...]] = {2.0: (1.5,), np.inf: (0.1,)}
_PHOTOS: dict[float, tuple[float, ...]] = {2.0: (0.25, 0.5), np.inf: (2 / 255, 4 / 255)}
BUDGETS: dict[str, dict[float, tuple[float, ...]]] = {
    "mnist": _DIGITS,
    "mnist5k": _DIGITS,
    "gtsrb": _PHOTOS,
    "cifar10": _PHOTOS,
}
"""ε at which a data set's models are attacked, by norm; smallest first."""

IMAGES = {"mnist": 1000, "mnist5k": 200, "gtsrb": 500, "cifar10": 500}
"""Number of test images attacked, unless asked otherwise."""
MASKING_IMAGES = 200

CONTESTANTS: dict[str, dict[str, Any]] = {
    "label-smoothing-0.3": {"defense": "label-smoothing", "label_smoothing": 0.3},
    "n-fgm-0.125": {"defense": "n-fgm", "defense_options": {"epsilon": 0.125}},
    "n-fgm-2.5": {"defense": "n-fgm", "defense_options": {"epsilon": 2.5}},
    "n-fgm-noisy": {"defense": "n-fgm", "defense_options": {"noise": 2.0}},
    "spectral-quarter": {"defense": "spectral", "mu": 2.0, "defense_options": {"share": 0.25}},
    "spectral-0.1": {"defense": "spectral", "mu": 0.1},
    "pgd-3": {"defense": "pgd", "defense_options": {"attack_steps": 3, "step_size": 0.5}},
}
"""Attributes of `TrainingConfig` by name, for what is not just a name that ``keras-fim train --defense`` takes."""

_THRICE, _ONCE = (0, 1, 2), (0,)
_FEW = ("none", "fisher-trace", "label-smoothing", "n-fgm", "spectral", "pgd")
_PHOTO = ("none", "fisher-trace", "label-smoothing", "n-fgm", "n-fgm-noisy", "n-fgm-0.125", "spectral", "pgd-3")
_MANY = {
    **dict.fromkeys([*_FEW, "n-fgm-2.5", "n-fgm-noisy"], _THRICE),
    **dict.fromkeys(["label-smoothing-0.3", "adversarial-label-smoothing", "fisher-eigenvalue"], _ONCE),
    **dict.fromkeys(["n-fgsm", "ossa", "trades", "gradient-penalty"], _ONCE),
    **dict.fromkeys(["spectral-trace", "spectral-quarter", "spectral+n-fgm"], _ONCE),
}
DEFAULTS: dict[str, dict[str, tuple[int, ...]]] = {
    "mnist": _MANY,
    "mnist5k": dict.fromkeys(_FEW, _ONCE),
    "gtsrb": dict.fromkeys([*_PHOTO, "spectral-0.1"], _ONCE),
    "cifar10": dict.fromkeys(_PHOTO, _ONCE),
}
"""Seeds by contestant, for each data set: what is compared unless asked otherwise."""

# On MNIST with five times the learning rate of the recipe: adversarial training gains most by it. On GTSRB and
# CIFAR-10 every defense, and for a fair pair the plain model too, goes on from the stored plain model.
_TRAINING: dict[str, dict[str, Any]] = {
    "mnist": {"epochs": 6, "learning_rate": 1e-2, "warmup_epochs": 1.0},
    "gtsrb": {"epochs": 3, "learning_rate": 0.05, "warmup_epochs": 0.5, "init_from": "gtsrb-plain"},
    "cifar10": {"epochs": 3, "learning_rate": 0.02, "warmup_epochs": 0.5, "init_from": "cifar10-plain"},
}


def contestant(data: str, name: str, seed: int, **changes: Any) -> TrainingConfig:
    """How a defense is trained in the comparison.

    Args:
        data: name of the data set.
        name: of `CONTESTANTS`, or as ``keras-fim train --defense`` takes it.
        seed: of the training.
        **changes: attributes of `TrainingConfig`.

    Returns:
        The recipe of the data set with this defense: 6 epochs on MNIST, 3 from the plain model on GTSRB and CIFAR-10.

    Raises:
        ValueError: if a name or a value is not known.

    Example:
        >>> contestant("mnist", "spectral", 1).mu
        1.0
    """
    tuned = _TRAINING.get(data, {})
    if tuned.get("init_from"):
        tuned = {**tuned, "mu_warmup_epochs": 0.0}
    return recipe(data, **{"seed": seed, **tuned, **CONTESTANTS.get(name, {"defense": name}), **changes})


def stored_as(config: TrainingConfig, name: str) -> str:
    """Name of the stored weights; where the training is not that of `contestant`, it says what is changed."""
    mine, usual = config.as_dict(), contestant(config.data, name, config.seed).as_dict()
    changes = [f"-{key}-{value}" for key, value in mine.items() if value != usual[key]]
    return f"defense-{config.data}-{name}-seed{config.seed}{''.join(changes)}"
