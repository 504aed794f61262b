"""What makes figures of robustness worthless or weak: flags that say so in words, and symptoms of masked gradients."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_fim.attacks import FGM, FGSM, PGD, Attack, FixedBudgetAttack, Square
from keras_fim.attacks.losses import loss_gradient
from keras_fim.attacks.problem import Units
from keras_fim.attacks.staged import StagedAttack, outputs_differ
from keras_fim.evaluation.measurement import Outcome, measured, predicted_classes, predictions_of, softmax
from keras_fim.evaluation.rows import AttackRow
from keras_fim.logits import LogitsFunction, logits_function
from keras_fim.typing import Bounds, Model
from keras_fim.validation import check_labels

_FEW = 64  # images whose gradients are looked at
_NOISES = 10  # draws of random noise for each image
_MOST = 0.02  # share of the images that gradients may leave to a search without them

BLACK_BOX = "black box: only a search without gradients ran, so the true robust accuracy is at most the figure here"


def outputs_flags(
    logits_fn: LogitsFunction, images: tf.Tensor, labels: np.ndarray, *, gradients: bool, bounds: Bounds | None = None
) -> list[str]:
    """Flags of a model's outputs on a few images.

    Args:
        logits_fn: The classifier.
        images: ``(n, ...)``, checked; the first 64 are looked at.
        labels: int64 ``(n,)``, class indices.
        gradients: Whether to look at the gradients, too.
        bounds: The smallest and the largest pixel value; ``None`` if they are not the same for all attacks.

    Returns:
        A sentence for each of: logits that are not finite, outputs that differ between two passes, outputs that are the
        same for all images, an input that is rounded, gradients that are zero.

    Raises:
        NoGradientError: If there is no gradient path from the images to the logits, and ``gradients`` asks for one.
    """
    images = logits_fn.cast(images[:_FEW])
    first, second = (np.asarray(logits_fn(images), np.float64) for _ in range(2))
    flags = []
    if not np.isfinite(first).all():
        share = 1 - np.isfinite(first).all(axis=-1).mean()
        flags.append(f"not finite: the logits of {100 * share:.0f} % of the images are NaN or infinite")
    elif outputs_differ(first, second):
        flags.append("random outputs: two passes over the same images differ, so a success may not repeat itself")
    elif (first == first[0]).all() and np.ptp(images, axis=0).any():
        flags.append("constant outputs: the logits are the same for every image, so no perturbation changes them")
    elif bounds is not None and _rounds(logits_fn, images, first, bounds):
        text = "the logits do not change at all when every pixel moves by less than 1/255 of its range"
        flags.append(f"rounded input: {text}, so gradients may lead nowhere")
    if gradients:
        with logits_fn.explained():
            classes = tf.constant(check_labels(labels[:_FEW], *first.shape))
            slope = np.asarray(loss_gradient(logits_fn, images, classes, loss="margin")[0])
        zero = float((np.abs(slope).reshape(len(slope), -1).max(axis=-1) == 0).mean())
        if zero > 0.01:
            text = f"of {100 * zero:.0f} % of the images the gradient of the margin is zero, so attacks cannot start"
            flags.append(f"zero gradients: {text}")
    return flags


def _rounds(logits_fn: LogitsFunction, images: tf.Tensor, logits: np.ndarray, bounds: Bounds) -> bool:
    """Whether the logits of most images stay the same, bit by bit, under two small moves of all pixels."""
    low, high = (np.asarray(end, images.dtype.as_numpy_dtype) for end in bounds)
    still = np.ones(len(logits), bool)
    for share in (0.1, 0.4):  # from each pixel inwards
        step = np.where(images - low < high - images, 1, -1) * (high - low) * share / 255
        still &= (np.asarray(logits_fn(images + tf.cast(step, images.dtype)), np.float64) == logits).all(axis=-1)
    return bool(still.mean() > 0.5)


def one_class(predictions: np.ndarray, labels: np.ndarray) -> list[str]:
    """The flag of a model that predicts one class only although the labels hold several."""
    if len(np.unique(predictions)) > 1 or len(np.unique(labels)) < 2:
        return []
    return [f"one class: the model predicts class {predictions[0]} for every image, so its robustness means nothing"]


def budget_flags(epsilons: Sequence[tuple[float, float]], bounds: Bounds | None) -> list[str]:
    """Flags of budgets that look as if they were meant on another scale than that of the pixels.

    Args:
        epsilons: Norms and budgets; those of l∞ are looked at.
        bounds: The smallest and the largest pixel value; ``None`` if they are not the same for all attacks.

    Returns:
        A sentence for each budget above the whole range, or below a tenth of a gray level of pixels up to 255 or so.
    """
    if bounds is None:
        return []
    extent = float(np.max(bounds[1])) - float(np.min(bounds[0]))
    flags = []
    for _, epsilon in dict.fromkeys(pair for pair in epsilons if pair[0] == np.inf):
        if epsilon > extent:
            flags.append(f"budget: linf {epsilon:g} is more than the whole range of the pixels, {extent:g}")
        elif extent > 100 and 0 < epsilon < 0.1:
            text = f"of pixels whose range is {extent:g}; 8/255 of that range is {8 * extent / 255:g}"
            flags.append(f"budget: linf {epsilon:g} is less than a tenth of a gray level {text}")
    return flags


def path_flags(attack: Attack, outcome: Outcome) -> list[str]:
    """Flags of what an attack of several stages met on its way.

    Args:
        attack: The attack; one of another kind has none.
        outcome: What it did.

    Returns:
        A sentence for each of: a search without gradients that fools what gradients do not, and samples that stand
        where the margin has no slope.
    """
    if not isinstance(attack, StagedAttack) or not outcome.was_correct.any():
        return []
    stages = outcome.stages[:, outcome.was_correct]
    square, stuck = ((stages == number).mean(axis=1).max() for number in (attack.stages.index("square"), -2))
    masked = f"a search without gradients fools {100 * square:.0f} % that {attack.name} does not with them"
    ended = f"under {attack.name} {100 * stuck:.0f} % of the images stand where the gradient of the margin is zero"
    flags = [f"black box: {masked}, so gradients are masked"] if square > _MOST else []
    return flags + ([f"zero gradients on the way: {ended}, so it could not go on"] if stuck > 0.01 else [])


def search_flags(rows: Sequence[AttackRow]) -> list[str]:
    """Flags of attacks side by side: a search without gradients that fools more than all attacks with them.

    Args:
        rows: What the attacks did; those of one norm and ε are compared.

    Returns:
        A sentence for the largest such difference, if there is one above 2 %.
    """
    worst = (_MOST, "")
    by_gradients = [row for row in rows if not _searches(row) and not row.aimed]
    for row in filter(_searches, rows):
        others = [other for other in by_gradients if (other.norm, other.epsilon) == (row.norm, row.epsilon)]
        if others:
            best = max(others, key=lambda other: other.fooling.value)
            where = f"at {row.norm} {row.epsilon:g} {row.attack} fools {row.fooling} and {best.attack} {best.fooling}"
            worst = max(worst, (row.fooling.value - best.fooling.value, where))
    return [f"black box: {worst[1]}, so gradients are masked or the attacks by them too weak"] if worst[1] else []


def _searches(row: AttackRow) -> bool:
    """Whether a row is of an attack without gradients."""
    return row.attack.startswith("square_")


@dataclasses.dataclass(frozen=True)
class Probe:
    """Measures the symptoms of masked gradients; a figure is a share of the samples, and the larger, the worse.

    In the methods, bool arrays ``(n,)`` say which samples an attack fooled: ``white`` the white-box attack alone,
    ``gradients`` any of the attacks that use gradients.

    Attributes:
        logits_fn: The model.
        white: The white-box attack that is in question.
        images: ``(n, ...)``, which the model classifies correctly.
        labels: int64 ``(n,)``.
    """

    logits_fn: LogitsFunction
    white: PGD
    images: tf.Tensor
    labels: tf.Tensor

    def sweep(self, attack: FixedBudgetAttack, epsilons: Sequence[float], model: Any = None) -> list[np.ndarray]:
        """For each ε, which samples an attack fools, on this model or on another one."""
        return list(measured(model or self.logits_fn, attack, epsilons, (self.images, self.labels)).fooled)

    def around_half(self, epsilons: Sequence[float], *, tries: int) -> dict[float, np.ndarray]:
        """Which samples the white-box attack fools at each budget, in ascending order.

        Where nearly all samples are fooled, or nearly none, there is nothing to compare. As long as no budget fools
        between a fifth and four fifths of them, one halfway is added, up to ``tries`` times.
        """
        fooled = dict(zip(epsilons, self.sweep(self.white, epsilons), strict=True))
        for _ in range(tries):
            ratios = {epsilon: float(mask.mean()) for epsilon, mask in fooled.items()}
            low = max((epsilon for epsilon, ratio in ratios.items() if ratio < 0.2), default=0.0)
            high = min((epsilon for epsilon, ratio in ratios.items() if ratio > 0.8), default=low)
            if high <= low or any(0.2 <= ratio <= 0.8 for ratio in ratios.values()):
                break
            fooled[(low + high) / 2] = self.sweep(self.white, [(low + high) / 2])[0]
        return dict(sorted(fooled.items()))

    def one_step(self, white: dict[float, np.ndarray]) -> float:
        """Fooled by one step and not by many, at the worst ε."""
        attack = (FGSM if self.white.norm == np.inf else FGM)(bounds=self.white.bounds)
        pairs = zip(self.sweep(attack, [*white]), white.values(), strict=True)
        return max(float((one & ~many).mean()) for one, many in pairs)

    def margin(self, epsilon: float) -> np.ndarray:
        """Which samples are fooled with the margin in place of the cross-entropy."""
        return self.sweep(dataclasses.replace(self.white, loss="margin"), [epsilon])[0]

    def more_steps(self, epsilon: float) -> np.ndarray:
        """Which samples are fooled with 2.5 times the steps, finer ones, and one more restart."""
        steps, size = 5 * self.white.steps // 2, 0.4 * self.white.step_size
        return self.sweep(dataclasses.replace(self.white, steps=steps, step_size=size, restarts=3), [epsilon])[0]

    def probabilities(self, epsilon: float, white: np.ndarray) -> float:
        """Fooled through logits and not through rounded probabilities."""
        model = LogitsFunction(functools.partial(softmax, self.logits_fn), "probabilities")
        (fooled,) = self.sweep(self.white, [epsilon], model=model)
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
        model, samples = logits_function(twin, self.images), (self.images, self.labels)
        outcome = measured(model, attack, [epsilon], samples, predictions_of(self.logits_fn))
        return float(((outcome.seen[0] != self.labels.numpy()) & ~gradients).mean())

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


def _margin_gradient(logits_fn: LogitsFunction, images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    return loss_gradient(logits_fn, images, labels, loss="margin")[0]
