"""Whether one model's adversarials fool another, both ways: the paper's table 2."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from keras_fim.attacks.base import Attack, check_epsilons, predict_logits
from keras_fim.attacks.catalog import attack_by_name, full_name
from keras_fim.attacks.lp import norm_name
from keras_fim.evaluation.curves import predicted_classes
from keras_fim.evaluation.distances import searching
from keras_fim.evaluation.intervals import Ratio, wilson
from keras_fim.evaluation.report import Report, Row
from keras_fim.logits import LogitsFunction, logits_function
from keras_fim.typing import Images, Labels, Model
from keras_fim.validation import check_images, check_labels

__all__ = ["Transfer", "TransferRow", "transfer"]


@dataclasses.dataclass(frozen=True)
class TransferRow:
    """How one model does on the adversarials of another.

    Attributes:
        attack: the attack's name.
        options: the attack's options, as its ``repr`` shows them.
        norm: ``"l0"``, ``"l1"``, ``"l2"`` or ``"linf"``.
        epsilon: the budget; None for the nearest adversarials.
        source: name of the model that was attacked.
        target: name of the model that is tested on what came out.
        fooled: share of the samples that ``source`` had right on which the attack fooled it.
        accuracy: of these adversarials, of samples that *both* models had right, the share that ``target`` has right
            still; so whatever is missing to 100 % the attack has done.
        accuracy_of_all: the same share of all these adversarials, ``target`` right before or not; this is how we read
            the paper's table 2.
    """

    attack: str
    options: str
    norm: str
    epsilon: float | None
    source: str
    target: str
    fooled: Ratio
    accuracy: Ratio
    accuracy_of_all: Ratio


@dataclasses.dataclass(frozen=True)
class Transfer(Report):
    """Adversarials of each of two models, tested on the other; prints as a table.

    Attributes:
        rows: two for each attack: first ``source``'s adversarials on ``target``, then the other way.
        num_samples: number of samples.
    """

    rows: tuple[TransferRow, ...]
    num_samples: int

    def tables(self) -> dict[str, list[Row]]:
        """A row for each attack and direction."""
        rows: list[Row] = [
            {
                "attack": row.attack,
                "norm": row.norm,
                "ε": "nearest" if row.epsilon is None else f"{row.epsilon:g}",
                "adversarials of": row.source,
                "fool it": row.fooled,
                "tested on": row.target,
                "accuracy": row.accuracy,
                "of all": row.accuracy_of_all,
            }
            for row in self.rows
        ]
        return {"": rows}


def transfer(
    source: Model,
    target: Model,
    images: Images,
    labels: Labels,
    attacks: Sequence[Attack | str],
    *,
    epsilons: Mapping[str, float] | None = None,
    names: tuple[str, str] = ("source", "target"),
) -> Transfer:
    """Test each of two models on the adversarials of the other.

    Args:
        source: any classifier that `keras_fim.logits.logits_function` takes.
        target: another for the same images.
        images: ``(batch, ...)`` within the attacks' bounds.
        labels: the true classes, ``(batch,)`` or one-hot.
        attacks: attacks or their names.
        epsilons: budgets by attack name, such as ``{"ossa": 1.0}``. Other attacks take the nearest adversarials; one
            with a budget is searched for its smallest ε.
        names: of the two models, for the table.

    Returns:
        `Transfer`, with two rows for each attack. Only adversarials that fool the model they were made for count.

    Raises:
        ValueError: as the attacks; if there is none, the names are equal, or a budget is for none of the attacks.

    Example:
        >>> near, far = (
        ...     logits_function(lambda x, t=t: tf.stack([x[:, 0] - t, t - x[:, 0]], axis=-1), from_logits=True)
        ...     for t in (0.5, 0.3)
        ... )
        >>> rows = transfer(near, far, [[0.6], [0.9]], [0, 0], ["fgsm"]).rows
        >>> rows[0].accuracy.value, rows[1].accuracy.value  # what crosses 0.5 is still above 0.3, not vice versa
        (1.0, 0.0)
    """
    if not len(attacks):
        raise ValueError("`attacks` should hold at least one attack. Received: none")
    if len(set(names)) != 2:
        raise ValueError(f"`names` should be two different names. Received: names={names}")
    chosen = [attack_by_name(attack) for attack in attacks]
    budgets = _budgets(chosen, epsilons)
    images = check_images(images)
    models = [logits_function(model, images) for model in (source, target)]
    counts = [logits_fn.compiled(predict_logits)(logits_fn.cast(images[:1])).shape[-1] for logits_fn in models]
    classes = [check_labels(labels, len(images), count) for count in counts][0]
    rows = []
    for attack, epsilon in zip(chosen, budgets, strict=True):
        attack = searching(attack) if epsilon is None else attack
        rows += [
            _row(attack, epsilon, models, images, classes, names),
            _row(attack, epsilon, models[::-1], images, classes, (names[1], names[0])),
        ]
    return Transfer(tuple(rows), len(images))


def _budgets(attacks: Sequence[Attack], epsilons: Mapping[str, float] | None) -> list[float | None]:
    given = {full_name(name): epsilon for name, epsilon in (epsilons or {}).items()}
    unknown = sorted(set(given) - {attack.name for attack in attacks})
    if unknown:
        raise ValueError(f"`epsilons` should have names of the attacks for keys. Received: {', '.join(unknown)}")
    check_epsilons(list(given.values()))
    return [given.get(attack.name) for attack in attacks]


def _row(
    attack: Attack,
    epsilon: float | None,
    models: Sequence[LogitsFunction],
    images: tf.Tensor,
    labels: np.ndarray,
    names: tuple[str, str],
) -> TransferRow:
    source, target = models
    (result,) = attack.sweep(source, images, labels, [np.inf if epsilon is None else epsilon])
    was_right = predicted_classes(target, images) == labels
    is_right = predicted_classes(target, result.adversarials) == labels
    both = result.success & was_right
    return TransferRow(
        attack=attack.name,
        options=repr(attack),
        norm=norm_name(attack.norm),
        epsilon=epsilon,
        source=names[0],
        target=names[1],
        fooled=wilson(int(result.success.sum()), int(result.was_correct.sum())),
        accuracy=wilson(int((both & is_right).sum()), int(both.sum())),
        accuracy_of_all=wilson(int((result.success & is_right).sum()), int(result.success.sum())),
    )
