"""The saliency map attack: few pixels, changed a lot, two at a time."""

import dataclasses
import functools
import math
from typing import NamedTuple

import tensorflow as tf

from keras_fim.attacks.losses import log_odds_against, others
from keras_fim.attacks.nearest import Found, SearchAttack
from keras_fim.attacks.pairs import best_pairs
from keras_fim.attacks.samples import Task, keep, put
from keras_fim.attacks.targets import TARGETS, choose_targets
from keras_fim.geometry.jacobian import gradient as gradient_of
from keras_fim.logits import LogitsFunction
from keras_fim.typing import LogitsCallable


class _Walk(NamedTuple):
    """Samples on their way, ``(active, ...)`` each: where they are among all, and the pair that was changed last."""

    index: tf.Tensor
    origin: tf.Tensor
    classes: tf.Tensor
    point: tf.Tensor
    pair: tf.Tensor


class _Arrived(NamedTuple):
    """All samples: the adversarial of those that have one, the image of others, and the pair that was changed last."""

    points: tf.Tensor
    pairs: tf.Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class JSMA(SearchAttack):
    r"""Jacobian-based saliency map attack: an adversarial in which few values differ, found two values at a time.

    Each move changes, by ``theta`` and within the bounds, the pair of values :math:`p \neq q` that maximizes

    .. math::
        -(\alpha_p + \alpha_q)(\beta_p + \beta_q) \quad\text{with}\quad
        \alpha_p + \alpha_q > 0, \quad \beta_p + \beta_q < 0, \quad
        \alpha = \nabla f_t, \quad \beta = \nabla \sum_{j \neq t} f_j

    for the outputs f and the class t aimed at. Without a target f_y of the true class should fall instead, and the
    moves go on until any other class is predicted. The best pair is exact (`keras_fim.attacks.pairs`); a move costs at
    most one forward and two backward passes, whatever the number of classes. A value at its bound cannot be changed
    further. A sample for which no pair is left stands. A value of the last pair that was not needed is put back, so
    that the number of changed values may be odd; this departs from the paper.

    Distances are numbers of changed values (l0). With a target, an adversarial is one that is classified as the target.

    Args:
        theta: change of a value in one move, as a share of the range of ``bounds``: > 0 raises, < 0 lowers; 1 and -1
            go to the bound at once. If it is negative, α and β change their signs.
        gamma: largest share of the values that may be changed. All of them by default, as in ART; the
            paper's experiments used 0.145. A small one saves time on samples that resist.
        target: ``"none"``, or the class aimed at: ``"given"`` with each call as ``targets``, ``"second"`` (the most
            probable wrong one), ``"least_likely"`` or ``"random"`` (any wrong one).
        saliency: the outputs f. ``"probabilities"``: as they sum to 1, β is -α, and one backward pass is enough; the
            slopes are those of the log odds, which do not vanish on confident samples. ``"logits"``, as in the paper's
            experiments; without a target α is that of the largest wrong logit and β that of the true one. With a
            target, logits need more changed values, because lowering the sum of all others is not what the
            prediction depends on.

    Details of a result: with a target, ``targets``, int64 ``(batch,)`` (0 for samples that were wrong before).

    Example:
        >>> import keras
        >>> import numpy as np
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2), keras.layers.Softmax()])
        >>> weights = np.array([0.1, 2.0, 0.2, 3.0])
        >>> model.set_weights([np.stack([-weights, weights], axis=1), np.array([5.0, 0.0])])
        >>> result = JSMA()(model, np.zeros((1, 4)), [0])
        >>> result.adversarials, result.distances
        (array([[0., 0., 0., 1.]], dtype=float32), array([1.]))

    Source:
        Papernot, McDaniel, Jha, Fredrikson, Celik, Swami, The limitations of deep learning in adversarial settings
        (EuroS&P 2016), equation 10 and algorithm 3; without a target: Wiyatno, Xu, Maximal Jacobian-based saliency map
        attack (2018).
    """

    name = "jsma"
    norm = 0.0

    theta: float = 1.0
    gamma: float = 1.0
    target: str = "none"
    saliency: str = "probabilities"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check(0 < abs(self.theta) <= 1, "theta", "in [-1, 1] and not 0")
        self._check(0 < self.gamma <= 1, "gamma", "in (0, 1]")
        self._check(self.target in ("none", *TARGETS), "target", f"one of none, {', '.join(TARGETS)}")
        self._check(self.saliency in ("logits", "probabilities"), "saliency", "logits or probabilities")

    def search(self, logits_fn: LogitsFunction, task: Task) -> Found:
        """Moves until all samples have arrived or cannot move, and a look at the last one."""
        shape = [-1, *task.images.shape[1:]]
        origin = tf.reshape(task.images, [-1, task.images.shape[1:].num_elements()])
        classes = {"none": task.labels, "given": task.target}.get(self.target)
        if classes is None:
            classes = choose_targets(self.target, task, logits_fn(task.images))

        def flat_logits(points: tf.Tensor) -> tf.Tensor:
            return logits_fn(tf.reshape(points, shape))

        def going(walk: _Walk, arrived: _Arrived) -> tf.Tensor:
            return tf.size(walk.index) > 0

        count = tf.shape(origin)[0]
        pairs = tf.zeros([count, 2], tf.int32)
        start = _Walk(tf.range(count), origin, classes, origin, pairs), _Arrived(origin, pairs)
        _, arrived = tf.while_loop(going, functools.partial(self._move, flat_logits), start)
        points = self._put_back(flat_logits, arrived, origin, classes)
        return Found(tf.reshape(points, shape), {} if self.target == "none" else {"targets": classes})

    def _move(self, logits_fn: LogitsCallable, walk: _Walk, arrived: _Arrived) -> tuple[_Walk, _Arrived]:
        """Samples that have arrived leave; the others change their best pair, or leave if there is none."""
        rise, fall, logits = self._slopes(logits_fn, walk)
        done = self._done(logits, walk.classes)
        there = keep(walk, done)
        arrived = put(arrived, there.index, _Arrived(there.point, there.pair))
        walk, rise, fall = keep((walk, rise, fall), ~done)
        moved = tf.clip_by_value(walk.point + self.theta, 0, 1)
        pair, exists = best_pairs(rise, fall, self._free(walk, moved))
        point = tf.where(_marks(pair, moved), moved, walk.point)
        return keep(walk._replace(point=point, pair=pair), exists), arrived

    def _slopes(self, logits_fn: LogitsCallable, walk: _Walk) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Slopes, in the direction of a move, of what should rise and of minus what should fall; and the logits."""
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(walk.point)
            logits = logits_fn(walk.point)
            values = self._rise_and_fall(logits, walk.classes)
        slopes = [gradient_of(tape, value, walk.point) for value in values]
        if self.theta < 0:
            slopes = [-slope for slope in slopes]
        return slopes[0], slopes[-1], logits

    def _rise_and_fall(self, logits: tf.Tensor, classes: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """What should rise, and minus what should fall if that is another thing: ``(batch,)`` each."""
        if self.saliency == "probabilities":
            against = log_odds_against(logits, classes)
            return (against,) if self.target == "none" else (-against,)
        own = tf.gather(logits, classes, batch_dims=1)
        if self.target == "none":
            return tf.reduce_max(others(logits, classes), axis=-1), -own
        return own, own - tf.reduce_sum(logits, axis=-1)

    def _done(self, logits: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        predicted = tf.argmax(logits, axis=-1)
        return predicted != classes if self.target == "none" else predicted == classes

    def _free(self, walk: _Walk, moved: tf.Tensor) -> tf.Tensor:
        """Values that a move would change; where two more are too many, only those that were changed already."""
        limit = math.floor(self.gamma * moved.shape[-1] + 1e-6)
        changed = walk.point != walk.origin
        room = tf.math.count_nonzero(changed, axis=-1, keepdims=True) + 2 <= limit
        return (moved != walk.point) & (changed | room)

    def _put_back(
        self, logits_fn: LogitsCallable, arrived: _Arrived, origin: tf.Tensor, classes: tf.Tensor
    ) -> tf.Tensor:
        """The adversarials, without a value of the pair changed last if they stay adversarial."""
        points = arrived.points
        for which in (1, 0):
            fewer = tf.where(_marks(arrived.pairs[:, which, None], points), origin, points)
            points = tf.where(self._done(logits_fn(fewer), classes)[:, None], fewer, points)
        return points


def _marks(indices: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Bool ``(batch, D)``, where ``indices`` ``(batch, k)`` point to."""
    return tf.reduce_any(tf.one_hot(indices, like.shape[-1], on_value=True, off_value=False), axis=1)
