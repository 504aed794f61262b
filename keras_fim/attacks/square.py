"""Square: a random search that only asks for scores."""

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_fim.arguments import Count, Norm, PositiveShare
from keras_fim.attacks import draws, kinds, lp, samples
from keras_fim.logits import LogitsFunction

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10,000 queries, those after which p is halved


def grid_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Height, width and channels as which a sample is searched: values without two spatial axes are laid out in rows.

    Args:
        shape: The shape of a sample.

    Example:
        >>> grid_shape((32, 32, 3)), grid_shape((28, 28)), grid_shape((30,))
        ((32, 32, 3), (28, 28, 1), (5, 6, 1))
    """
    if len(shape) in (2, 3):
        return (*shape, 1)[:3]
    size = math.prod(shape)
    height = max(rows for rows in range(1, math.isqrt(size) + 1) if size % rows == 0)
    return height, size // height, 1


def sides(queries: int, p_init: float, height: int, width: int, *, smallest: int = 1) -> np.ndarray:
    """The side of the square that each query changes: the share p of the pixels is halved nine times on the way.

    Args:
        queries: number of queries.
        p_init: first share.
        height: of the images, in pixels.
        width: of the images, in pixels.
        smallest: 1; or 3, which asks for odd sides, too, unless the image is too small for that.

    Returns:
        int32 ``(queries,)``.

    Example:
        >>> sides(1000, 0.8, 28, 28)[[0, 10, 999]]
        array([25, 13,  1], dtype=int32)
    """
    share = p_init / 2.0 ** np.searchsorted(_HALVINGS, np.arange(queries) * 10_000 // queries)
    side = np.maximum(np.round(np.sqrt(share * height * width)), smallest).astype(np.int32)
    side += (side + 1) % 2 if smallest > 1 else 0
    return np.asarray(np.minimum(side, min(height, width)))


def eta(side: int, p: float = 2) -> np.ndarray:
    """The pattern of the attack in l1 and l2: a peak above, its negative below, of norm 1.

    Args:
        side: in pixels.
        p: 1 or 2; in l1 the peaks are sharper.

    Returns:
        float64 ``(side, side)``.
    """
    halves = [sign * _peak(rows, side, p) for sign, rows in ((1, side // 2), (-1, side - side // 2)) if rows]
    pattern = np.concatenate(halves)
    return np.asarray(pattern / np.linalg.norm(pattern.ravel(), ord=p))


def _peak(rows: int, columns: int, p: float) -> np.ndarray:
    """Rectangles about the center, the next one pixel larger on every side and lower; of norm 1."""
    pattern, row, column, falloff = np.zeros((rows, columns)), rows // 2, columns // 2, -2 if p == 2 else -4
    for k in range(max(row, column) + 1):
        pattern[max(row - k, 0) : row + k + 1, max(column - k, 0) : column + k + 1] += (k + 1.0) ** falloff
    return np.asarray(pattern / np.linalg.norm(pattern.ravel(), ord=p))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Square(kinds.FixedBudgetAttack):
    """A random search that changes one square of the image at a time, and keeps what raises the margin.

    It asks for logits only: no gradient can mislead it. Each sample has squares of its own, and leaves when it is
    fooled. l∞: every pixel of the image goes to one of its two ends (vertical stripes at first), then a square's
    channels go to one end each. l1, l2: from a grid of the patterns `eta`, each query moves the budget of one window,
    and what is unspent, into another one, to which it adds a pattern. Values that are no image (`grid_shape`) are laid
    out in rows, so that a square is a block of a few stretches; channels of up to 4 may come first.

    Samples that it could not fool come back at the point of the largest margin, those that were wrong before unchanged.

    Args:
        norm: 1, 2 or inf.
        queries: The number of forward passes for each sample at most, besides that of the image.
        p_init: The share of the pixels that the first squares have; the schedule stretches over ``queries``.

    Example:
        >>> from keras_fim import models
        >>> attack = Square(queries=5)
        >>> result = attack(models.convnet(), np.full((2, 28, 28, 1), 0.4), [3, 7], epsilon=0.1)
        >>> attack.name, bool((result.distances <= 0.100001).all())
        ('square_linf', True)

    Source:
        Andriushchenko et al., Square attack: a query-efficient black-box adversarial attack via random search
        (ECCV 2020), algorithms 1 to 4; in l1: Croce & Hein, Mind the box: l1-APGD for sparse adversarial attacks on
        image classifiers (ICML 2021), section 4.
    """

    base_name = "square"
    by_gradients = False
    whole_batch = False  # a sample leaves when it is fooled

    norm: Norm = np.inf
    queries: Count = 1000
    p_init: PositiveShare = 0.8

    def perturb(self, logits_fn: LogitsFunction, task: samples.Task, state: tuple[Any, ...]) -> kinds.Perturbed:
        """The queries."""
        own = tuple(task.images.shape[1:])
        first = len(own) == 3 and own[0] <= 4 < min(own[1:])  # the channels come first
        grid = tf.transpose(task.images, (0, 2, 3, 1)) if first else tf.reshape(task.images, [-1, *grid_shape(own)])
        image = samples.Best.of(grid, state[0], task.labels, "margin")
        unknown = tf.fill(tf.shape(image.loss), tf.cast(-np.inf, image.loss.dtype))  # the first query always counts
        schedule = sides(self.queries, self.p_init, *grid.shape[1:3], smallest=1 if self.norm == np.inf else 3)
        laid_out = samples.reachable(task, self.norm)._replace(images=image.points)

        def back(points: tf.Tensor) -> tf.Tensor:
            return tf.transpose(points, (0, 3, 1, 2)) if first else tf.reshape(points, [-1, *own])

        def body(query: tf.Tensor, here: samples.Task, old: samples.Best, _: Any) -> tuple[Any, ...]:
            origin, keys = here.images, draws.fold(here.keys, query)
            side = tf.gather(tf.constant(schedule), query)
            search = _Query(keys, lp.by_image(here.epsilon, origin), query, side, schedule, self.norm)
            points = search.propose(origin, old.points)
            new = samples.Best.of(points, logits_fn(back(points)), here.labels, "margin").unless_worse_than(old)
            return new, (), ~new.fooled

        way = samples.keep(samples.Way.start(laid_out, ()), ~image.fooled & (task.epsilon > 0))
        best = samples.walk(body, self.queries, image._replace(loss=unknown), way)[0].unless_worse_than(image)
        return kinds.Perturbed(back(best.points), best.logits)


class _Query(NamedTuple):
    """What one query asks for, for each sample; the ``stream`` of a draw tells those of one query apart.

    ``epsilon`` is ``(n, 1, 1, 1)``, ``side`` that of the square in pixels, ``schedule`` those of all queries.
    """

    keys: tf.Tensor
    epsilon: tf.Tensor
    number: tf.Tensor
    side: tf.Tensor
    schedule: np.ndarray
    norm: float

    def propose(self, origin: tf.Tensor, points: tf.Tensor) -> tf.Tensor:
        """What to ask for next."""
        delta, first, later = points - origin, self._grid, self._windows
        if self.norm == np.inf:
            first, later = self._stripes, self._square
        delta = tf.cond(self.number == 0, lambda: first(delta), lambda: later(delta))
        if self.norm == 1:
            return lp.project_inside(origin + delta, origin, self.epsilon[:, 0, 0, 0], 1)
        return tf.clip_by_value(origin + (delta if self.norm == np.inf else self.epsilon * lp.unit(delta)), 0, 1)

    def _signs(self, stream: int, *shape: int) -> tf.Tensor:
        """1 or -1, ``(n, *shape)``."""
        return draws.signs(draws.fold(self.keys, stream), shape, self.epsilon.dtype)

    def _window(self, stream: int, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Rows and columns from the upper left corner of a square on, ``(n, height)`` and ``(n, width)``."""
        height, width = images.shape[1:3]
        corner = draws.integers(draws.fold(self.keys, stream), (2,), tf.constant([height, width]) - self.side + 1)
        corner = tf.cast(corner, tf.int32)
        return tf.range(height) - corner[:, :1], tf.range(width) - corner[:, 1:]

    def _within(self, window: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        """Bool ``(n, height, width, 1)``: which pixels a window holds."""
        rows, columns = ((places >= 0) & (places < self.side) for places in window)
        return (rows[:, :, None] & columns[:, None, :])[..., None]

    def _stripes(self, delta: tf.Tensor) -> tf.Tensor:
        """A change of ±ε in each column and channel."""
        return tf.zeros_like(delta) + self.epsilon * self._signs(0, 1, *delta.shape[2:])

    def _square(self, delta: tf.Tensor) -> tf.Tensor:
        """The same change but for a square, which goes to ±ε in each channel."""
        inside = self._within(self._window(0, delta))
        return tf.where(inside, self.epsilon * self._signs(1, 1, 1, delta.shape[-1]), delta)

    def _grid(self, delta: tf.Tensor) -> tf.Tensor:
        """Patterns side by side, five on the shorter edge, each with a sign for each channel, some of them turned."""
        height, width, channels = delta.shape[1:]
        side = max(min(height, width) // 5, 1)
        down, across = height // side, width // side
        cells = self._signs(0, down, across, channels), self._signs(1, down, across, 1)
        signs, turned = (tf.repeat(tf.repeat(values, side, axis=1), side, axis=2) for values in cells)
        tile = np.tile(eta(side, self.norm), (down, across))[:, :, None]
        across_tile = np.tile(eta(side, self.norm).T, (down, across))[:, :, None]
        patterns = tf.where(turned > 0, tf.constant(across_tile, delta.dtype), tf.constant(tile, delta.dtype))
        edges = (height - down * side, width - across * side)
        return tf.pad(signs * patterns, [[0, 0], *[[edge // 2, edge - edge // 2] for edge in edges], [0, 0]])

    def _windows(self, delta: tf.Tensor) -> tf.Tensor:
        """The budget of one window, and what is unspent, moved into another one, to which a pattern is added."""
        p, receiver, giver = self.norm, self._window(0, delta), self._window(1, delta)
        inside, other = (tf.cast(self._within(window), delta.dtype) for window in (receiver, giver))
        pattern = self._patterns(receiver) * self._signs(2, 1, 1, delta.shape[-1])
        spent = tf.abs(delta) ** p
        unspent = tf.maximum(self.epsilon**p - tf.reduce_sum(spent, axis=(1, 2, 3), keepdims=True), 0)
        held = tf.reduce_sum(spent * tf.maximum(inside, other), axis=(1, 2), keepdims=True)
        added = inside * (pattern + _by_channel(delta * inside, p))
        moved = _by_channel(added, p) * (held + unspent / delta.shape[-1]) ** (1 / p)
        return delta * (1 - tf.maximum(inside, other)) + moved

    def _patterns(self, window: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        """`eta` in each sample's window, ``(n, height, width, 1)``, upright or turned; outside, anything."""
        sizes = np.unique(self.schedule)
        largest = int(sizes[-1])
        table = np.stack([np.pad(eta(int(size), self.norm), (0, largest - int(size))) for size in sizes])
        pattern = tf.gather(tf.constant(table, self.epsilon.dtype), tf.searchsorted(tf.constant(sizes), [self.side])[0])
        rows, columns = (tf.clip_by_value(places, 0, largest - 1) for places in window)
        zero = tf.zeros_like(rows[:, :, None] + columns[:, None])
        places = tf.stack([rows[:, :, None] + zero, columns[:, None] + zero], axis=-1)
        return tf.gather_nd(pattern, tf.where(self._signs(3, 1, 1, 1) > 0, places[..., ::-1], places))[..., None]


def _by_channel(values: tf.Tensor, p: float) -> tf.Tensor:
    """Each channel of ``(n, height, width, channels)`` divided by its norm; zero stays zero."""
    return tf.math.divide_no_nan(values, tf.reduce_sum(tf.abs(values) ** p, axis=(1, 2), keepdims=True) ** (1 / p))
