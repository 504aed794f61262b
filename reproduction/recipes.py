"""What the reproduction trains: the MNIST models behind the paper's figures and tables, and the study of the recipe.

The paper says "retrain" and leaves the rest open. Ours is the ConvNet of `keras_fim.models`, Adam with a cosine from
2e-3, batches of 128, 6 epochs; the study changes one of these at a time.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from keras_fim.training.config import TrainingConfig, recipe

__all__ = [
    "DEFENDED_MU",
    "MUS",
    "SEEDS",
    "STUDY",
    "Variant",
    "all_models",
    "model_name",
    "paper_config",
    "paper_models",
    "study_models",
]

MUS = (0.0, 0.01, 0.02, 0.022, 0.024)
"""The grid of figures 2 and 3; the text names 0.02, 0.022 and 0.024."""

SEEDS = (0, 1, 2)

DEFENDED_MU = 0.024
"""μ of table 1; also of table 2, where the paper does not say, and of the study."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """A recipe of the study: the base recipe with one thing changed.

    Attributes:
        title: what is changed, in words.
        changes: attributes of `TrainingConfig` for both models of the pair.
        defended: attributes of the defended one only.
        own_plain: whether the change concerns the plain model too; if not, the base recipe's is the partner.
    """

    title: str
    changes: dict[str, Any] = dataclasses.field(default_factory=dict)
    defended: dict[str, Any] = dataclasses.field(default_factory=lambda: {"mu": DEFENDED_MU})
    own_plain: bool = True


STUDY = {
    "base": Variant("base: Adam 2e-3, cosine, 6 epochs, batch 128, gradient limit 1"),
    "unlimited": Variant("no limit on the gradient", defended={"mu": 0.024, "gradient_limit": None}, own_plain=False),
    "warmup": Variant("μ grows over 3 epochs", defended={"mu": 0.024, "mu_warmup_epochs": 3.0}, own_plain=False),
    "mu-0.1": Variant("μ = 0.1", defended={"mu": 0.1}, own_plain=False),
    "short": Variant("2 epochs", {"epochs": 2}),
    "long": Variant("10 epochs, 20 with μ = 0.02", {"epochs": 10}, defended={"epochs": 20, "mu": 0.02}),
    "sgd": Variant("SGD 0.05 with momentum", {"optimizer": "sgd", "learning_rate": 0.05}),
    "slow": Variant("Adam 2e-4", {"learning_rate": 2e-4}),
    "decay": Variant("weight decay 0.05", {"weight_decay": 0.05}),
    "batch-512": Variant("batch 512", {"batch_size": 512}),
    "narrow": Variant("6 and 16 filters", {"model_options": {"filters": [6, 16]}}),
    "smoothing": Variant(
        "label smoothing 0.765, the match of μ = 0.02", defended={"label_smoothing": 0.765}, own_plain=False
    ),
}


def paper_config(**changes: Any) -> TrainingConfig:
    """The base recipe of the reproduction, plain unless ``mu`` is given."""
    return recipe("mnist", **{"mu": 0.0, "epochs": 6, **changes})


def paper_models() -> dict[str, TrainingConfig]:
    """By name of the stored weights, what figures 1 to 3 and 5 and the tables are measured on."""
    return {model_name(mu, seed): paper_config(mu=mu, seed=seed) for seed in SEEDS for mu in MUS}


def study_models() -> dict[str, tuple[str, str]]:
    """By name of a variant, the names of its plain and its defended model."""
    pairs = {}
    for key, variant in STUDY.items():
        if key == "long":  # what `keras-fim train` was run for, too
            pairs[key] = ("mnist-plain", "mnist-fisher")
            continue
        plain = f"study-{key}-plain" if variant.own_plain and key != "base" else model_name(0.0, 0)
        defended = f"study-{key}-defended" if key != "base" else model_name(DEFENDED_MU, 0)
        pairs[key] = (plain, defended)
    return pairs


def all_models() -> dict[str, TrainingConfig]:
    """Every model of the reproduction by name of the stored weights."""
    configs = paper_models()
    for key, (plain, defended) in study_models().items():
        variant = STUDY[key]
        configs.setdefault(plain, paper_config(**variant.changes))
        configs.setdefault(defended, paper_config(**{**variant.changes, **variant.defended}))
    return configs


def model_name(mu: float, seed: int) -> str:
    """Name of the stored weights of a model of the figures and tables."""
    return f"paper-mu{mu:g}-seed{seed}"
