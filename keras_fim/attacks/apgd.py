"""APGD: steps up the loss whose length follows from how the climb goes; what it keeps, its steps and checkpoints."""

import dataclasses
import functools
import math
from typing import Annotated, Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_fim.arguments import Count, Norm, Share, one_of
from keras_fim.attacks import base, draws, iterative, kinds, losses, lp
from keras_fim.attacks.samples import MOST_DRAWS, Best, Task, Way, choose, keep, random_start, reachable, repeat
from keras_fim.logits import LogitsFunction

_SHORT = {"cross_entropy": "ce", "dlr_targeted": "t"}


def checkpoints(steps: int) -> list[int]:
    """The steps after which the length of a step is reconsidered, with 0 before them.

    They are ``⌈p_j steps⌉`` of p = 0, 0.22, then further apart by 0.03 less each time, but by at least 0.06.

    Example:
        >>> checkpoints(100)
        [0, 22, 41, 57, 70, 80, 87, 93, 99]
    """
    share, gap, marks = 0, 22, {0}  # per cent, so that nothing is rounded
    while share + gap <= 100:
        share += gap
        marks.add(math.ceil(share * steps / 100))
        gap = max(gap - 3, 6)
    return sorted(marks)


class Climb(NamedTuple):
    """What is kept of samples on their way in l2 or l∞.

    Where they stand and stood before; the length of their steps, how many steps raised the loss since the last
    checkpoint, whether that halved them; the place of the largest loss, and that loss at the last checkpoint.
    """

    here: iterative.Place
    previous: tf.Tensor
    length: tf.Tensor
    rises: tf.Tensor
    halved: tf.Tensor
    peak: iterative.Place
    checked_loss: tf.Tensor

    @classmethod
    def start(cls, task: Task, points: tf.Tensor) -> "Climb":
        """Before the first look, which is not a rise."""
        rises, peak = tf.zeros_like(task.labels), iterative.Place.start(points, -np.inf)
        return cls(iterative.Place.start(points, np.inf), points, 2 * task.epsilon, rises, rises > 0, peak, peak.loss)

    @staticmethod
    def needed(steps: int, rho: float) -> np.ndarray:
        """For each step how many have to have raised the loss since the last checkpoint; -1 between checkpoints."""
        marks, enough = checkpoints(steps), np.full(steps + 1, -1.0)
        enough[marks[1:]] = rho * np.diff(marks)
        return enough

    def moved(self, step: tf.Tensor, task: Task, attack: base.Attack) -> "Climb":
        """One step; the first has no momentum."""
        norm, point, length = attack.norm, self.here.point, lp.by_image(self.length, self.previous)
        aim = _inside(point + length * lp.steepest(self.here.gradient, norm), task, norm)
        share = tf.where(step > 1, tf.cast(0.75, length.dtype), tf.cast(1, length.dtype))
        moved = point + share * (aim - point) + (1 - share) * (point - self.previous)
        return self._replace(here=self.here._replace(point=_inside(moved, task, norm)), previous=point)

    def looked(self, here: iterative.Place) -> "Climb":
        """With what is known at the present points."""
        rises = self.rises + tf.cast(here.loss > self.here.loss, self.rises.dtype)
        return self._replace(here=here, rises=rises, peak=choose(here.loss > self.peak.loss, here, self.peak))

    def checked(self, task: Task, enough: tf.Tensor) -> "Climb":
        """Half as long steps from the best point, of those that rose too seldom or not at all at this length."""
        halve = (tf.cast(self.rises, enough.dtype) < enough) | (~self.halved & (self.peak.loss <= self.checked_loss))
        return self._replace(
            length=tf.where(halve, self.length / 2, self.length),
            rises=tf.zeros_like(self.rises),
            halved=halve,
            here=choose(halve, self.peak, self.here),
            checked_loss=self.peak.loss,
        )


def _inside(points: tf.Tensor, task: Task, norm: float) -> tf.Tensor:
    """Clipped, then projected; the last clip, in `project_inside`, is for what rounding adds."""
    return lp.project_inside(tf.clip_by_value(points, 0, 1), task.images, task.epsilon, norm)


