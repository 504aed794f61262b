"""An attacker who knows the detector: fool the classifier and stay below the threshold."""

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from keras_fim.arguments import Count, Norm, Positive, expect
from keras_fim.attacks import kinds, losses, problem
from keras_fim.attacks.lp import by_image, project_inside, step, unit
from keras_fim.attacks.samples import Best, Task, random_start, repeat
from keras_fim.detection.detector import FisherDetector, features_of
from keras_fim.geometry import boundary, jacobian, logit_fim_form, spectrum
from keras_fim.logits import LogitsFunction

_PROBE = 0.05  # length of the finite difference that stands for a derivative along an eigenvector


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaptivePGD(kinds.FixedBudgetAttack):
    r"""PGD up the margin and down the detector's score at once: steps along :math:`\hat g_m - w\,\hat g_s`.

    Both gradients have norm 1; w is each of ``weights`` in turn, from a new random start. An infinite w is the
    selective attack: up the margin until the sample is fooled, then down the score alone. The gradient of an eigenvalue
    is that of :math:`\operatorname{Var}_p(\partial_v z)` along its eigenvector v, the gradient of the boundary radius
    that of :math:`(z_y - z_j) / \partial_v (z_y - z_j)` along the way v to the boundary; v is looked up anew every few
    steps. Of each sample the point that fools with the lowest score is returned: over all weights by the true score,
    on the way of one by that along the last v.

    Args:
        detector: The detector to evade.
        norm: 1, 2 or inf.
        steps: The number of steps for each weight.
        step_size: The length of a step in its norm, as a share of ε.
        weights: The w, each >= 0.
        refresh: The number of steps between two looks at the eigenvectors.

    `AttackResult.details`: ``score`` ``(batch,)``, the detector's for the adversarials.

    Source:
        Carlini, Wagner, Adversarial examples are not easily detected (AISec 2017); the selective attack: Bryniarski et
        al., Evading adversarial example detection defenses with orthogonal projected gradient descent (ICLR 2022).
    """

    base_name = "adaptive_pgd"
    revision = 2

    detector: FisherDetector
    norm: Norm = np.inf
    steps: Count = 40
    step_size: Positive = 0.1
    weights: tuple[float, ...] = (0.3, 1.0, 3.0, np.inf)
    refresh: Count = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "weights", tuple(float(weight) for weight in self.weights))
        expect(bool(self.weights) and min(self.weights) >= 0, "weights", "one or more numbers >= 0", self.weights)

    def perturb(self, logits_fn: LogitsFunction, task: Task, state: tuple[Any, ...]) -> kinds.Perturbed:
        """One climb for each weight."""

        def body(index: tf.Tensor, best: Best) -> Best:
            point = self._climb(logits_fn, task, random_start(task, self.norm, index), tf.gather(weights, index))
            return self._truly(logits_fn, *point[:2], task.labels).unless_worse_than(best)

        weights = tf.constant(self.weights, task.images.dtype)
        best = self._truly(logits_fn, task.images, state[0], task.labels)
        best = repeat(body, len(self.weights), best)
        score = self.detector.score(*problem.in_pixels(logits_fn, best.points))
        return kinds.Perturbed(best.points, best.logits, {"score": score})

    def _climb(self, logits_fn: LogitsFunction, task: Task, start: tf.Tensor, weight: tf.Tensor) -> Best:
        """The best point of all steps with one weight."""

        def body(index: tf.Tensor, state: tuple[Any, ...]) -> tuple[Any, ...]:
            point, along, best = state
            along = tf.cond(index % self.refresh == 0, lambda: self._directions(logits_fn, point), lambda: along)
            climb, here = self._look(logits_fn, point, along, task.labels, weight)
            moved = step(point, climb, self.step_size * task.epsilon, self.norm)
            return project_inside(moved, task.images, task.epsilon, self.norm), along, here.unless_worse_than(best)

        along = self._directions(logits_fn, start)
        best = self._look(logits_fn, start, along, task.labels, weight)[1]
        point, along, best = repeat(body, self.steps, (start, along, best))
        return self._look(logits_fn, point, along, task.labels, weight)[1].unless_worse_than(best)

    def _directions(self, logits_fn: LogitsFunction, points: tf.Tensor) -> tf.Tensor:
        """Eigenvectors and, if the radius counts, the way to the boundary: ``(batch, directions, ...)``, in pixels."""
        logits_fn, points = problem.in_pixels(logits_fn, points)
        directions = spectrum.spectrum_and_logits(logits_fn, points, self.detector.pairs, max_steps=2)[0].directions
        if not self.detector.radius:
            return directions
        away = tf.reshape(boundary.rival_gradients(jacobian.linearize(logits_fn, points), 1), tf.shape(points))
        return tf.concat([directions, unit(away)[:, None]], axis=1)

    def _look(
        self, logits_fn: LogitsFunction, points: tf.Tensor, along: tf.Tensor, labels: tf.Tensor, weight: tf.Tensor
    ) -> tuple[tf.Tensor, Best]:
        """Where to go from some points, and what they are worth by the score along given eigenvectors."""
        with jacobian.watched(points, persistent=True) as tape:
            logits, score = self._score_along(logits_fn, points, along)
            margin = losses.margin_against(logits, labels)
        up, away = (unit(jacobian.usable_gradient(tape, value, points)) for value in (margin, score))
        fooled = tf.argmax(logits, axis=-1) != labels
        selective = tf.where(by_image(fooled, points), -away, up)
        finite = tf.where(tf.math.is_inf(weight), tf.zeros_like(weight), weight)
        return tf.where(tf.math.is_inf(weight), selective, up - finite * away), _valued(points, logits, labels, score)

    def _score_along(
        self, logits_fn: LogitsFunction, points: tf.Tensor, along: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Logits and a score that can be differentiated: of the eigenvalues and the radius along given directions."""
        logits_fn, points = problem.in_pixels(logits_fn, points)
        steps = [_PROBE * along[:, index] for index in range(along.shape[1])]
        shifted = [points, *(points + step for step in steps), *(points - step for step in steps)]
        logits, *others = tf.split(logits_fn(tf.concat(shifted, axis=0)), len(shifted))
        pairs = zip(others[: len(steps)], others[len(steps) :], strict=True)
        slopes = [(up - down) / (2 * _PROBE) for up, down in pairs]
        values = [logit_fim_form(logits, slope) for slope in slopes[: self.detector.pairs]]
        values += [tf.zeros_like(values[0])] * (2 - len(values))
        radius = _distance(logits, slopes[-1]) if self.detector.radius else tf.zeros_like(logits[:, 0])
        return logits, self.detector.combine(features_of(logits, tf.stack(values, axis=-1), radius))

    def _truly(self, logits_fn: LogitsFunction, points: tf.Tensor, logits: tf.Tensor, labels: tf.Tensor) -> Best:
        return _valued(points, logits, labels, self.detector.score(*problem.in_pixels(logits_fn, points)))


def _distance(logits: tf.Tensor, slopes: tf.Tensor) -> tf.Tensor:
    """The distance ``(batch,)`` to the most probable rival, from the slopes of the logits on the way to it."""
    first, second = tf.unstack(tf.math.top_k(logits, 2).indices, axis=-1)
    margin, slope = (tf.gather(v, first, batch_dims=1) - tf.gather(v, second, batch_dims=1) for v in (logits, slopes))
    return tf.math.divide_no_nan(margin, tf.abs(slope))


def _valued(points: tf.Tensor, logits: tf.Tensor, labels: tf.Tensor, score: tf.Tensor) -> Best:
    """Points with what they are worth: of those that fool the lowest score is best, of others the largest margin."""
    fooled = tf.argmax(logits, axis=-1) != labels
    return Best(points, logits, tf.where(fooled, -score, losses.margin_against(logits, labels)), fooled, fooled)
