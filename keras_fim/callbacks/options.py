"""What `RobustnessCurve` takes, spelled out: attacks by name, budgets and numbers of samples for each."""

import re
from collections.abc import Mapping, Sequence

from keras_fim.attacks.base import Attack
from keras_fim.attacks.catalog import Epsilons, attack_by_name, resolve_epsilons
from keras_fim.callbacks.measurement import epsilon_key
from keras_fim.evaluation.sources import check_max_samples


def named(attacks: Attack | str | Sequence[Attack | str] | Mapping[str, Attack | str]) -> dict[str, Attack]:
    """Attacks by name.

    Raises:
        ValueError: If there is none, or none of that name, or two of one name, or a name does not suit a key.
    """
    if isinstance(attacks, Mapping):
        pairs = [(name, attack_by_name(attack)) for name, attack in attacks.items()]
    else:
        several = [attacks] if isinstance(attacks, (Attack, str)) else attacks
        pairs = [(attack.name, attack) for attack in map(attack_by_name, several)]
    names = [name for name, _ in pairs]
    if not names or len(set(names)) < len(names) or not all(re.fullmatch(r"[\w-]+", name) for name in names):
        expected = "at least one name, of letters, digits, _ and -, each once (a mapping {name: attack} gives others)"
        raise ValueError(f"`attacks` should have {expected}. Received: {names}")
    return dict(pairs)


def budgets(attacks: Mapping[str, Attack], epsilons: Epsilons) -> dict[str, tuple[float, ...]]:
    """Ascending ε for each attack, by the names that `named` gives.

    Raises:
        ValueError: As `resolve_epsilons`, and if two ε of an attack give the same key.
    """
    resolved = resolve_epsilons(list(attacks.values()), epsilons, names=list(attacks))
    return {name: _ascending(values) for name, values in zip(attacks, resolved, strict=True)}


def sample_counts(
    attacks: Mapping[str, Attack], max_samples: int | Mapping[str, int], *, default: int
) -> dict[str, int]:
    """The number of samples for each attack.

    Raises:
        ValueError: If one is not a positive integer, or a key is not an attack.
    """
    if not isinstance(max_samples, Mapping):
        max_samples = dict.fromkeys(attacks, max_samples)
    unknown = set(max_samples) - set(attacks)
    if unknown:
        raise ValueError(f"`max_samples` should have keys of {', '.join(attacks)}. Received: {sorted(unknown)}")
    counts = {name: max_samples.get(name, default) for name in attacks}
    for count in counts.values():
        check_max_samples(count)
    return counts


def _ascending(epsilons: Sequence[float]) -> tuple[float, ...]:
    budgets = tuple(sorted(set(epsilons)))
    if len({epsilon_key(epsilon) for epsilon in budgets}) < len(budgets):
        raise ValueError(f"`epsilons` should hold budgets that differ in six digits. Received: {epsilons}")
    return budgets
