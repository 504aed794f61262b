"""The smallest ε at which a fixed-budget attack fools, sample by sample."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from keras_fim.attacks.base import Problem
from keras_fim.attacks.fixed_budget import FixedBudgetAttack
from keras_fim.attacks.lp import norms
from keras_fim.attacks.nearest import MinimalDistanceAttack
from keras_fim.typing import AttackResult

__all__ = ["MinimalDistance"]

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

    def nearest(self, problem: Problem, *extras: tf.Tensor) -> AttackResult:
        """The smallest ε by growth and halvings; ``extras`` are those of the attack."""
        search = _Search(self.attack.fooling_only(), problem, extras)
        one_step = self.attack.one_step
        growth = self.growth or (1.2 if one_step else 2.0)
        largest = self.largest or self._range_norm(problem.images)
        start = self.start or largest / (1000 if one_step else 100)
        low, high = np.zeros(len(problem.images)), np.full(len(problem.images), np.inf)
        going = search.was_correct.copy()
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
                bar.update(int((search.was_correct & ~going).sum()))
        return search.result()

    def _range_norm(self, images: tf.Tensor) -> float:
        return float(norms(np.full((1, *images.shape[1:]), self.bounds[1] - self.bounds[0]), self.norm)[0])


class _Search:
    """The samples of a search over ε, and the best found of each."""

    def __init__(self, attack: FixedBudgetAttack, problem: Problem, extras: tuple[tf.Tensor, ...]) -> None:
        self.attack, self.problem = attack, problem
        prepare = attack._run(problem.logits_fn, "prepare")
        parts = [
            prepare(problem.images[batch], problem.labels[batch], seed, *(extra[batch] for extra in extras))
            for batch, seed in attack._batches(len(problem.images))
        ]
        self.state = [tf.concat(column, axis=0) for column in zip(*parts, strict=True)]
        self.images, self.labels = problem.images.numpy(), problem.labels.numpy()
        self.predictions = np.argmax(self.state[0], axis=-1).astype(np.int64)
        self.was_correct = self.predictions == self.labels
        self.adversarials = self.images.copy()
        self.distances = np.where(self.was_correct, np.inf, 0.0)

    @property
    def success(self) -> np.ndarray:
        return np.asarray(self.was_correct & np.isfinite(self.distances))

    def attempt(self, who: np.ndarray, epsilons: np.ndarray) -> np.ndarray:
        """Attack those that ``who`` marks, each at its ε; returns who was fooled."""
        fooled = np.zeros_like(who)
        perturb = self.attack._run(self.problem.logits_fn, "perturb")
        (indices,) = np.nonzero(who)
        for batch, seed in self.attack._batches(len(indices)):
            chosen = indices[batch]
            arguments = [tf.gather(each, chosen) for each in (self.problem.images, self.problem.labels)]
            budget = tf.constant(epsilons[chosen], arguments[0].dtype)
            state = [tf.gather(each, chosen) for each in self.state]
            found = perturb(*arguments, budget, seed, *state)
            predictions = np.argmax(found.logits, axis=-1)
            hit = predictions != self.labels[chosen]
            self._keep(chosen[hit], found.adversarials.numpy()[hit], predictions[hit])
            fooled[chosen] = hit
        return fooled

    def _keep(self, indices: np.ndarray, adversarials: np.ndarray, predictions: np.ndarray) -> None:
        distances = norms(adversarials.astype(np.float64) - self.images[indices], self.attack.norm)
        nearer = distances < self.distances[indices]
        self.adversarials[indices[nearer]] = adversarials[nearer]
        self.distances[indices[nearer]] = distances[nearer]
        self.predictions[indices[nearer]] = predictions[nearer]

    def result(self) -> AttackResult:
        return AttackResult(
            self.adversarials, self.success, np.where(self.success, self.distances, 0.0), self.predictions,
            self.was_correct, {},
        )  # fmt: skip
