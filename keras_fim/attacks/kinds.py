"""The two kinds of attacks, within a budget ε and for the nearest adversarial, and how one becomes the other.

An attack with a budget has two compiled halves, what does not depend on ε (one gradient, say), and what does. A sweep
over many ε pays the first half once.
"""

import abc
import dataclasses
import operator
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_fim.arguments import Positive, PositiveOrNone, Valid, expect
from keras_fim.attacks import base, lp, samples
from keras_fim.attacks.problem import Problem
from keras_fim.logits import LogitsFunction, classes_of, predict_outputs
from keras_fim.typing import AttackResult


class Perturbed(NamedTuple):
    """What `FixedBudgetAttack.perturb`, `SearchAttack.search` and `MinimalDistanceAttack.nearest` return.

    Attributes:
        adversarials: ``(batch, ...)``, within the unit cube and, if there is one, ε. In a search, anything for samples
            that were not fooled.
        logits: ``(batch, K)``, theirs; not of a search.
        details: tensors ``(batch, ...)`` for `AttackResult.details`.
    """

    adversarials: tf.Tensor
    logits: Any = None
    details: dict[str, tf.Tensor] = {}  # noqa: RUF012 - never written to


class FixedBudgetAttack(base.Attack):
    """An attack that perturbs each image by at most ε."""

    def _sweep(self, problem: Problem, epsilons: Sequence[float | None]) -> list[AttackResult]:
        budgets = [problem.budgets(epsilon) for epsilon in base.check_epsilons(epsilons)]
        unit_fn, parts = problem.unit_fn, []
        prepare, perturb = (self._function(half, unit_fn) for half in (type(self).prepare, type(self).perturb))
        for batch in self._batches(len(problem.images)):
            state = prepare(samples.take(problem.task, batch))
            tasks = [samples.take(problem.task._replace(epsilon=budget), batch) for budget in budgets]
            parts.append([(state[0], perturb(task, state)) for task in tasks])
        return [self._result(problem, *concatenated(column)) for column in zip(*parts, strict=True)]

    def _result(self, problem: Problem, logits: tf.Tensor, perturbed: Perturbed) -> AttackResult:
        """An `AttackResult` from the logits of the images and what was found, in unit coordinates."""
        was_correct = (classes_of(logits) == problem.task.labels.numpy()) & ~problem.left_out
        points, predictions = perturbed.adversarials, classes_of(perturbed.logits)
        if not problem.units.identity:  # the way back to pixels rounds
            points, seen = self._in_pixels(problem, perturbed.adversarials)
            predictions = seen if self.confirmations == 1 else predictions  # the verdict of several draws stands
        adversarials, success = points.numpy(), was_correct & problem.fooled(predictions)
        distances = problem.distances(perturbed.adversarials, adversarials, self.norm)
        details = problem.details(perturbed.details)
        return AttackResult(adversarials, success, distances, predictions, was_correct, details)

    @property
    def one_step(self) -> bool:
        """Whether it goes straight in a direction that does not depend on ε, at hardly any cost for another ε."""
        return False

    @property
    def whole_batch(self) -> bool:
        """Whether all samples stay in the batch to the end, which a model that normalizes batches would notice."""
        return True

    def fooling_only(self) -> "FixedBudgetAttack":
        """The same attack, as fast as it can be where only fooled-or-not is asked."""
        return self

    def prepare(self, logits_fn: LogitsFunction, task: samples.Task) -> tuple[tf.Tensor, ...]:
        """What does not depend on ε: the logits of the images, then whatever `perturb` wants, by sample. Compiled."""
        return (logits_fn(task.images),)

    @abc.abstractmethod
    def perturb(self, logits_fn: LogitsFunction, task: samples.Task, state: tuple[Any, ...]) -> Perturbed:
        """Adversarials within ε and the unit cube. Compiled; ``state`` is what `prepare` returned."""


def concatenated(parts: Sequence[Any]) -> Any:
    """Structures of tensors of several batches as one."""
    return tf.nest.map_structure(lambda *tensors: tf.concat(tensors, axis=0), *parts)


