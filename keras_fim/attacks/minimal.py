"""The smallest ε at which a fixed-budget attack fools, sample by sample."""

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from keras_fim.attacks.fixed_budget import FixedBudgetAttack, concatenated
from keras_fim.attacks.lp import norms
from keras_fim.attacks.nearest import Found, MinimalDistanceAttack
from keras_fim.attacks.problem import Problem
from keras_fim.attacks.samples import take

_VANISHING = 1e-6  # share of the largest ε under which no smaller one is looked for


@dataclasses.dataclass(frozen=True, kw_only=True)
class MinimalDistance(MinimalDistanceAttack):
    """A minimal-distance attack made of a fixed-budget attack, by a search over its ε.

    Each sample's ε grows by a factor from ``start`` until it is fooled (or shrinks until it is not); then the interval
    is halved, in the logarithm, from the distance of the adversarial that was found downwards (from ε for one-step
    attacks). All samples share the batches, each at its own ε; one that is done takes no further part. What does not
    depend on ε is paid once.
    Growing in small steps finds the first ε that fools also where larger ones do not, as happens with one-step attacks.

    Args:
        attack: the fixed-budget attack; its ``bounds``, ``batch_size`` and ``seed`` are used.
        start: first ε tried; ``None`` for a thousandth of ``largest`` for one-step attacks and a hundredth for others.
        largest: last ε tried; ``None`` for the norm of a change of every pixel by the whole range.
        growth: factor from one ε to the next; ``None`` for 1.2 for one-step attacks and 2 for others.
        rtol: the ε found is at most by this share larger than one that does not fool.

    Example:
        >>> from keras_fim import attacks, models
        >>> attack = MinimalDistance(attacks.FGSM())
        >>> attack.name, attack.norm
        ('minimal_fgsm', inf)
    """

    attack: FixedBudgetAttack = dataclasses.field(kw_only=False)
    start: float | None = None
    largest: float | None = None
    growth: float | None = None
    rtol: float = 0.01

    def __post_init__(self) -> None:
        if not isinstance(self.attack, FixedBudgetAttack):
            raise ValueError(f"`attack` should be a fixed-budget attack. Received: attack={self.attack!r}")
        for shared in ("bounds", "batch_size", "seed"):
            object.__setattr__(self, shared, getattr(self.attack, shared))
        super().__post_init__()
        for option in ("start", "largest"):
            value = getattr(self, option)
            self._check(value is None or 0 < value < np.inf, option, "a positive number")
        self._check(self.growth is None or 1 < self.growth < np.inf, "growth", "a number > 1")
        self._check(0 < self.rtol < np.inf, "rtol", "a positive number")

    @property
    def name(self) -> str:
        """``minimal_`` and the attack's name."""
        return f"minimal_{self.attack.name}"

    @property
    def norm(self) -> float:
        """That of the attack."""
        return self.attack.norm

    @property
    def target(self) -> int | str | None:
        """That of the attack, if it has one."""
        return getattr(self.attack, "target", "")

    @property
    def aimed(self) -> bool:
        """Whether the attack is."""
        return self.attack.aimed

    @property
    def least_classes(self) -> int:
        """That of the attack."""
        return self.attack.least_classes

    def nearest(self, problem: Problem, correct: np.ndarray) -> Found:
        """The smallest ε by growth and halvings."""
        search, scale = _Search(self.attack.fooling_only(), problem, correct), problem.units.scale
        one_step = self.attack.one_step
        growth = self.growth or (1.2 if one_step else 2.0)
        farthest = norms(np.ones((1, *problem.images.shape[1:])), self.norm)[0]
        largest = self.largest / scale if self.largest else farthest
        start = self.start / scale if self.start else largest / (1000 if one_step else 100)
        low, high = np.zeros(len(correct)), np.full(len(correct), np.inf)
        going = correct.copy()
        bar = keras.utils.Progbar(int(going.sum()), unit_name="image") if self.progress else None
        while going.any():
            with np.errstate(invalid="ignore"):  # 0 * inf of those that have neither yet
                middle = np.where(np.isinf(high), low * growth, np.where(low > 0, np.sqrt(low * high), high / growth))
            epsilon = np.minimum(np.where((low == 0) & np.isinf(high), start, middle), largest)
            fooled = search.attempt(going, epsilon)
            # a clipped step is shorter than its ε; a way of many steps may end anywhere in the ball
            high = np.where(fooled, epsilon if one_step else np.minimum(epsilon, search.distances), high)
            low = np.where(going & ~fooled, epsilon, low)
            going &= (high > low * (1 + self.rtol)) & (low < largest) & (high > largest * _VANISHING)
            if bar:
                bar.update(int((correct & ~going).sum()))
        return Found(tf.constant(search.points))


class _Search:
    """The samples of a search over ε, and the nearest adversarial of each so far, all in unit coordinates."""

    def __init__(self, attack: FixedBudgetAttack, problem: Problem, correct: np.ndarray) -> None:
        self.attack, self.problem, self.task = attack, problem, problem.task
        self.points = problem.task.images.numpy().copy()
        self.distances = np.where(correct, np.inf, 0.0)
        prepare, self.perturb = (
            attack._function(half, problem.unit_fn) for half in (type(attack).prepare, type(attack).perturb)
        )
        self.state = concatenated([prepare(take(self.task, batch)) for batch in attack._batches(len(correct))])

    def attempt(self, going: np.ndarray, epsilons: np.ndarray) -> np.ndarray:
        """Attack the samples that ``going`` marks, each at its ε; returns who was fooled."""
        fooled = np.zeros_like(going)
        (indices,) = np.nonzero(going)
        for batch in self.attack._batches(len(indices)):
            rows = indices[batch]
            task, state = take((self.task, self.state), rows)
            perturbed = self.perturb(task._replace(epsilon=tf.constant(epsilons[rows], task.images.dtype)), state)
            points = perturbed.adversarials.numpy()
            hit = fooled[rows] = self.problem.fooled(np.argmax(perturbed.logits, axis=-1), rows)
            distances = norms(points.astype(np.float64) - task.images.numpy(), self.attack.norm)
            nearer = hit & (distances < self.distances[rows])
            self.points[rows[nearer]], self.distances[rows[nearer]] = points[nearer], distances[nearer]
        return fooled
