"""What `RobustnessCurve` takes, spelt out: attacks by name, budgets and numbers of samples for each."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_fim.attacks.base import Attack, check_epsilons
from keras_fim.attacks.lp import norm_name
from keras_fim.callbacks.measurement import epsilon_key

__all__ = ["DEFAULT_EPSILONS", "budgets", "named", "sample_counts"]

DEFAULT_EPSILONS: dict[str, tuple[float, ...]] = {
    "l0": (5, 10, 20, 30, 40, 50),
    "l1": (2, 4, 8, 12, 16, 20),
    "l2": (0.5, 1, 1.5, 2, 2.5, 3),
    "linf": (0.05, 0.1, 0.15, 0.2, 0.25, 0.3),
}
"""ε by norm, for images in [0, 1] of a few thousand pixels or less."""


def named(attacks: Attack | Sequence[Attack] | Mapping[str, Attack]) -> dict[str, Attack]:
    """Attacks by name.

    Raises:
        ValueError: if there is none, or two of one name, or a name does not suit a key.
    """
    if isinstance(attacks, Mapping):
        pairs = list(attacks.items())
    else:
        several = [attacks] if isinstance(attacks, Attack) else attacks
        pairs = [(getattr(attack, "name", ""), attack) for attack in several]
    if not pairs or not all(isinstance(attack, Attack) for _, attack in pairs):
        raise ValueError(f"`attacks` should be an attack, several, or a mapping from names. Received: {attacks!r}")
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names) or not all(re.fullmatch(r"[\w-]+", name) for name in names):
        expected = "names of letters, digits, _ and -, each once (a mapping {name: attack} gives others)"
        raise ValueError(f"`attacks` should have {expected}. Received: {names}")
    return dict(pairs)


def budgets(
    attacks: Mapping[str, Attack], epsilons: Sequence[float] | Mapping[Any, Sequence[float]] | None
) -> dict[str, tuple[float, ...]]:
    """Ascending ε for each attack.

    Raises:
        ValueError: if attacks of several norms share a list, a key is neither a norm nor an attack, or an ε is not
            valid or gives the same key as another.
    """
    norms = {name: norm_name(attack.norm) for name, attack in attacks.items()}
    if epsilons is not None and not isinstance(epsilons, Mapping):
        if len(set(norms.values())) > 1:
            several = ", ".join(sorted(set(norms.values())))
            raise ValueError(f"`epsilons` should be a mapping by norm, as the attacks have {several}. Received: a list")
        epsilons = dict.fromkeys(attacks, epsilons)
    given = {key if isinstance(key, str) else norm_name(key): value for key, value in (epsilons or {}).items()}
    unknown = set(given) - set(attacks) - set(DEFAULT_EPSILONS)
    if unknown:
        expected = f"norms ({', '.join(DEFAULT_EPSILONS)}) or attacks ({', '.join(attacks)})"
        raise ValueError(f"`epsilons` should have keys that are {expected}. Received: {sorted(unknown)}")
    return {name: _ascending(given.get(name, given.get(n, DEFAULT_EPSILONS[n]))) for name, n in norms.items()}


def sample_counts(
    attacks: Mapping[str, Attack], max_samples: int | Mapping[str, int], *, default: int
) -> dict[str, int]:
    """Number of samples for each attack.

    Raises:
        ValueError: if one is not a positive integer, or a key is not an attack.
    """
    if not isinstance(max_samples, Mapping):
        max_samples = dict.fromkeys(attacks, max_samples)
    unknown = set(max_samples) - set(attacks)
    if unknown:
        raise ValueError(f"`max_samples` should have keys of {', '.join(attacks)}. Received: {sorted(unknown)}")
    counts = {name: max_samples.get(name, default) for name in attacks}
    for count in counts.values():
        if not (isinstance(count, int) and count >= 1):
            raise ValueError(f"`max_samples` should be a positive integer. Received: max_samples={count!r}")
    return counts


def _ascending(epsilons: Sequence[float]) -> tuple[float, ...]:
    budgets = tuple(sorted({float(epsilon) for epsilon in np.ravel(epsilons)}))
    check_epsilons(budgets)
    if not budgets or len({epsilon_key(each) for each in budgets}) < len(budgets):
        raise ValueError(f"`epsilons` should hold budgets that differ in six digits. Received: {epsilons}")
    return budgets
