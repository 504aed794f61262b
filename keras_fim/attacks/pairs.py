"""The pair of values with the largest product of sums, exactly, without looking at all pairs."""

import numpy as np
import tensorflow as tf

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
    a, b = (tf.where(free, _scaled(values), tf.cast(-np.inf, values.dtype)) for values in (first, second))
    order = tf.argsort(a, axis=-1, direction="DESCENDING", stable=True)
    a, b = (tf.gather(values, order, batch_dims=1) for values in (a, b))
    candidate = tf.cast(b > _second_largest_before(b), tf.int32)
    count = tf.maximum(tf.reduce_max(tf.reduce_sum(candidate, axis=-1)), 1)
    kept = tf.math.top_k(candidate, count).indices  # of equals the first, so that they stay in order
    a, b, order = (tf.gather(values, kept, batch_dims=1) for values in (a, b, order))
    pairs, score = _among(a, b)
    return tf.gather(order, pairs, batch_dims=1), score > 0


def _scaled(values: tf.Tensor) -> tf.Tensor:
    """With largest absolute value 1, so that products do not underflow."""
    return tf.math.divide_no_nan(values, tf.reduce_max(tf.abs(values), axis=-1, keepdims=True))


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

    def going(start: tf.Tensor, pairs: tf.Tensor, score: tf.Tensor) -> tf.Tensor:
        return start < count

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
    _, pairs, score = tf.while_loop(going, body, start)
    return pairs, score
