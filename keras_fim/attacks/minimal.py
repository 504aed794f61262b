"""The smallest ε at which a fixed-budget attack fools, sample by sample."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from keras_fim.attacks.base import FixedBudgetAttack, MinimalDistanceAttack, Problem
from keras_fim.attacks.lp import norms
from keras_fim.typing import AttackResult

__all__ = ["MinimalDistance"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MinimalDistance(MinimalDistanceAttack):
    """A minimal-distance attack made of a fixed-budget attack, by a search over its ε.

    Each sample's ε grows by a factor until it is fooled, then the last interval is halved. All samples share the
    batches, each at its own ε; one that is done takes no further part. What does not depend on ε is paid once. Growing
    from below finds the first ε that fools (up to ``growth``) also where larger ones do not.

    Args:
        attack: the fixed-budget attack; its ``bounds`` and ``batch_size`` are used.
        smallest: first ε tried; ``None`` for a thousandth of ``largest``.
        largest: last ε tried; ``None`` for the norm of a change of every pixel by the whole range.
        growth: factor from one ε to the next.
        halvings: of the interval in which the smallest ε lies, in the logarithm: the ε found is at most
            ``growth ** 0.5 ** halvings`` times too large.

    Example:
        >>> from keras_fim import attacks, models
        >>> attack = MinimalDistance(attacks.FGSM())
        >>> attack.name, attack.norm
        ('minimal_fgsm', inf)
    """

    attack: FixedBudgetAttack = dataclasses.field(kw_only=False)
    smallest: float | None = None
    largest: float | None = None
    growth: float = 1.5
    halvings: int = 6

    def __post_init__(self) -> None:
        if not isinstance(self.attack, FixedBudgetAttack):
            raise ValueError(f"`attack` should be a fixed-budget attack. Received: attack={self.attack!r}")
        for shared in ("bounds", "batch_size", "seed"):
            object.__setattr__(self, shared, getattr(self.attack, shared))
        super().__post_init__()
        for option in ("smallest", "largest"):
            value = getattr(self, option)
            self._check(value is None or 0 < value < np.inf, option, "a positive number")
        self._check(1 < self.growth < np.inf, "growth", "a number > 1")
        self._check(self.halvings >= 0, "halvings", "an integer >= 0")

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
        largest = self.largest or self._range_norm(problem.images)
        epsilon = self.smallest or largest / 1000
        low, high = np.zeros(len(problem.images)), np.full(len(problem.images), np.inf)
        bar = keras.utils.Progbar(int(search.was_correct.sum()), unit_name="image") if self.progress else None
        while search.standing.any():
            epsilon = min(epsilon, largest)
            fooled = search.attempt(search.standing, np.full(len(low), epsilon))
            low, high = np.where(search.standing, epsilon, low), np.where(fooled, epsilon, high)
            if bar:
                bar.update(int(search.success.sum()))
            if epsilon >= largest:
                break
            epsilon *= self.growth
        low = np.where(low > 0, low, high / self.growth)
        for _ in range(self.halvings):
            middle = np.sqrt(low * high)
            fooled = search.attempt(search.success, middle)
            low, high = np.where(fooled, low, middle), np.where(fooled, middle, high)
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

    @property
    def standing(self) -> np.ndarray:
        return np.asarray(self.was_correct & ~self.success)

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
