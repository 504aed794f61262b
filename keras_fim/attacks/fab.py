"""FAB: to the boundary of the linearized classifier, drawn towards the image, and back a little when across it."""

import dataclasses
from typing import NamedTuple

import tensorflow as tf

from keras_fim.attacks.hyperplane import Boundaries, to_hyperplane
from keras_fim.attacks.losses import others
from keras_fim.attacks.lp import by_image, check_norm, norm_name, norms_of
from keras_fim.attacks.nearest import Found, SearchAttack
from keras_fim.attacks.samples import Task, choose, keep, put, take, while_active
from keras_fim.logits import LogitsFunction

_TINY = 1e-12


class _Nearest(NamedTuple):
    """The nearest adversarial of each sample so far, ``(batch, ...)``."""

    points: tf.Tensor
    distance: tf.Tensor


class _Walk(NamedTuple):
    """Samples on their way, ``(active, ...)`` each: where they are among all, and the classes they may be pushed to."""

    index: tf.Tensor
    task: Task
    point: tf.Tensor
    rivals: tf.Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class FAB(SearchAttack):
    r"""Fast adaptive boundary attack: the nearest adversarial from projections onto linearized decision boundaries.

    .. math::
        x_{k+1} = \operatorname{clip}\big((1 - α)(x_k + η δ) + α (x + η δ_0)\big), \quad
        α = \min\Big(\frac{\|δ\|_p}{\|δ\|_p + \|δ_0\|_p}, α_{\max}\Big)

    δ and δ_0 are the shortest steps in the lp norm, inside the bounds, from :math:`x_k` and from the image x onto the
    hyperplane on which the linearization of :math:`z_t - z_y` at :math:`x_k` is zero. A point that is misclassified is
    a candidate; the next step starts at :math:`x + β (x_k - x)`.

    A step costs one gradient for each rival t, and one forward pass.

    Args:
        norm: 1, 2 or inf.
        steps: The number of steps towards a class, or towards all of them.
        targeted: Whether all steps of a run go to one class, with a run for each of the most probable wrong classes
            (FAB-T); otherwise each step goes to the nearest of their boundaries.
        num_targets: The number of these classes, at most K - 1.
        alpha_max: The largest share α.
        eta: η, by which steps are lengthened, to end beyond the boundary.
        beta: β in (0, 1].

    Where samples come with an ε, as inside `keras_fim.attacks.AutoAttack`, one with an adversarial within it is done.

    Example:
        >>> import numpy as np
        >>> from keras_fim import models
        >>> FAB(steps=5, num_targets=2)(models.convnet(), np.full((2, 28, 28, 1), 0.4), [3, 7]).distances.shape
        (2,)

    Source:
        Croce & Hein, Minimally distorted adversarial examples with a fast adaptive boundary attack (ICML 2020),
        algorithm 1; the targeted version: Croce & Hein, Reliable evaluation of adversarial robustness with an ensemble
        of diverse parameter-free attacks (ICML 2020).
    """

    norm: float = 2.0
    steps: int = 100
    targeted: bool = True
    num_targets: int = 9
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "norm", check_norm(self.norm))
        self._check_counts("steps", "num_targets")
        self._check(0 <= self.alpha_max <= 1, "alpha_max", "in [0, 1]")
        self._check(1 <= self.eta < float("inf"), "eta", "a number >= 1")
        self._check(0 < self.beta <= 1, "beta", "in (0, 1]")

    @property
    def name(self) -> str:
        """The version and the norm, like ``fab_t_l2``."""
        return f"fab{'_t' if self.targeted else ''}_{norm_name(self.norm)}"

    def search(self, logits_fn: LogitsFunction, task: Task) -> Found:
        """A run for each target, or one."""
        images, logits = task.images, others(logits_fn(task.images), task.labels)
        rivals = tf.math.top_k(logits, min(self.num_targets, logits.shape[-1] - 1)).indices
        width = 1 if self.targeted else rivals.shape[1]
        nearest = _Nearest(images, tf.fill(tf.shape(task.epsilon), tf.constant(float("inf"), images.dtype)))

        def body(run: tf.Tensor, nearest: _Nearest) -> tuple[tf.Tensor, _Nearest]:
            walk = _Walk(tf.range(tf.shape(images)[0]), task, images, tf.gather(rivals, run + tf.range(width), axis=1))
            return run + 1, self._walk(logits_fn, nearest, keep(walk, nearest.distance > task.epsilon))

        count = rivals.shape[1] // width
        _, nearest = tf.while_loop(lambda run, _: run < count, body, (tf.constant(0), nearest))
        return Found(nearest.points)

    def _walk(self, logits_fn: LogitsFunction, nearest: _Nearest, walk: _Walk) -> _Nearest:
        """All steps of a run."""

        def body(step: tf.Tensor, nearest: _Nearest, walk: _Walk) -> tuple[tf.Tensor, _Nearest, _Walk]:
            images, point = walk.task.images, self._step(logits_fn, walk)
            fooled = tf.argmax(logits_fn(point), axis=-1) != walk.task.labels
            old, new = take(nearest, walk.index), _Nearest(point, norms_of(point - images, self.norm))
            better = choose(fooled & (new.distance < old.distance), new, old)
            back = choose(fooled, images + self.beta * (point - images), point)
            stands = better.distance > walk.task.epsilon
            return step + 1, put(nearest, walk.index, better), keep(walk._replace(point=back), stands)

        _, nearest, _ = while_active(body, self.steps, nearest, walk)
        return nearest

    def _step(self, logits_fn: LogitsFunction, walk: _Walk) -> tf.Tensor:
        """Towards the hyperplane from where it is, and a little from the image."""
        images, point = walk.task.images, walk.point
        gap, slope = self._boundary(logits_fn, walk)
        axes = tuple(range(1, point.shape.rank))
        here = to_hyperplane(point, slope, -gap, self.norm)
        first = to_hyperplane(images, slope, -gap - tf.reduce_sum(slope * (images - point), axis=axes), self.norm)
        lengths = [tf.maximum(norms_of(shift, self.norm), 1e-8) for shift in (here, first)]
        share = by_image(tf.minimum(lengths[0] / (lengths[0] + lengths[1]), self.alpha_max), point)
        moved = (1 - share) * (point + self.eta * here) + share * (images + self.eta * first)
        return tf.clip_by_value(moved, 0, 1)

    def _boundary(self, logits_fn: LogitsFunction, walk: _Walk) -> tuple[tf.Tensor, tf.Tensor]:
        """``z_t - z_y`` and its gradient, of the rival t whose linearized boundary is the nearest."""
        rivals = Boundaries.of(logits_fn, walk.point, walk.task.labels, walk.rivals, self.norm)
        nearest = tf.argmin(tf.abs(rivals.gaps) / (_TINY + rivals.lengths), axis=1)
        return tf.gather(rivals.gaps, nearest, batch_dims=1), tf.gather(rivals.slopes, nearest, batch_dims=1)
