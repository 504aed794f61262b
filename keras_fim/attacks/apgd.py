"""APGD: steps up the loss whose length follows from how the climb goes, as one compiled loop."""

from __future__ import annotations

import dataclasses
import functools
from typing import Annotated, Any

import numpy as np
import tensorflow as tf

from keras_fim.arguments import Count, Norm, Share, one_of
from keras_fim.attacks import draws, kinds, lp
from keras_fim.attacks.climbs import Ascent, Climb, Place, SparseClimb
from keras_fim.attacks.losses import LOSSES, TARGETED_LOSSES
from keras_fim.attacks.samples import MOST_DRAWS, Best, Task, Way, before_rounding, keep, random_start, repeat
from keras_fim.logits import LogitsFunction

_SHORT = {"cross_entropy": "ce", "dlr_targeted": "t"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class APGD(Ascent):
    r"""Auto-PGD, projected gradient ascent with momentum and without a step size to choose.

    .. math::
        z = P(x_k + η\, s(∇f(x_k))), \quad x_{k+1} = P(x_k + α (z - x_k) + (1 - α) (x_k - x_{k-1})), \quad α = 0.75

    with P onto the pixel bounds and the ball, and s the steepest direction of the norm. η starts at 2 ε. At each of the
    `keras_fim.attacks.climbs.checkpoints` a sample halves it and goes back to its best point if fewer than ``rho`` of
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
    loss: Annotated[str, one_of(*LOSSES, *TARGETED_LOSSES)] = "cross_entropy"
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
        return self.restarts == 1 and not self.stop_early and (self.aimed or self.loss in LOSSES)

    def perturb(self, logits_fn: LogitsFunction, task: Task, state: tuple[Any, ...]) -> kinds.Perturbed:
        """The steps, run by run: for each class aimed at, its restarts."""
        best, targets = self._seen(task.images, state[0], task), self._targets(state[0], task, self.num_targets)
        task = before_rounding(task, self.norm)

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

    def _look(self, logits_fn: LogitsFunction, task: Task, points: tf.Tensor) -> tuple[Place, Best]:
        """Means over all draws; of one, a point fools where it does."""
        look = functools.partial(super()._look, logits_fn, task, points)
        if self.eot_draws == 1:
            return look()

        def draw() -> tuple[tf.Tensor, ...]:
            here, seen = look()
            return here.gradient, here.loss, seen.logits, seen.loss, tf.cast(seen.fooled, points.dtype)

        first = draw()
        total = repeat(lambda _, total: tuple(map(tf.add, total, draw())), self.eot_draws - 1, first)
        gradient, loss, logits, score, fooled = (values / self.eot_draws for values in total)
        return Place(points, gradient, loss), Best(points, logits, score, fooled >= MOST_DRAWS, first[-1] > 0)
