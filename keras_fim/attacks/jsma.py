"""The saliency map attack: few values, changed a lot, two at a time; and how it finds the best two."""

import dataclasses
import functools
import math
from typing import Annotated, TypeAlias

import numpy as np
import tensorflow as tf

from keras_fim.arguments import PositiveShare, Valid, one_of
from keras_fim.attacks import kinds, losses, problem, samples
from keras_fim.geometry import jacobian
from keras_fim.logits import LogitsFunction
from keras_fim.typing import LogitsCallable

_State: TypeAlias = tuple[tf.Tensor, tf.Tensor]
"""Points of samples, ``(n, D)``, and the pair of values that was changed last; without an adversarial, the image."""

_ENDLESS = 2**31 - 1  # moves


@dataclasses.dataclass(frozen=True, kw_only=True)
class JSMA(kinds.SearchAttack):
    r"""Jacobian-based saliency map attack: an adversarial in which few values differ, found two values at a time.

    Each move changes, by ``theta`` and within the bounds, the pair of values :math:`p \neq q` that maximizes

    .. math::
        -(\alpha_p + \alpha_q)(\beta_p + \beta_q) \quad\text{with}\quad
        \alpha_p + \alpha_q > 0, \quad \beta_p + \beta_q < 0, \quad
        \alpha = \nabla f_t, \quad \beta = \nabla \sum_{j \neq t} f_j

    for the outputs f and the class t aimed at. Without a target f_y of the true class should fall instead, and the
    moves go on until any other class is predicted. The best pair is exact (`keras_fim.attacks.jsma`); a move costs at
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

    theta: Annotated[float, Valid(lambda theta: 0 < abs(theta) <= 1, "in [-1, 1] and not 0")] = 1.0
    gamma: PositiveShare = 1.0
    target: Annotated[str, one_of("none", *problem.TARGETS)] = "none"
    saliency: Annotated[str, one_of("logits", "probabilities")] = "probabilities"

    def search(self, logits_fn: LogitsFunction, task: samples.Task) -> kinds.Perturbed:
        """Moves until all samples have arrived or cannot move, and a look at the last one."""
        shape = [-1, *task.images.shape[1:]]
        origin = tf.reshape(task.images, [-1, task.images.shape[1:].num_elements()])
        classes = {"none": task.labels, "given": task.target}.get(self.target)
        if classes is None:
            classes = problem.choose_targets(self.target, task, logits_fn(task.images))

        def flat_logits(points: tf.Tensor) -> tf.Tensor:
            return logits_fn(tf.reshape(points, shape))

        start = origin, tf.zeros([tf.shape(origin)[0], 2], tf.int32)
        way = samples.Way.start(task._replace(images=origin, target=classes), start)
        arrived, _ = samples.walk(functools.partial(self._move, flat_logits), _ENDLESS, start, way)
        points = self._put_back(flat_logits, arrived, origin, classes)
        return kinds.Perturbed(tf.reshape(points, shape), details={} if self.target == "none" else {"targets": classes})

    def _move(
        self, logits_fn: LogitsCallable, _: tf.Tensor, task: samples.Task, arrived: _State, state: _State
    ) -> tuple[_State, _State, tf.Tensor]:
        """Samples that have arrived leave; the others change their best pair, or leave if there is none."""
        point, moved = state[0], tf.clip_by_value(state[0] + self.theta, 0, 1)
        rise, fall, logits = self._slopes(logits_fn, point, task.target)
        done = self._done(logits, task.target)
        pair, exists = best_pairs(rise, fall, self._free(task.images, point, moved) & ~done[:, None])
        onward = tf.where(_marks(pair, moved), moved, point), pair
        return samples.choose(done, state, arrived), onward, exists & ~done

    def _slopes(
        self, logits_fn: LogitsCallable, point: tf.Tensor, classes: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Slopes, in the direction of a move, of what should rise and of minus what should fall; and the logits."""
        with jacobian.watched(point, persistent=True) as tape:
            logits = logits_fn(point)
            values = self._rise_and_fall(logits, classes)
        slopes = [jacobian.usable_gradient(tape, value, point) for value in values]
        if self.theta < 0:
            slopes = [-slope for slope in slopes]
        return slopes[0], slopes[-1], logits

    def _rise_and_fall(self, logits: tf.Tensor, classes: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """What should rise, and minus what should fall if that is another thing: ``(batch,)`` each."""
        if self.saliency == "probabilities":
            against = losses.log_odds_against(logits, classes)
            return (against,) if self.target == "none" else (-against,)
        own = tf.gather(logits, classes, batch_dims=1)
        if self.target == "none":
            return tf.reduce_max(losses.others(logits, classes), axis=-1), -own
        return own, own - tf.reduce_sum(logits, axis=-1)

    def _done(self, logits: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        predicted = tf.argmax(logits, axis=-1)
        return predicted != classes if self.target == "none" else predicted == classes

    def _free(self, origin: tf.Tensor, point: tf.Tensor, moved: tf.Tensor) -> tf.Tensor:
        """Values that a move would change; where two more are too many, only those that were changed already."""
        limit = math.floor(self.gamma * moved.shape[-1] + 1e-6)
        changed = point != origin
        room = tf.math.count_nonzero(changed, axis=-1, keepdims=True) + 2 <= limit
        return (moved != point) & (changed | room)

    def _put_back(self, logits_fn: LogitsCallable, end: _State, origin: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        """The adversarials, without a value of the pair changed last if they stay adversarial."""
        points, pairs = end
        for which in (1, 0):
            fewer = tf.where(_marks(pairs[:, which, None], points), origin, points)
            points = tf.where(self._done(logits_fn(fewer), classes)[:, None], fewer, points)
        return points


def _marks(indices: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Bool ``(batch, D)``, where ``indices`` ``(batch, k)`` point to."""
    return tf.reduce_any(tf.one_hot(indices, like.shape[-1], on_value=True, off_value=False), axis=1)


_BLOCK = 16  # rows of the table of pairs that exist at a time


def best_pairs(first: tf.Tensor, second: tf.Tensor, free: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    r"""The pair of free values p ≠ q that maximizes :math:`(a_p + a_q)(b_p + b_q)` where both sums are positive.

    A value with two others at least as good in both a and b can be replaced by one of them, so it is enough to look at
    the values with fewer than two such others: usually some dozens of thousands. These are found by sorting by a and
    a running maximum of b. Time is O(D log D) per sample, plus the square of their number; memory is O(D).

    Args:
        first: a, ``(batch, D)``.
        second: b, ``(batch, D)``.
        free: bool ``(batch, D)``, the values to choose from.

    Returns:
        ``(pairs, exists)``: indices, int32 ``(batch, 2)``, and bool ``(batch,)``, whether there is such a pair. Among
        equal pairs it is one with the largest a.

    Example:
        >>> a, b = tf.constant([[5.0, 1.0, 2.0, 9.0]]), tf.constant([[-1.0, 2.0, 1.0, -4.0]])
        >>> pairs, exists = best_pairs(a, b, tf.fill([1, 4], True))  # of the six: (5 + 1) (2 - 1), (1 + 2) (2 + 1), ...
        >>> pairs.numpy(), exists.numpy()
        (array([[2, 1]], dtype=int32), array([ True]))
    """
    none = tf.cast(-np.inf, first.dtype)
    a, b = (tf.where(free, jacobian.scaled_to_one(values), none) for values in (first, second))
    order = tf.argsort(a, axis=-1, direction="DESCENDING", stable=True)
    a, b = (tf.gather(values, order, batch_dims=1) for values in (a, b))
    candidate = tf.cast(b > _second_largest_before(b), tf.int32)
    count = tf.maximum(tf.reduce_max(tf.reduce_sum(candidate, axis=-1)), 1)
    kept = tf.math.top_k(candidate, count).indices  # of equals the first, so that they stay in order
    a, b, order = (tf.gather(values, kept, batch_dims=1) for values in (a, b, order))
    pairs, score = _among(a, b)
    return tf.gather(order, pairs, batch_dims=1), score > 0


def _second_largest_before(values: tf.Tensor) -> tf.Tensor:
    """The second largest of the values before each one in its row, -inf for the first two, by doubling spans."""

    def before(values: tf.Tensor, shift: int) -> tf.Tensor:
        return tf.pad(values[:, :-shift], [[0, 0], [shift, 0]], constant_values=values.dtype.as_numpy_dtype(-np.inf))

    size = values.shape[-1]
    largest, second, span = values, tf.fill(tf.shape(values), tf.cast(-np.inf, values.dtype)), 1
    while span < size:
        earlier = before(largest, span)
        second = tf.maximum(tf.minimum(largest, earlier), tf.maximum(second, before(second, span)))
        largest, span = tf.maximum(largest, earlier), 2 * span
    return before(second, 1)


def _among(a: tf.Tensor, b: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The best pair ``(batch, 2)`` of all pairs, and its product; 0 if there is none. A block of rows at a time."""
    batch, count = tf.unstack(tf.shape(a))

    def body(start: tf.Tensor, pairs: tf.Tensor, score: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        sums = [values[:, start : start + _BLOCK, None] + values[:, None, start:] for values in (a, b)]
        rows, columns = tf.unstack(tf.shape(sums[0])[1:])
        valid = (tf.range(columns) > tf.range(rows)[:, None]) & (sums[0] > 0) & (sums[1] > 0)
        products = tf.reshape(tf.where(valid, sums[0] * sums[1], 0), [batch, rows * columns])
        best = tf.argmax(products, axis=-1, output_type=tf.int32)
        value = tf.gather(products, best, batch_dims=1)
        here = start + tf.stack([best // columns, best % columns], axis=-1)
        better = value > score
        return start + _BLOCK, tf.where(better[:, None], here, pairs), tf.where(better, value, score)

    start = (tf.constant(0), tf.zeros([batch, 2], tf.int32), tf.zeros([batch], a.dtype))
    _, pairs, score = tf.while_loop(lambda start, *_: start < count, body, start)
    return pairs, score