class MinimalDistanceAttack(base.Attack):
    """An attack that looks for the nearest adversarial of each image.

    A sample that could not be fooled (within ``epsilon``, if it is given) comes back unchanged with distance inf; one
    that was wrong before comes back unchanged with distance 0. Neither is a success.
    """

    def _sweep(self, problem: Problem, epsilons: Sequence[float | None]) -> list[AttackResult]:
        limits = base.check_epsilons([np.inf if epsilon is None else epsilon for epsilon in epsilons], infinite=True)
        labels, images = problem.task.labels.numpy(), problem.images.numpy()
        predictions = self._predictions(problem.logits_fn, problem.images)
        correct = (predictions == labels) & ~problem.left_out
        result = self.nearest(problem, correct)
        reached, points, attacked = self._beyond(problem, result.adversarials, correct)
        predictions = np.where(correct, attacked, predictions)
        distances = problem.distances(reached, points.numpy(), self.norm)
        results = []
        for limit in limits:
            success = correct & problem.fooled(predictions) & (distances <= limit)
            adversarials = np.where(success.reshape(-1, *[1] * (images.ndim - 1)), points, images)
            lengths = np.where(success, distances, np.where(correct, np.inf, 0.0))
            classes, details = np.where(correct & ~success, labels, predictions), problem.details(result.details)
            results.append(AttackResult(adversarials, success, lengths, classes, correct, details))
        return results

    def _beyond(self, problem: Problem, reached: tf.Tensor, correct: np.ndarray) -> tuple[Any, tf.Tensor, np.ndarray]:
        """Points reached, in unit coordinates and as pixels, and the classes predicted there.

        So near to the boundary the probabilities that the model returns may be equal where its logits are not, or
        pixels may be rounded. Where they are not wrong yet, the way is made longer by up to a tenth. What a model of
        logits returns is known already.
        """
        points, predictions = self._in_pixels(problem, reached)
        if problem.logits_fn.returns_logits:
            return reached, points, predictions
        start, claimed = problem.task.images, correct & problem.fooled(predictions)
        for stretch in (1.001, 1.01, 1.1):
            seen = classes_of(problem.logits_fn.in_batches(predict_outputs, points, batch_size=self.batch_size))
            predictions = np.where(claimed & problem.fooled(seen), seen, predictions)
            doubted = claimed & ~problem.fooled(seen)
            if not doubted.any():
                break
            reached = samples.choose(doubted, tf.clip_by_value(start + stretch * (reached - start), 0, 1), reached)
            points = samples.choose(doubted, problem.units.to_pixels(reached), points)
        return reached, points, predictions

    @abc.abstractmethod
    def nearest(self, problem: Problem, correct: np.ndarray) -> Perturbed:
        """The nearest adversarials at any distance of all samples; ``correct`` marks those that are asked for."""


