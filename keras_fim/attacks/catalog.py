"""Attacks by name, and the budgets that each gets."""

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from keras_fim.arguments import checked, did_you_mean, expect, hints_of, require
from keras_fim.attacks import apgd, boundaries, ensembles, iterative, jsma, kinds, lp, minimum_norm, problem, square
from keras_fim.attacks.adapters.cleverhans import CleverHans, cleverhans_attacks
from keras_fim.attacks.base import Attack, check_epsilons
from keras_fim.attacks.single_steps import FGM, FGSM, OSSA, OTCM, TSSA

Epsilons: TypeAlias = Sequence[float] | Mapping[Any, float | Sequence[float]] | None
"""Budgets: one list for attacks of one norm, or a mapping by norm or attack name, or None for the defaults."""

DEFAULT_EPSILONS: dict[float, tuple[float, ...]] = {
    0.0: (5.0, 10.0, 20.0, 40.0),
    1.0: (5.0, 10.0, 20.0, 40.0),
    2.0: (0.5, 1.0, 2.0, 3.0),
    np.inf: (0.03, 0.1, 0.2, 0.3),
}
"""Budgets by norm, for pixels in [0, 1]."""

_NORMED: tuple[Callable[..., Attack], ...] = (
    iterative.BIM, iterative.PGD, iterative.MIM,
    apgd.APGD, functools.partial(apgd.APGD, loss="dlr"), functools.partial(apgd.APGD, loss="dlr_targeted"),
    ensembles.AutoAttack, functools.partial(ensembles.AutoAttack, version="rand"), square.Square, ensembles.Strong,
    boundaries.DeepFool, minimum_norm.FMN, boundaries.FAB,
)  # fmt: skip
_SHORT: dict[str, str] = {
    **{name.rpartition("_")[0]: name for name in (make().name for make in _NORMED)},
    **{"apgd": "apgd_ce_linf", "carlini_wagner": "carlini_wagner_l2", "cw": "carlini_wagner_l2", "fab": "fab_t_l2"},
}


def _constructors() -> dict[str, Callable[..., Attack]]:
    normed = [functools.partial(make, norm=norm) for make in _NORMED for norm in (1, 2, np.inf) if _takes(make, norm)]
    foreign = [functools.partial(CleverHans, attack, norm=norm) for attack, norm in cleverhans_attacks()]
    others = (minimum_norm.CarliniWagner, jsma.JSMA, minimum_norm.SigmaZero)
    single = (OSSA, FGSM, FGM, OTCM, TSSA, functools.partial(OTCM, norm=2))
    makers: list[Callable[..., Attack]] = [*single, *normed, *foreign, *others]
    return {make().name: make for make in makers}


def _takes(make: Callable[..., Attack], norm: float) -> bool:
    """Whether an attack takes a norm, as the annotation of its option says."""
    return bool(hints_of(type(make()))["norm"].__metadata__[0].test(norm))


_CONSTRUCTORS = _constructors()
_MINIMAL = "minimal_"


def attack_names() -> tuple[str, ...]:
    """Names for `attack_by_name`: those of the attacks, then short forms.

    Example:
        >>> attack_names()[:3], attack_names()[-1]
        (('ossa', 'fgsm', 'fgm'), 'strong')
    """
    return (*_CONSTRUCTORS, *sorted(_SHORT))


@checked
def attack_by_name(name: str | Attack, **options: Any) -> Attack:
    """An attack, given its name.

    Args:
        name: one of `attack_names`, or ``minimal_`` and the name of one with a budget: `MinimalDistance` of it. An
            attack is returned as it is.
        **options: of the attack's constructor, such as ``bounds``.

    Returns:
        The attack.

    Raises:
        ValueError: if there is none of that name.

    Example:
        >>> attack_by_name("pgd", steps=10).name, attack_by_name("minimal_ossa").norm
        ('pgd_linf', 2.0)
    """
    if isinstance(name, Attack):
        return name
    inner, names = str(name).removeprefix(_MINIMAL), attack_names()
    if inner not in names:
        expected = f"an attack or one of {', '.join(names)}, or {_MINIMAL} and one with a budget"
        raise ValueError(f"`attack` should be {expected}. Received: attack={name!r}{did_you_mean(inner, names)}")
    attack = _CONSTRUCTORS[full_name(inner)](**options)
    if inner == name:
        return attack
    expect(isinstance(attack, kinds.FixedBudgetAttack), "attack", f"one with a budget after {_MINIMAL}", name)
    return kinds.MinimalDistance(attack)  # type: ignore[arg-type]


def full_name(name: str) -> str:
    """``name``, or what it is short for."""
    return _SHORT.get(name, name)


@checked
def resolve_epsilons(
    attacks: Sequence[Attack], epsilons: Epsilons = None, *, names: Sequence[str] | None = None, defaults: bool = True
) -> list[tuple[float, ...]]:
    """The budgets of each attack.

    Args:
        attacks: the attacks.
        epsilons: a list, for attacks of one norm; or a mapping by norm (``2``, ``np.inf``, ``"l2"``, ``"linf"``) or by
            attack name (a short form counts), whose values are lists or single numbers. A name goes before a norm.
            What is not given is `DEFAULT_EPSILONS`, on the scale of the attack's bounds.
        names: The names of the attacks among the keys; ``None`` for their own.
        defaults: Whether attacks without budgets get the default ones.

    Returns:
        For each attack its budgets, in the order given; none for an attack without any where ``defaults`` is False.

    Raises:
        ValueError: if one list is given to attacks of different norms, a key is neither a norm nor the name of one of
            the attacks, or a budget is not a finite number >= 0.

    Example:
        >>> resolve_epsilons([OSSA(), FGSM()], {"l2": [1, 2], "fgsm": 0.1})
        [(1.0, 2.0), (0.1,)]
    """
    if epsilons is None:
        return [_default(attack) for attack in attacks]
    if not isinstance(epsilons, Mapping):
        norms = sorted({lp.norm_name(attack.norm) for attack in attacks})
        expected = f"a mapping by norm or attack name for attacks of different norms ({', '.join(norms)})"
        expect(len(norms) < 2, "epsilons", expected, list(epsilons))
        return [_budgets(epsilons)] * len(attacks)
    names = [attack.name for attack in attacks] if names is None else names
    by_key = {_key(key, names): _budgets(value) for key, value in epsilons.items()}
    return [
        by_key.get(name) or by_key.get(attack.norm) or (_default(attack) if defaults else ())
        for name, attack in zip(names, attacks, strict=True)
    ]


def _key(key: Any, names: Sequence[str]) -> str | float:
    if isinstance(key, str):
        for name in (key, full_name(key)):
            if name in names:
                return name
        key = lp.NORMS.get(key, key)
    expected = f"norms (0, 1, 2, inf, 'l0', 'l1', 'l2', 'linf') or names of the attacks ({', '.join(sorted(names))})"
    require(key in DEFAULT_EPSILONS, f"`epsilons` should have {expected} for keys. Received: {key!r}")
    return float(key)


def _budgets(values: float | Sequence[float]) -> tuple[float, ...]:
    budgets = tuple(float(value) for value in (values if isinstance(values, Iterable) else [values]))
    require(budgets, "`epsilons` should hold at least one budget. Received: none")
    return tuple(check_epsilons(budgets))


def _default(attack: Attack) -> tuple[float, ...]:
    scale = 1.0 if attack.norm == 0 else problem.Units(attack.bounds).scale
    if math.isclose(scale, 1.0):
        return DEFAULT_EPSILONS[attack.norm]
    return tuple(scale * epsilon for epsilon in DEFAULT_EPSILONS[attack.norm])
