"""What attacks do, budget by budget: one row for an attack at an ε, and a curve of such rows."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_fim.arguments import checked
from keras_fim.attacks import Attack, MinimalDistanceAttack, attack_by_name, lp, resolve_epsilons
from keras_fim.evaluation.measurement import Outcome, measured
from keras_fim.evaluation.report import Ratio, Report, Row, wilson
from keras_fim.logits import logits_function
from keras_fim.typing import Images, Labels, Model
from keras_fim.validation import check_images

QUANTILES = (0.25, 0.5, 0.75)


@dataclasses.dataclass(frozen=True)
class AttackRow:
    """What one attack does at one ε.

    Attributes:
        attack: The attack's name.
        options: The attack's options, as its ``repr`` shows them.
        norm: ``"l0"``, ``"l1"``, ``"l2"`` or ``"linf"``: the norm of ε.
        epsilon: The budget.
        fooling: Misclassified samples over originally correct ones.
        robust: Samples that are classified correctly before the attack and stand it, over all; those of the class
            that the attack aims at are left out.
        num_unconfirmed: Samples that the attack reported as fooled and that are not counted, because the model did not
            misclassify them when it was called on them once more.
        nearest: Quantiles, over the originally correct samples, of the smallest ε that fools, by their share ("0.5"):
            inf where the attack failed. Interpolated between the budgets of an attack that has several of them, exact
            for one that looks for the nearest adversarial, empty for a single budget.
        strongest: Whether no attack here of the same norm and ε fools more. Its ``robust`` is the one to quote. Never
            for an attack with a target, which says nothing about other classes.
        stages: For `keras_fim.attacks.Strong`, the share of the originally correct samples that each stage fooled.
        seconds: The time of the measurement, which an attack that shares work among its ε divides among them.
        aimed: Whether the attack has a target, whose prediction alone is a success.
        published: The robust accuracy by the published rule of ``AutoAttack(version="rand")``, for which one wrong
            answer anywhere on the way is a success; ``None`` for other attacks.
    """

    attack: str
    options: str
    norm: str
    epsilon: float
    fooling: Ratio
    robust: Ratio
    num_unconfirmed: int
    nearest: dict[str, float]
    strongest: bool
    stages: dict[str, float]
    seconds: float
    aimed: bool = False
    published: Ratio | None = None

    def line(self) -> str:
        """The row in a few words."""
        return line(named(self.attack, self.norm, self.epsilon), self.fooling, self.num_unconfirmed)


@dataclasses.dataclass(frozen=True)
class RobustnessCurve(Report):
    """How many of the originally correct samples one attack fools, for each ε.

    Attributes:
        rows: `AttackRow` for each ε.
    """

    rows: tuple[AttackRow, ...]

    @property
    def attack(self) -> str:
        """The attack's name."""
        return self.rows[0].attack

    @property
    def options(self) -> str:
        """The attack's options, as its ``repr`` shows them."""
        return self.rows[0].options

    @property
    def norm(self) -> str:
        """``"l0"``, ``"l1"``, ``"l2"`` or ``"linf"``: the norm of ε."""
        return self.rows[0].norm

    @property
    def epsilons(self) -> tuple[float, ...]:
        """The budgets."""
        return tuple(row.epsilon for row in self.rows)

    @property
    def fooling_ratios(self) -> tuple[float, ...]:
        """For each ε, misclassified samples over originally correct ones (the paper's section 4)."""
        return tuple(row.fooling.value for row in self.rows)

    @property
    def ratios(self) -> tuple[Ratio, ...]:
        """The fooling ratios with Wilson's intervals."""
        return tuple(row.fooling for row in self.rows)

    @property
    def num_correct(self) -> int:
        """The number of originally correct samples."""
        return self.rows[0].fooling.total

    @property
    def num_samples(self) -> int:
        """The number of samples."""
        return self.rows[0].robust.total

    def tables(self) -> dict[str, list[Row]]:
        """A row for each ε."""
        names = {"attack": "attack", "norm": "norm", "ε": "epsilon", "fooling ratio": "fooling"}
        return {"": [{column: getattr(row, name) for column, name in names.items()} for row in self.rows]}


@checked
def robustness_curve(
    model: Model, images: Images, labels: Labels, attack: Attack | str, epsilons: Sequence[float]
) -> RobustnessCurve:
    """Measure the fooling ratio of an attack for each ε.

    Args:
        model: Any classifier that `keras_fim.logits.logits_function` takes.
        images: ``(batch, ...)`` within the attack's bounds.
        labels: The true classes, ``(batch,)`` or one-hot.
        attack: An attack or its name; one that looks for the nearest adversarial searches once for all ε.
        epsilons: The budgets in the attack's norm.

    Returns:
        `RobustnessCurve`.

    Raises:
        ValueError: As the attack, and if ``epsilons`` is empty.

    Example:
        >>> from keras_fim import attacks, models
        >>> x, y = np.full((4, 28, 28, 1), 0.5), [0, 1, 2, 3]
        >>> robustness_curve(models.convnet(), x, y, attacks.FGSM(), [0.0, 0.1]).norm
        'linf'
    """
    attack = attack_by_name(attack)
    (budgets,) = resolve_epsilons([attack], epsilons)
    logits_fn = logits_function(model, check_images(images))
    return RobustnessCurve(attack_rows(attack, budgets, measured(logits_fn, attack, budgets, (images, labels))))


