"""Many small steps up a loss inside the ball as one compiled loop, which APGD shares; and BIM, PGD and MIM."""

import dataclasses
from typing import Annotated, Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_fim.arguments import Count, Norm, NotNegative, Positive, Share, expect, one_of
from keras_fim.attacks import base, kinds, losses, lp
from keras_fim.attacks.samples import Best, Task, Way, keep, random_start, reachable, walk
from keras_fim.geometry.jacobian import usable_gradient, watched
from keras_fim.logits import LogitsFunction


class Place(NamedTuple):
    """Points of some samples, with the gradient and the loss there."""

    point: tf.Tensor
    gradient: tf.Tensor
    loss: tf.Tensor

    @classmethod
    def start(cls, points: tf.Tensor, loss: float) -> "Place":
        """Points that the model has not been asked about, with a loss to compare with."""
        return cls(points, tf.zeros_like(points), tf.fill(tf.shape(points)[:1], tf.cast(loss, points.dtype)))


class Ascent(kinds.FixedBudgetAttack, base.AimedAttack):
    """An attack by steps up a loss; what it keeps of samples on their way has a `Place` and makes its own steps."""

    loss: str
    stop_early: bool
    keep_best: bool = True

    def fooling_only(self) -> "Ascent":
        """With `stop_early`, unless the last point was asked for."""
        return dataclasses.replace(self, stop_early=self.keep_best)  # type: ignore[call-arg]

    def _climb(
        self, logits_fn: LogitsFunction, best: Best, way: Way, steps: int, *, first: int = 0, counts: bool = True
    ) -> tuple[Best, Way]:
        """All steps of a run: the best points, if its points count, and the samples that are left."""

        def body(step: tf.Tensor, task: Task, best: Best, climb: Any) -> tuple[Any, ...]:
            climb = tf.cond(step > 0, lambda: climb.moved(step, task, self), lambda: climb)
            here, new = self._look(logits_fn, task, climb.here.point)
            climb = self._checked(climb.looked(here), task, step, steps)
            if not counts:
                return best, climb, None
            return self._better(new, best), climb, ~new.fooled if self.stop_early else None

        def last(step: tf.Tensor, task: Task, best: Best, climb: Any) -> Best:
            end = climb.moved(step, task, self).here.point
            return self._better(self._look(logits_fn, task, end, slope=False)[1], best)

        return walk(body, steps, best, way, first=first, last=last if counts else None)

    def _look(self, logits_fn: LogitsFunction, task: Task, points: Any, *, slope: bool = True) -> tuple[Place, Best]:
        """Some points with the loss and, if it is asked for, its gradient there, and what can be kept of them."""
        with watched(points) as tape:
            logits = logits_fn(points)
            loss = losses.loss_value(logits, task.labels, self.loss, self._aims(task, self.loss))
        gradient = usable_gradient(tape, loss, points) if slope else points
        return Place(points, gradient, loss), self._seen(points, logits, task)

    def _checked(self, climb: Any, task: Task, step: tf.Tensor, steps: int) -> Any:
        """What a checkpoint changes, if the step is one."""
        return climb

    def _seen(self, points: tf.Tensor, logits: tf.Tensor, task: Task) -> Best:
        """Points by the loss that tells which of them is the best, whatever class they were to be."""
        compared = "margin" if self.loss in losses.TARGETED_LOSSES else self.loss
        return Best.of(points, logits, task.labels, compared, self._aims(task))

    def _targets(self, logits: tf.Tensor, task: Task, count: int) -> tf.Tensor:
        """The classes aimed at in turn, ``(batch, runs)``; for a loss of one wrong class the most probable ones."""
        if self.aimed or self.loss not in losses.TARGETED_LOSSES:
            return task.target[:, None]
        return tf.cast(losses.most_probable_others(logits, task.labels, count), task.labels.dtype)

    def _better(self, new: Best, old: Best) -> Best:
        """The better of two points, or the new one if the last is asked for."""
        return new.unless_worse_than(old) if self.keep_best else new


class _Climb(NamedTuple):
    """What the next step of samples on their way needs."""

    here: Place
    momentum: tf.Tensor

    def looked(self, here: Place) -> "_Climb":
        """With what is known at the present points."""
        return self._replace(here=here)

    def moved(self, step: tf.Tensor, task: Task, attack: "IterativeAttack") -> "_Climb":
        """The step of a number, from 1 on."""
        point, gradient, momentum = *self.here[:2], self.momentum
        if attack.decay:
            mean = tf.reduce_mean(tf.abs(gradient), axis=lp.axes(gradient), keepdims=True)
            gradient = momentum = attack.decay * momentum + tf.math.divide_no_nan(gradient, mean)
        length = attack.step_size * task.epsilon
        if attack.norm == 1:
            length *= 2 - (2 * tf.cast(step, length.dtype) - 1) / attack.steps
        point = lp.step(point, gradient, length, attack.norm, sparsity=attack.sparsity)
        if attack.clip_first:
            point = tf.clip_by_value(point, 0, 1)
        point = lp.project_inside(point, task.images, task.epsilon, attack.norm)
        return _Climb(self.here._replace(point=point), momentum)


@dataclasses.dataclass(frozen=True, kw_only=True)
class IterativeAttack(Ascent):
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

    def prepare(self, logits_fn: LogitsFunction, task: Task) -> tuple[tf.Tensor, ...]:
        """Logits, and the gradient at the images if that is where the steps start."""
        if self.random_start or self.loss == "targeted_margin":
            return (logits_fn(task.images),)
        here, seen = self._look(logits_fn, task, task.images)
        return seen.logits, here.gradient

    def perturb(self, logits_fn: LogitsFunction, task: Task, state: tuple[Any, ...]) -> kinds.Perturbed:
        """The steps, restart by restart."""
        images, (logits, *gradient) = task.images, state
        # any other point replaces the image after a random start
        best, targets = self._seen(images, logits, task), self._targets(logits, task, self.restarts)
        task = reachable(task, self.norm)
        for restart in range(self.restarts):
            aimed, zero = task._replace(target=targets[:, restart % targets.shape[1]]), tf.zeros_like(images)
            way = Way.start(aimed, _Climb(Place(images, gradient[0] if gradient else zero, best.loss), zero))
            if restart or self.stop_early:
                way = keep(way, ~best.fooled)
            if restart or self.random_start:
                point = random_start(way.task, self.norm, restart)
                way = way._replace(state=_Climb(Place.start(point, 0), tf.zeros_like(point)))
            best, _ = self._climb(logits_fn, best, way, self.steps, first=int(bool(gradient) and not restart))
        return kinds.Perturbed(best.points, best.logits)


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
