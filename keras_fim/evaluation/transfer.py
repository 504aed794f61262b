"""Whether one model's adversarials fool another, both ways: the paper's table 2."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from keras_fim.arguments import checked
from keras_fim.attacks.base import Attack
from keras_fim.attacks.catalog import attack_by_name, resolve_epsilons
from keras_fim.attacks.lp import norm_name
from keras_fim.evaluation.curves import predicted_classes
from keras_fim.evaluation.distances import searching
from keras_fim.evaluation.intervals import Ratio, wilson
from keras_fim.evaluation.measurement import Outcome, measure
from keras_fim.evaluation.report import Report, Row
from keras_fim.evaluation.sources import Chunk, chunks
from keras_fim.logits import LogitsFunction, logits_function
from keras_fim.typing import AttackResult, Images, Labels, Model
from keras_fim.validation import check_images


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


@checked
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
        epsilons: One budget by attack name or norm, such as ``{"ossa": 1.0}``. Other attacks take the nearest
            adversarials; one with a budget is searched for its smallest ε.
        names: of the two models, for the table.

    Returns:
        `Transfer`, with two rows for each attack. Only adversarials that fool the model they were made for count.

    Raises:
        ValueError: as the attacks; if there is none, the names are equal, or a budget is for none of the attacks.

    Example:
        >>> import tensorflow as tf
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
    budgets = resolve_epsilons(chosen, epsilons or {}, defaults=False)
    models = [logits_function(model, check_images(images)) for model in (source, target)]
    parts = list(chunks((images, labels)))
    rows = []
    for attack, given in zip(chosen, budgets, strict=True):
        for pair, named in ((models, names), (models[::-1], names[::-1])):
            rows.append(_row(attack if given else searching(attack), given[0] if given else None, pair, parts, named))
    return Transfer(tuple(rows), sum(len(chunk.labels) for chunk in parts))


def _row(
    attack: Attack,
    epsilon: float | None,
    models: Sequence[LogitsFunction],
    parts: Sequence[Chunk],
    names: Sequence[str],
) -> TransferRow:
    source, target = models

    def predicted(result: AttackResult) -> np.ndarray:
        return predicted_classes(target, result.adversarials)

    budget = [np.inf if epsilon is None else epsilon]
    labels = np.concatenate([chunk.labels for chunk in parts])
    before = np.concatenate([predicted_classes(target, chunk.images) for chunk in parts])
    outcome = Outcome.joined(measure(source, attack, budget, chunk, inspect=predicted) for chunk in parts)
    fooled, is_right = outcome.fooled[0], outcome.seen[0] == labels
    both = fooled & (before == labels)
    return TransferRow(
        attack=attack.name,
        options=repr(attack),
        norm=norm_name(attack.norm),
        epsilon=epsilon,
        source=names[0],
        target=names[1],
        fooled=wilson(int(fooled.sum()), int(outcome.was_correct.sum())),
        accuracy=wilson(int((both & is_right).sum()), int(both.sum())),
        accuracy_of_all=wilson(int((fooled & is_right).sum()), int(fooled.sum())),
    )