def attack_rows(attack: Attack, epsilons: Sequence[float], outcome: Outcome) -> tuple[AttackRow, ...]:
    """A row for each ε; not marked yet.

    Args:
        attack: The attack.
        epsilons: The budgets of ``outcome``.
        outcome: What the attack did to the samples.

    Returns:
        `AttackRow` by ε.
    """
    correct, num_samples = outcome.was_correct, int((~np.isnan(outcome.distances)).sum())
    total = int(correct.sum())
    names = getattr(attack, "stages", ()) if total else ()
    shared: dict[str, Any] = {"attack": attack.name, "options": repr(attack), "norm": lp.norm_name(attack.norm)}
    shared |= {"nearest": _nearest(attack, epsilons, outcome), "seconds": outcome.seconds / len(epsilons)}
    rows, published = [], hasattr(attack, "stages") and attack.confirmations > 1
    columns = outcome.fooled, outcome.unconfirmed, outcome.stages
    for epsilon, mask, unconfirmed, stages in zip(epsilons, *columns, strict=True):
        fooled, once = int(mask.sum()), int((mask | (stages == -3)).sum())
        row: dict[str, Any] = {"fooling": wilson(fooled, total), "robust": wilson(total - fooled, num_samples)}
        row["stages"] = {name: float(np.mean(stages[correct] == number)) for number, name in enumerate(names)}
        row["published"] = wilson(total - once, num_samples) if published else None
        row |= {"epsilon": float(epsilon), "num_unconfirmed": int(unconfirmed.sum()), "aimed": attack.aimed}
        rows.append(AttackRow(**shared, **row, strongest=False))
    return tuple(rows)


def named(attack: str, norm: str, epsilon: float) -> str:
    """What a column calls an attack at an ε.

    Example:
        >>> named("fgsm", "linf", 0.1)
        'fgsm at linf 0.1'
    """
    return f"{attack} at {norm} {budget(epsilon)}"


def line(name: str, fooling: Ratio, num_unconfirmed: int) -> str:
    """What an attack does at an ε, in a few words."""
    unconfirmed = f", {num_unconfirmed} unconfirmed" if num_unconfirmed else ""
    return f"{name}: fooling ratio {fooling}{unconfirmed}"


def budget(epsilon: float) -> str:
    """An ε as people write it.

    Example:
        >>> budget(0.1), budget(8 / 255)
        ('0.1', '8/255')
    """
    text, levels = f"{epsilon:g}", 255 * epsilon
    return f"{levels:.0f}/255" if len(text) > 6 and abs(levels - round(levels)) < 1e-6 else text


def telling(robust: Mapping[tuple[str, float], float], accuracy: float) -> tuple[str, float]:
    """The norm and ε that a verdict quotes: the smallest ε that leaves less than half of the accuracy, or the largest.

    Args:
        robust: The robust accuracy by norm and ε, in ascending order. Of several norms it is the last one by name.
        accuracy: The accuracy without an attack.

    Example:
        >>> telling({("l2", 1.0): 0.1, ("linf", 0.1): 0.6, ("linf", 0.2): 0.4, ("linf", 0.3): 0.2}, 0.9)
        ('linf', 0.2)
    """
    last = max(norm for norm, _ in robust)
    keys = [key for key in robust if key[0] == last]
    return next((key for key in keys if 2 * robust[key] < accuracy), keys[-1])


def marked(rows: Sequence[AttackRow]) -> tuple[AttackRow, ...]:
    """The rows, with those marked that fool most at their norm and ε."""
    ascending = sorted((row for row in rows if not row.aimed), key=lambda row: row.fooling.count)
    most = {(row.norm, row.epsilon): row.fooling.count for row in ascending}
    marks = [not row.aimed and row.fooling.count == most[row.norm, row.epsilon] for row in rows]
    return tuple(dataclasses.replace(row, strongest=mark) for row, mark in zip(rows, marks, strict=True))


def _nearest(attack: Attack, epsilons: Sequence[float], outcome: Outcome) -> dict[str, float]:
    """Quantiles of the smallest ε that fools."""
    correct, searched = outcome.was_correct, isinstance(attack, MinimalDistanceAttack)
    if not correct.any() or (len(epsilons) < 2 and not searched):
        return {}
    if searched:  # between inf and inf there is no mean
        values = np.quantile(outcome.distances[correct], QUANTILES, method="higher")
    else:
        order = np.argsort(epsilons, kind="stable")
        budgets = np.append(0.0, np.asarray(epsilons, float)[order])
        shares = np.append(0.0, np.maximum.accumulate(outcome.fooled[order], axis=0)[:, correct].mean(axis=1))
        values = np.array([_crossing(share, shares, budgets) for share in QUANTILES])
    return {f"{share:g}": float(value) for share, value in zip(QUANTILES, values, strict=True)}


def _crossing(share: float, shares: np.ndarray, budgets: np.ndarray) -> float:
    """The budget, interpolated between two of them, at which ascending shares reach ``share``; inf if they never do."""
    after = int(np.searchsorted(shares, share))
    between = slice(after - 1, after + 1)
    return np.inf if after == len(shares) else float(np.interp(share, shares[between], budgets[between]))