class SparseClimb(NamedTuple):
    """What is kept of samples on their way in l1: steps change few values, fewer as the best point does.

    Where they stand; the length of their steps, and the number of values that these change; the place of the largest
    loss, and how many values it had changed at the last checkpoint.
    """

    here: iterative.Place
    length: tf.Tensor
    width: tf.Tensor
    peak: iterative.Place
    changed: tf.Tensor

    @classmethod
    def start(cls, task: Task, points: tf.Tensor) -> "SparseClimb":
        """Before the first look."""
        peak, changed = iterative.Place.start(points, -np.inf), lp.num_changed(points, task.images)
        return cls(peak, task.epsilon, changed / 1.5, peak, changed)

    @staticmethod
    def needed(steps: int, rho: float) -> np.ndarray:
        """As of `Climb`; every step in 25 is a checkpoint."""
        return np.where(np.arange(steps + 1) % max(1, steps // 25), -1.0, 0.0)

    def moved(self, step: tf.Tensor, task: Task, attack: base.Attack) -> "SparseClimb":
        """One step, of equal length for the values of the largest slopes that have room in its direction."""
        gradient, point = self.here.gradient, self.here.point
        room = tf.where(gradient > 0, 1 - point, point) > 0
        slopes = tf.where(room, tf.abs(gradient), tf.zeros_like(gradient))
        flat = tf.reshape(slopes, [-1, slopes.shape[1:].num_elements()])
        last = tf.cast(tf.clip_by_value(self.width, 1, flat.shape[-1]), tf.int32) - 1
        least = tf.gather(tf.sort(flat, direction="DESCENDING"), last, batch_dims=1)
        steps = tf.where((slopes >= lp.by_image(least, slopes)) & room, tf.sign(gradient), tf.zeros_like(gradient))
        length = tf.math.divide_no_nan(self.length, lp.norms_of(steps, 1))
        point = lp.project_inside(point + lp.by_image(length, steps) * steps, task.images, task.epsilon, 1)
        return self._replace(here=self.here._replace(point=point))

    def looked(self, here: iterative.Place) -> "SparseClimb":
        """With what is known at the present points."""
        return self._replace(here=here, peak=choose(here.loss > self.peak.loss, here, self.peak))

    def checked(self, task: Task, enough: tf.Tensor) -> "SparseClimb":
        """Where the best point has become sparser: from there, in long steps again; elsewhere in shorter ones."""
        changed, longest = lp.num_changed(self.peak.point, task.images), task.epsilon
        sparser = changed < 0.95 * self.changed
        return self._replace(
            length=tf.where(sparser, longest, tf.maximum(self.length / 1.5, longest / 10)),
            width=changed / 1.5,
            here=choose(sparser, self.peak, self.here),
            changed=changed,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class APGD(iterative.Ascent):
    r"""Auto-PGD, projected gradient ascent with momentum and without a step size to choose.

    .. math::
        z = P(x_k + η\, s(∇f(x_k))), \quad x_{k+1} = P(x_k + α (z - x_k) + (1 - α) (x_k - x_{k-1})), \quad α = 0.75

    with P onto the pixel bounds and the ball, and s the steepest direction of the norm. η starts at 2 ε. At each of the
    `keras_fim.attacks.apgd.checkpoints` a sample halves it and goes back to its best point if fewer than ``rho`` of
    the steps since the last one raised the loss, or if the loss has no new maximum and η was not halved at the last
    one. P clips first: in l2, what is clipped after the projection would not use the whole budget.

    In l1 a step has no momentum and changes only the values of the largest slopes, all by as much. There are 1.5 times
    fewer of them than the best point has changed. Where that point has become sparser since the last checkpoint, the
    climb goes on from it with η = ε; elsewhere η falls by 1.5 each time, to ε / 10 at the least. 30 % of the steps are
    in the ball of 3 ε, 30 % in that of 2 ε, and the rest, whose points count, in that of ε.

    Of N steps it pays N gradients and one forward pass, times ``eot_draws``.

    Args:
        norm: 1, 2 or inf.
        loss: ``"cross_entropy"``, ``"dlr"`` (of two classes it is the margin; see `losses.logits_ratio_against`),
            ``"margin"``, or a loss of one wrong class, with a run for each of the ``num_targets`` most probable ones:
            ``"dlr_targeted"`` (APGD-T; at least four classes) or ``"targeted_margin"``.
        steps: The number of steps.
        restarts: The number of runs (for each class aimed at), each from a random point; in those after the first, only
            samples that still stand take part.
        rho: The share of the steps that have to raise the loss; not for l1.
        stop_early: Whether a sample leaves the batch as soon as it is fooled: faster where only fooled-or-not is asked.
            Otherwise the best point of the way is returned (fooling, then of the largest loss; of several targets, of
            the largest margin).
        num_targets: The number of wrong classes that the losses of one wrong class are raised for, at most K - 1.
        eot_draws: For a model that draws random numbers, the number of passes over which gradients and losses are
            averaged (expectation over transformation). A point then fools where three quarters of them are wrong.
        target: See `keras_fim.attacks.base.AimedAttack`; the losses of one wrong class are then those of the target.

    With several ``eot_draws`` the result's ``details["once"]``, bool ``(batch,)``, says whether the first draw was
    wrong anywhere on the way.

    Example:
        >>> from keras_fim import models
        >>> attack = APGD(norm=2, loss="dlr", steps=5)
        >>> result = attack(models.convnet(), np.full((2, 28, 28, 1), 0.4), [3, 7], epsilon=0.5)
        >>> attack.name, bool((result.distances <= 0.500001).all())
        ('apgd_dlr_l2', True)

    Source:
        Croce & Hein, Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks
        (ICML 2020), algorithm 1; in l1: Croce & Hein, Mind the box: l1-APGD for sparse adversarial attacks on image
        classifiers (ICML 2021), algorithm 1 and section 3; several draws: Athalye, Engstrom, Ilyas, Kwok, Synthesizing
        robust adversarial examples (ICML 2018).
    """

    norm: Norm = np.inf
    loss: Annotated[str, one_of(*losses.LOSSES, *losses.TARGETED_LOSSES)] = "cross_entropy"
    steps: Count = 100
    restarts: Count = 1
    rho: Share = 0.75
    stop_early: bool = False
    num_targets: Count = 9
    eot_draws: Count = 1

    @property
    def name(self) -> str:
        """The loss, the norm and the target, if there is one, like ``apgd_ce_linf`` or ``apgd_t_l2``."""
        return f"apgd_{_SHORT.get(self.loss, self.loss)}_{lp.norm_name(self.norm)}{self._suffix}"

    @property
    def least_classes(self) -> int:
        """4 for the targeted DLR."""
        return 4 if self.loss == "dlr_targeted" else 2

    @property
    def whole_batch(self) -> bool:
        """Whether there is one run and no `stop_early`."""
        return self.restarts == 1 and not self.stop_early and (self.aimed or self.loss in losses.LOSSES)

    def perturb(self, logits_fn: LogitsFunction, task: Task, state: tuple[Any, ...]) -> kinds.Perturbed:
        """The steps, run by run: for each class aimed at, its restarts."""
        best, targets = self._seen(task.images, state[0], task), self._targets(state[0], task, self.num_targets)
        task = reachable(task, self.norm)

        def body(run: tf.Tensor, best: Best) -> Best:
            way = Way.start(task._replace(target=tf.gather(targets, run // self.restarts, axis=1)), ())
            takes_part = ~best.fooled if self.stop_early else ~best.fooled | (run == 0)
            return self._run(logits_fn, best, way if self.whole_batch else keep(way, takes_part), run)

        best = repeat(body, self.restarts * targets.shape[1], best)
        return kinds.Perturbed(best.points, best.logits, {"once": best.once} if self.eot_draws > 1 else {})

    def _run(self, logits_fn: LogitsFunction, best: Best, way: Way, run: tf.Tensor) -> Best:
        """One climb; in l1 three, in smaller balls each time, of which the last counts."""
        task = way.task
        if self.norm != 1:
            climb = Climb.start(task, random_start(task, self.norm, run))
            return self._climb(logits_fn, best, way._replace(state=climb), self.steps)[0]
        wide, shape = 3 * self.steps // 10, task.images.shape[1:]
        points = task.images + draws.normal(draws.fold(task.keys, run), shape, task.images.dtype)
        for factor, steps in ((3, wide), (2, wide), (1, self.steps - 2 * wide)):
            if steps:
                inside = task._replace(epsilon=factor * task.epsilon)
                points = lp.project_inside(points, task.images, inside.epsilon, 1)
                way = way._replace(task=inside, state=SparseClimb.start(inside, points))
                best, way = self._climb(logits_fn, best, way, steps, counts=factor == 1)
                points = way.state.peak.point
        return best

    def _checked(self, climb: Any, task: Task, step: tf.Tensor, steps: int) -> Any:
        """What a checkpoint changes, if the step is one."""
        needed = tf.gather(tf.constant(climb.needed(steps, self.rho), task.images.dtype), step)
        return tf.cond(needed >= 0, lambda: climb.checked(task, needed), lambda: climb)

    def _look(self, logits_fn: LogitsFunction, task: Task, points: Any, *, slope: bool = True) -> tuple[Any, Best]:
        """Means over all draws; of one, a point fools where it does."""
        look = functools.partial(super()._look, logits_fn, task, points, slope=slope)
        if self.eot_draws == 1:
            return look()

        def draw() -> tuple[tf.Tensor, ...]:
            here, seen = look()
            return here.gradient, here.loss, seen.logits, seen.loss, tf.cast(seen.fooled, points.dtype)

        first = draw()
        total = repeat(lambda _, total: tuple(map(tf.add, total, draw())), self.eot_draws - 1, first)
        gradient, loss, logits, score, fooled = (values / self.eot_draws for values in total)
        wrong, aim = fooled >= MOST_DRAWS, task.target if self.aimed else task.labels
        logits = losses.decided(logits, aim, wrong if self.aimed else ~wrong)
        return iterative.Place(points, gradient, loss), Best(points, logits, score, wrong, first[-1] > 0)
