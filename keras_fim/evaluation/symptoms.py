"""The symptoms of masked gradients, measured one by one."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from keras_fim.attacks.iterative import PGD
from keras_fim.attacks.kinds import FixedBudgetAttack
from keras_fim.attacks.losses import loss_gradient
from keras_fim.attacks.problem import Units
from keras_fim.attacks.single_steps import FGM, FGSM
from keras_fim.attacks.square import Square
from keras_fim.evaluation.curves import predicted_classes
from keras_fim.evaluation.measurement import Outcome, measure
from keras_fim.evaluation.sources import chunks
from keras_fim.logits import LogitsFunction, logits_function
from keras_fim.typing import AttackResult, Model

_NOISES = 10  # draws of random noise for each image


@dataclasses.dataclass(frozen=True)
class Probe:
    """What can be seen of a model; each figure is a share of the samples, the larger the worse.

    Attributes:
        logits_fn: the model.
        white: the attack by gradients that is in question.
        images: ``(n, ...)``, which the model has right.
        labels: int64 ``(n,)``.

    Arrays of bool are ``(n,)``: who was fooled; ``white`` among the arguments by that attack, ``gradients`` by that one
    or another by gradients.
    """

    logits_fn: LogitsFunction
    white: PGD
    images: tf.Tensor
    labels: tf.Tensor

    def sweep(
        self, attack: FixedBudgetAttack, epsilons: Sequence[float], model: LogitsFunction | None = None
    ) -> list[np.ndarray]:
        """Who is fooled at each ε."""
        return list(self._measured(model or self.logits_fn, attack, epsilons).fooled)

    def _measured(
        self,
        model: LogitsFunction,
        attack: FixedBudgetAttack,
        epsilons: Sequence[float],
        inspect: Callable[[AttackResult], np.ndarray] | None = None,
    ) -> Outcome:
        parts = chunks((self.images, self.labels))
        return Outcome.joined(measure(model, attack, epsilons, chunk, inspect=inspect) for chunk in parts)

    def around_half(self, epsilons: Sequence[float], *, tries: int) -> tuple[tuple[float, ...], list[np.ndarray]]:
        """Budgets in ascending order, and who the white-box attack fools at each.

        Where everybody is fooled or hardly anybody there is nothing to compare: so many times a budget is added halfway
        between the two, as long as none fools from a fifth to four fifths of the samples.
        """
        found = dict(zip(epsilons, self.sweep(self.white, epsilons), strict=True))
        for _ in range(tries):
            ratios = {epsilon: float(fooled.mean()) for epsilon, fooled in found.items()}
            low = max((epsilon for epsilon, ratio in ratios.items() if ratio < 0.2), default=0.0)
            high = min((epsilon for epsilon, ratio in ratios.items() if ratio > 0.8), default=low)
            if high <= low or any(0.2 <= ratio <= 0.8 for ratio in ratios.values()):
                break
            found[(low + high) / 2] = self.sweep(self.white, [(low + high) / 2])[0]
        ordered = tuple(sorted(found))
        return ordered, [found[epsilon] for epsilon in ordered]

    def one_step(self, epsilons: Sequence[float], white: Sequence[np.ndarray]) -> float:
        """Fooled by one step and not by many, at the worst ε."""
        kind = FGSM if self.white.norm == np.inf else FGM
        found = self.sweep(kind(bounds=self.white.bounds), epsilons)
        return max(float((one & ~many).mean()) for one, many in zip(found, white, strict=True))

    def margin(self, epsilon: float) -> np.ndarray:
        """Who is fooled with the margin in place of the cross-entropy."""
        return self.sweep(dataclasses.replace(self.white, loss="margin"), [epsilon])[0]

    def more_steps(self, epsilon: float) -> np.ndarray:
        """Who is fooled with 2.5 times the steps, finer ones, and one restart more."""
        steps, size = 5 * self.white.steps // 2, 0.4 * self.white.step_size
        return self.sweep(dataclasses.replace(self.white, steps=steps, step_size=size, restarts=3), [epsilon])[0]

    def probabilities(self, epsilon: float, white: np.ndarray) -> float:
        """Fooled through logits and not through rounded probabilities."""
        model = LogitsFunction(functools.partial(_softmax, self.logits_fn), "probabilities")
        (fooled,) = self.sweep(self.white, [epsilon], model)
        return float((white & ~fooled).mean())

    def random_noise(self, epsilon: float, gradients: np.ndarray) -> float:
        """Fooled by the best of some perturbations of length ε and not by gradients.

        In l∞ the signs are random, in l2 the direction.
        """
        generator, fooled = np.random.default_rng(self.white.seed), np.zeros(len(self.labels), bool)
        images, labels = self.images.numpy(), self.labels.numpy()
        for _ in range(_NOISES):
            draw = generator.normal(size=images.shape)
            length = np.sqrt((draw**2).sum(axis=tuple(range(1, draw.ndim)), keepdims=True))
            step = np.sign(draw) if self.white.norm == np.inf else draw / length
            noisy = np.clip(images + epsilon * step, *self.white.bounds).astype(images.dtype)
            fooled |= predicted_classes(self.logits_fn, noisy) != labels
        return float((fooled & ~gradients).mean())

    def black_box(self, epsilon: float, gradients: np.ndarray, queries: int) -> float:
        """Fooled by Square and not by gradients; NaN where images are not images."""
        if self.images.shape.rank != 4:
            return math.nan
        attack = Square(norm=self.white.norm, queries=queries, bounds=self.white.bounds, seed=self.white.seed)
        (fooled,) = self.sweep(attack, [epsilon])
        return float((fooled & ~gradients).mean())

    def transfer(self, epsilon: float, gradients: np.ndarray, twin: Model | None) -> float:
        """Fooled by another model's adversarials and not by its own gradients; NaN without another model."""
        if twin is None:
            return math.nan
        attack = dataclasses.replace(self.white, loss="margin", stop_early=False)  # far beyond the twin's boundary

        def predicted(result: AttackResult) -> np.ndarray:
            return predicted_classes(self.logits_fn, result.adversarials)

        found = self._measured(logits_function(twin, self.images), attack, [epsilon], predicted)
        fooled = found.seen[0] != self.labels.numpy()
        return float((fooled & ~gradients).mean())

    def growing_epsilon(self) -> float:
        """Standing where ε is half of the range of the pixels, so that all images can become the same gray."""
        half, size = Units(self.white.bounds).scale / 2, math.prod(self.images.shape[1:])
        (fooled,) = self.sweep(self.white, [half * (1 if self.white.norm == np.inf else math.sqrt(size))])
        return float((~fooled).mean())

    def zero_gradients(self) -> float:
        """The gradient of the margin is zero or not finite."""
        gradient, size = self.logits_fn.compiled(_margin_gradient), self.white.batch_size
        slices = [slice(start, start + size) for start in range(0, len(self.labels), size)]
        parts = [gradient(self.images[batch], self.labels[batch]).numpy() for batch in slices]
        flat = np.abs(np.concatenate(parts).reshape(len(self.labels), -1))
        return float((~np.isfinite(flat).all(axis=-1) | (flat.max(axis=-1) == 0)).mean())


def _softmax(logits_fn: LogitsFunction, images: tf.Tensor) -> tf.Tensor:
    return tf.nn.softmax(logits_fn(images))


def _margin_gradient(logits_fn: LogitsFunction, images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    return loss_gradient(logits_fn, images, labels, loss="margin")[0]
