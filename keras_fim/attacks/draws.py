"""Random numbers that depend on the seed, the sample and the place in the attack, and on nothing else.

Each sample has a key, made of the seed and of its index in the data set. A draw is a hash of that key, the numbers that
say where in the attack it happens (restart, step), and a counter. So it does not depend on the batch size, on which
other samples are in the batch, or on the device; and a seed is data, not part of what is compiled.

The hash is the finalizer of SplitMix64.

Source:
    Steele, Lea, Flood, Fast splittable pseudorandom number generators (OOPSLA 2014); the constants are those of
    Stafford's "Mix13", as in Vigna's public-domain ``splitmix64.c``.
"""

import math
from collections.abc import Sequence

import tensorflow as tf

_GAMMA = 0x9E3779B97F4A7C15  # 2 ** 64 over the golden ratio
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def keys_of(seed: int | tf.Tensor, indices: tf.Tensor) -> tf.Tensor:
    """One key for each sample.

    Args:
        seed: An integer.
        indices: Each sample's index in its data set, integers ``(batch,)``.

    Returns:
        int64 ``(batch,)``.

    Example:
        >>> bool(keys_of(0, tf.range(5))[3] == keys_of(0, tf.constant([3]))[0])
        True
    """
    return fold(tf.fill(tf.shape(indices), tf.cast(seed, tf.int64)), indices)


def fold(keys: tf.Tensor, *places: int | tf.Tensor) -> tf.Tensor:
    """The keys of a place in an attack, such as a restart and a step.

    Args:
        keys: int64 ``(batch,)``.
        *places: Integers, each a scalar or ``(batch,)``.

    Returns:
        int64 ``(batch,)``.
    """
    state = tf.bitcast(keys, tf.uint64)
    for place in places:
        state = _mixed(_mixed(state) + _counters(place))
    return tf.bitcast(state, tf.int64)


def bits(keys: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
    """Uniform integers of 64 bits.

    Args:
        keys: int64 ``(batch,)``.
        shape: The shape of a sample's draw.

    Returns:
        uint64 ``(batch, *shape)``.
    """
    counters = tf.reshape(_counters(tf.range(math.prod(shape))), [1, *shape])
    return _mixed(tf.reshape(tf.bitcast(keys, tf.uint64), [-1, *[1] * len(shape)]) + counters)


def integers(keys: tf.Tensor, shape: Sequence[int], limit: int | tf.Tensor) -> tf.Tensor:
    """Uniform integers from 0 to ``limit - 1``, int64 ``(batch, *shape)``; their bias is ``limit / 2 ** 63``."""
    return _top(bits(keys, shape), 63) % tf.cast(limit, tf.int64)


def signs(keys: tf.Tensor, shape: Sequence[int], dtype: tf.DType) -> tf.Tensor:
    """1 or -1, ``(batch, *shape)``."""
    return tf.cast(2 * _top(bits(keys, shape), 1) - 1, dtype)


def uniform(keys: tf.Tensor, shape: Sequence[int], dtype: tf.DType) -> tf.Tensor:
    """Uniform in (0, 1), never an end of it, ``(batch, *shape)``; float32 and float64 agree to the former's digits."""
    digits = 52 if dtype == tf.float64 else 23
    return (tf.cast(_top(bits(keys, shape), digits), dtype) + 0.5) * 2.0**-digits


def normal(keys: tf.Tensor, shape: Sequence[int], dtype: tf.DType) -> tf.Tensor:
    """Standard normal, ``(batch, *shape)``."""
    return math.sqrt(2) * tf.math.erfinv(2 * uniform(keys, shape, dtype) - 1)


def _counters(place: int | tf.Tensor) -> tf.Tensor:
    """uint64, a step of the sequence for each place."""
    return (tf.bitcast(tf.cast(place, tf.int64), tf.uint64) + _constant(1)) * _constant(_GAMMA)


def _mixed(state: tf.Tensor) -> tf.Tensor:
    for shift, factor in _MIX:
        state = tf.bitwise.bitwise_xor(state, tf.bitwise.right_shift(state, _constant(shift))) * _constant(factor)
    return tf.bitwise.bitwise_xor(state, tf.bitwise.right_shift(state, _constant(31)))


def _top(values: tf.Tensor, count: int) -> tf.Tensor:
    """The highest bits, which are the best mixed ones, as int64."""
    return tf.bitcast(tf.bitwise.right_shift(values, _constant(64 - count)), tf.int64)


def _constant(value: int) -> tf.Tensor:
    return tf.constant(value, tf.uint64)