class SearchAttack(MinimalDistanceAttack):
    """A minimal-distance attack that searches batch by batch, in `search`."""

    def nearest(self, problem: Problem, correct: np.ndarray) -> Perturbed:
        """`search` in batches, of the samples that are correct."""
        search = self._function(type(self).search, problem.unit_fn)
        points, details = problem.task.images.numpy().copy(), dict[str, np.ndarray]()
        for batch in self._batches(len(correct)):
            rows = np.arange(len(correct))[batch][correct[batch]]
            if not len(rows):
                continue
            result = search(samples.take(problem.task, tf.constant(rows)))
            points[rows] = result.adversarials.numpy()
            for key, value in result.details.items():
                details.setdefault(key, np.zeros((len(correct), *value.shape[1:]), value.numpy().dtype))[rows] = value
        return Perturbed(tf.constant(points), details=details)

    @abc.abstractmethod
    def search(self, logits_fn: LogitsFunction, task: samples.Task) -> Perturbed:
        """The nearest adversarials that can be found. Compiled."""


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
    start: PositiveOrNone = None
    largest: PositiveOrNone = None
    growth: Annotated[float | None, Valid(lambda factor: factor is None or 1 < factor < np.inf, "a number > 1")] = None
    rtol: Positive = 0.01

    def __post_init__(self) -> None:
        expect(isinstance(self.attack, FixedBudgetAttack), "attack", "a fixed-budget attack", self.attack)
        for shared in ("bounds", "batch_size", "seed"):
            object.__setattr__(self, shared, getattr(self.attack, shared))
        super().__post_init__()

    @property
    def name(self) -> str:
        """``minimal_`` and the attack's name."""
        return f"minimal_{self.attack.name}"

    norm = property(operator.attrgetter("attack.norm"), doc="That of the attack.")
    aimed = property(operator.attrgetter("attack.aimed"), doc="Whether the attack is.")

    def _problem(self, *data: Any, **options: Any) -> Problem:
        """That of the attack, which has its own targets and the same pixels and seed."""
        return self.attack._problem(*data, **options)

    def nearest(self, problem: Problem, correct: np.ndarray) -> Perturbed:
        """The smallest ε by growth and halvings."""
        search, scale = _Search(self.attack.fooling_only(), problem, correct), problem.units.scale
        one_step = self.attack.one_step
        growth = self.growth or (1.2 if one_step else 2.0)
        farthest = lp.norms(np.ones((1, *problem.images.shape[1:])), self.norm)[0]
        largest = self.largest / scale if self.largest else farthest
        start = self.start / scale if self.start else largest / (1000 if one_step else 100)
        low, high = np.zeros(len(correct)), np.full(len(correct), np.inf)
        going = correct.copy()
        bar = keras.utils.Progbar(int(going.sum()), verbose=int(self.progress), unit_name="image")
        while going.any():
            with np.errstate(invalid="ignore"):  # 0 * inf of those that have neither yet
                middle = np.where(np.isinf(high), low * growth, np.where(low > 0, np.sqrt(low * high), high / growth))
            epsilon = np.minimum(np.where((low == 0) & np.isinf(high), start, middle), largest)
            fooled = search.attempt(going, epsilon)
            # a clipped step is shorter than its ε; a way of many steps may end anywhere in the ball
            high = np.where(fooled, epsilon if one_step else np.minimum(epsilon, search.distances), high)
            low = np.where(going & ~fooled, epsilon, low)
            going &= (high > low * (1 + self.rtol)) & (low < largest) & (high > largest * _VANISHING)
            bar.update(int((correct & ~going).sum()))
        return Perturbed(tf.constant(search.points))


class _Search:
    """The samples of a search over ε, and the nearest adversarial of each so far, all in unit coordinates."""

    def __init__(self, attack: FixedBudgetAttack, problem: Problem, correct: np.ndarray) -> None:
        self.attack, self.problem, self.task = attack, problem, problem.task
        self.points = problem.task.images.numpy().copy()
        self.distances = np.where(correct, np.inf, 0.0)
        halves = type(attack).prepare, type(attack).perturb
        prepare, self.perturb = (attack._function(half, problem.unit_fn) for half in halves)
        self.state = concatenated([prepare(samples.take(self.task, batch)) for batch in attack._batches(len(correct))])

    def attempt(self, going: np.ndarray, epsilons: np.ndarray) -> np.ndarray:
        """Attack the samples that ``going`` marks, each at its ε; returns who was fooled."""
        fooled = np.zeros_like(going)
        (indices,) = np.nonzero(going)
        for batch in self.attack._batches(len(indices)):
            rows = indices[batch]
            task, state = samples.take((self.task, self.state), rows)
            perturbed = self.perturb(task._replace(epsilon=tf.constant(epsilons[rows], task.images.dtype)), state)
            points = perturbed.adversarials.numpy()
            hit = fooled[rows] = self.problem.fooled(np.argmax(perturbed.logits, axis=-1), rows)
            distances = lp.norms(points.astype(np.float64) - task.images.numpy(), self.attack.norm)
            nearer = hit & (distances < self.distances[rows])
            self.points[rows[nearer]], self.distances[rows[nearer]] = points[nearer], distances[nearer]
        return fooled
