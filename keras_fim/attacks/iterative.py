"""Many small steps up the loss inside the ball: BIM, PGD and MIM as one compiled loop."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_fim.arguments import Count, Norm, NotNegative, Positive, Share, expect, one_of
from keras_fim.attacks import base, kinds, losses, lp
from keras_fim.attacks.samples import Best, Task, before_rounding, keep, put, random_start, while_active
from keras_fim.logits import LogitsFunction


class _Climb(NamedTuple):
    """Samples on their way, ``(active, ...)`` each: where they are among all, and what their next step needs."""

    index: tf.Tensor
    task: Task
    point: tf.Tensor
    gradient: tf.Tensor
    momentum: tf.Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class IterativeAttack(kinds.FixedBudgetAttack, base.AimedAttack):
    """Steps of fixed length up the loss, each followed by a projection onto the ball and the pixel bounds.

    Of N steps it pays N gradients and one forward pass; where there is no random start, a sweep over ε shares the
    first gradient.

    Args:
        norm: 1, 2 or inf.
        steps: number of steps.
        step_size: length of a step in its norm, as a share of ε. In l1 it is the mean length: steps fall linearly,
            because the projection takes from all changed values what a step has given to few.
        loss: ``"cross_entropy"``; ``"margin"``, the largest wrong logit minus the true one; ``"dlr"``, the same in
            units of the logits' spread; or ``"targeted_margin"``, the margin of one wrong class, with each restart for
            the next most probable one (Gowal et al. 2019) unless there is a target.
        random_start: start anywhere in the ball instead of at the image.
        restarts: number of runs; those after the first start at random, and only samples that still stand take part.
        decay: weight of the accumulated gradient in a step (Dong et al. 2018); 0 for none.
        keep_best: return the best point of the way (fooling, then of the largest loss) instead of the last.
        stop_early: a sample leaves the batch as soon as it is fooled: faster where only fooled-or-not is asked.
        clip_first: clip each step to the pixel bounds before the projection, too, as CleverHans does.
        sparsity: for l1, the share of the values that a step is spread over at least; one value at least.
        target: See `keras_fim.attacks.base.AimedAttack`; all restarts aim at it.
    """

    norm: Norm = np.inf
    steps: Count = 40
    step_size: Positive = 0.125
    loss: Annotated[str, one_of(*losses.LOSSES, "targeted_margin")] = "cross_entropy"
    random_start: bool = True
    restarts: Count = 1
    decay: NotNegative = 0.0
    keep_best: bool = True
    stop_early: bool = False
    clip_first: bool = False
    sparsity: Share = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        expect(self.keep_best or not self.stop_early, "stop_early", "False where keep_best is", self.stop_early)

    @property
    def whole_batch(self) -> bool:
        """Whether there are neither `restarts` nor `stop_early`."""
        return self.restarts == 1 and not self.stop_early

    def fooling_only(self) -> IterativeAttack:
        """With `stop_early`, unless the last point was asked for."""
        return dataclasses.replace(self, stop_early=self.keep_best)

    def prepare(self, logits_fn: LogitsFunction, task: Task) -> tuple[tf.Tensor, ...]:
        """Logits, and the gradient at the images if that is where the steps start."""
        if self.random_start or self.loss == "targeted_margin":
            return (logits_fn(task.images),)
        targets = self._aims(task)
        gradient, logits = losses.loss_gradient(logits_fn, task.images, task.labels, loss=self.loss, targets=targets)
        return logits, gradient

    def perturb(self, logits_fn: LogitsFunction, task: Task, state: tuple[Any, ...]) -> kinds.Perturbed:
        """The steps, restart by restart."""
        images, (logits, *gradient) = task.images, state
        # any other point replaces the image after a random start
        best = self._seen(images, logits, task, self.loss)
        task = before_rounding(task, self.norm)
        for restart in range(self.restarts):
            aimed, zero = task._replace(target=self._target(logits, task, restart)), tf.zeros_like(images)
            climb = _Climb(tf.range(tf.shape(images)[0]), aimed, images, gradient[0] if gradient else zero, zero)
            if restart or self.stop_early:
                climb = keep(climb, ~best.fooled)
            if restart or self.random_start:
                climb = climb._replace(point=random_start(climb.task, self.norm, restart))
            best = self._climb(logits_fn, best, climb, with_gradient=bool(gradient) and not restart)
        return kinds.Perturbed(best.points, best.logits)

    def _climb(self, logits_fn: LogitsFunction, best: Best, climb: _Climb, *, with_gradient: bool) -> Best:
        """All steps of one restart; ``with_gradient`` says that the gradient at the start is known."""

        def body(index: tf.Tensor, best: Best, climb: _Climb) -> tuple[tf.Tensor, Best, _Climb]:
            climb = tf.cond(index > 0, lambda: self._move(climb, index), lambda: climb)
            labels, targets = climb.task.labels, self._aims(climb.task, self.loss)
            gradient, logits = losses.loss_gradient(logits_fn, climb.point, labels, loss=self.loss, targets=targets)
            best, fooled = self._kept(best, climb, logits)
            climb = climb._replace(gradient=gradient)
            return index + 1, best, keep(climb, ~fooled) if self.stop_early else climb

        def last() -> Best:  # the end of the last step needs no gradient
            end = self._move(climb, index)
            return self._kept(best, end, logits_fn(end.point))[0]

        index, best, climb = while_active(body, self.steps, best, climb, first=int(with_gradient))
        best = tf.cond(tf.size(climb.index) > 0, last, lambda: best)
        return best

    def _move(self, climb: _Climb, index: tf.Tensor) -> _Climb:
        """The step of an index, from 1 on."""
        gradient, task = climb.gradient, climb.task
        if self.decay:
            axes = tuple(range(1, gradient.shape.rank))
            mean = tf.reduce_mean(tf.abs(gradient), axis=axes, keepdims=True)
            gradient = self.decay * climb.momentum + tf.math.divide_no_nan(gradient, mean)
            climb = climb._replace(momentum=gradient)
        length = self.step_size * task.epsilon
        if self.norm == 1:
            length *= 2 - (2 * tf.cast(index, length.dtype) - 1) / self.steps
        point = lp.step(climb.point, gradient, length, self.norm, sparsity=self.sparsity)
        if self.clip_first:
            point = tf.clip_by_value(point, 0, 1)
        return climb._replace(point=lp.project_inside(point, task.images, task.epsilon, self.norm))

    def _kept(self, best: Best, climb: _Climb, logits: tf.Tensor) -> tuple[Best, tf.Tensor]:
        """The best points with those reached, and which of these fool."""
        new = self._seen(climb.point, logits, climb.task, self.loss)
        best = best.improved_at(climb.index, new) if self.keep_best else put(best, climb.index, new)
        return best, new.fooled

    def _target(self, logits: tf.Tensor, task: Task, restart: int) -> tf.Tensor:
        """The class that a restart aims at with ``"targeted_margin"``; that of the task for the other losses."""
        if self.loss != "targeted_margin" or self.aimed:
            return task.target
        order = tf.argsort(losses.others(logits, task.labels), axis=-1, direction="DESCENDING")
        return tf.cast(order[:, restart % (logits.shape[-1] - 1)], task.labels.dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PGD(IterativeAttack):
    """Projected gradient descent from a random start.

    Example:
        >>> from keras_fim import models
        >>> result = PGD(norm=2, steps=5)(models.convnet(), np.full((2, 28, 28, 1), 0.4), [3, 7], epsilon=0.5)
        >>> bool((result.distances <= 0.500001).all())
        True

    Source:
        Madry et al., Towards deep learning models resistant to adversarial attacks (ICLR 2018).
    """

    base_name = "pgd"


@dataclasses.dataclass(frozen=True, kw_only=True)
class BIM(IterativeAttack):
    """Basic iterative method: steps from the image itself.

    Source:
        Kurakin, Goodfellow, Bengio, Adversarial examples in the physical world (ICLR 2017 workshop).
    """

    steps: Count = 10
    step_size: Positive = 0.2
    random_start: bool = False

    base_name = "bim"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MIM(IterativeAttack):
    """Momentum iterative method: steps along an accumulated gradient, from the image itself.

    Source:
        Dong et al., Boosting adversarial attacks with momentum (CVPR 2018).
    """

    steps: Count = 10
    step_size: Positive = 0.1
    random_start: bool = False
    decay: NotNegative = 1.0

    base_name = "mim"
