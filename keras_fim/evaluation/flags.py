"""What makes figures of robustness worthless or weak: flags that say so in words."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_fim.attacks import Attack, losses, lp, problem, staged
from keras_fim.evaluation.measurement import Outcome
from keras_fim.evaluation.rows import AttackRow
from keras_fim.logits import LogitsFunction
from keras_fim.typing import Bounds
from keras_fim.validation import check_labels

_FEW = 64  # images whose gradients are looked at
_GRAY_LEVELS = {np.inf: 0.5, 2.0: 2.0, 1.0: 10.0}  # budgets below that hardly change pixels up to 255 or so
_MOST = 0.02  # share of the images that gradients may leave to a search without them

BLACK_BOX = "black box: only a search without gradients ran, so the true robust accuracy is at most the figure here"


def outputs_flags(
    logits_fn: LogitsFunction, images: tf.Tensor, labels: np.ndarray, *, bounds: Bounds | None = None
) -> list[str]:
    """Flags of a model's outputs on a few images.

    Args:
        logits_fn: The classifier.
        images: ``(n, ...)``, checked; the first 64 are looked at.
        labels: int64 ``(n,)``, class indices.
        bounds: The smallest and the largest pixel value; ``None`` if they are not the same for all attacks.

    Returns:
        A sentence for each of: logits that are not finite, outputs that differ between two passes or depend on the
        other images of the batch, outputs that are the same for all images, an input that is rounded.

    Raises:
        ValueError: If the labels are not those of the model.
    """
    images = logits_fn.cast(images[:_FEW])
    first = np.asarray(logits_fn(images), np.float64)
    check_labels(labels[:_FEW], *first.shape)
    halves = [np.asarray(logits_fn(part), np.float64) for part in np.array_split(images, min(2, len(images)))]
    flags, differ = [], staged.outputs_differ(first, np.concatenate(halves))
    if not np.isfinite(first).all():
        share = 1 - np.isfinite(first).all(axis=-1).mean()
        flags.append(f"not finite: the logits of {100 * share:.0f} % of the images are NaN or infinite")
    elif differ and staged.random_outputs(logits_fn, images):
        flags.append("random outputs: two passes over the same images differ, so a success may not repeat itself")
    elif staged.outputs_differ(first, np.concatenate(halves), most=0.01):  # float16 rounds otherwise in other batches
        text = "the logits of an image depend on the others in its batch, as of batch normalization in training mode"
        flags.append(f"batch-dependent outputs: {text}, so every figure depends on the batches")
    elif (first == first[0]).all() and np.ptp(images, axis=0).any():
        flags.append("constant outputs: the logits are the same for every image, so no perturbation changes them")
    elif bounds is not None and _rounds(logits_fn, images, first, bounds):
        text = "the logits do not change at all when every pixel moves by less than 1/255 of its range"
        flags.append(f"rounded input: {text}, so gradients may lead nowhere")
    return flags


def slope_flags(logits_fn: LogitsFunction, images: tf.Tensor, labels: np.ndarray, slopes: np.ndarray) -> list[str]:
    """The flag of gradients that are zero or not finite.

    Args:
        logits_fn: The classifier.
        images: ``(n, ...)``, checked; the first 64 are looked at.
        labels: int64 ``(n,)``, class indices.
        slopes: `keras_fim.attacks.losses.slope` at the first images, as far as it is at hand.

    Returns:
        A sentence, or nothing.

    Raises:
        NoGradientError: If there is no gradient path from the images to the logits.
    """
    images, classes = logits_fn.cast(images[len(slopes) : _FEW]), tf.constant(labels[len(slopes) : _FEW])
    if len(classes):
        with logits_fn.explained():
            slopes = np.append(slopes, losses.slope(logits_fn, images, classes))
    zero = float((~((slopes > 0) & np.isfinite(slopes))).mean())
    text = f"of {100 * zero:.0f} % of the images the gradient of the margin is zero or not finite"
    return [f"zero gradients: {text} (rounded probabilities, a root of 0?): attacks are weak"] if zero > 0.01 else []


def _rounds(logits_fn: LogitsFunction, images: tf.Tensor, logits: np.ndarray, bounds: Bounds) -> bool:
    """Whether the logits of most images stay the same, bit by bit, under two small moves of all pixels."""
    low, high = (np.asarray(end, images.dtype.as_numpy_dtype) for end in bounds)
    still = np.ones(len(logits), bool)
    for share in (0.1, 0.4):  # from each pixel inwards
        step = np.where(images - low < high - images, 1, -1) * (high - low) * share / 255
        still &= (np.asarray(logits_fn(images + tf.cast(step, images.dtype)), np.float64) == logits).all(axis=-1)
    return bool(still.mean() > 0.5)


def answers_flags(predictions: np.ndarray, labels: np.ndarray) -> list[str]:
    """Flags of the classes predicted for all images: `one_class`, and answers of NaN, which are class -1."""
    missing = int((predictions < 0).sum())
    text = f"no answer: the model returns NaN for {missing} of {len(labels)} images, which count as misclassified"
    return one_class(predictions, labels) if missing == 0 else [text]


def one_class(predictions: np.ndarray, labels: np.ndarray) -> list[str]:
    """The flag of a model that predicts one class only although the labels hold several."""
    if len(np.unique(predictions)) > 1 or len(np.unique(labels)) < 2:
        return []
    return [f"one class: the model predicts class {predictions[0]} for every image, so its robustness means nothing"]


def budget_flags(epsilons: Sequence[tuple[float, float]], bounds: Bounds | None) -> list[str]:
    """Flags of budgets that look as if they were meant on another scale than that of the pixels.

    Args:
        epsilons: Norms and budgets.
        bounds: The smallest and the largest pixel value; ``None`` if they are not the same for all attacks.

    Returns:
        A sentence for each budget of l∞ above the whole range (1 with bounds for each channel, as ε is of the range
        then), and for each that hardly changes pixels up to 255 or so.
    """
    if bounds is None:
        return []
    extent = problem.Units(bounds).scale
    flags = []
    for norm, epsilon in dict.fromkeys(epsilons):
        if norm == np.inf and epsilon > extent:
            flags.append(f"budget: linf {epsilon:g} is more than the whole range of the pixels, {extent:g}")
        elif extent > 100 and 0 < epsilon < _GRAY_LEVELS.get(norm, 0):
            least = f"{_GRAY_LEVELS[norm]:g} gray levels of pixels whose range is {extent:g}"
            scaled = f"{epsilon:g} of pixels from 0 to 1 is {epsilon * extent:g} of these"
            flags.append(f"budget: {lp.norm_name(norm)} {epsilon:g} is below {least}; {scaled}")
    return flags


def path_flags(attack: Attack, outcome: Outcome) -> list[str]:
    """Flags of what an attack met on its way.

    Args:
        attack: The attack.
        outcome: What it did.

    Returns:
        A sentence for each of: successes that the model did not confirm and, of an attack of several stages, a search
        without gradients that fools what gradients do not, and samples that stand where the margin has no slope.
    """
    if not outcome.was_correct.any():
        return []
    share = outcome.unconfirmed[:, outcome.was_correct].mean(axis=1).max()
    doubt = f"of {100 * share:.0f} % of the images {attack.name} reports a success that the model did not confirm"
    flags = [f"unconfirmed: {doubt} (other answers, NaN), so robust accuracy may be too high"] if share > _MOST else []
    if not isinstance(attack, staged.StagedAttack):
        return flags
    stages = outcome.stages[:, outcome.was_correct]
    square, stuck = ((stages == number).mean(axis=1).max() for number in (attack.stages.index("square"), -2))
    masked = f"a search without gradients fools {100 * square:.0f} % that {attack.name} does not with them"
    ended = f"under {attack.name} {100 * stuck:.0f} % of the images stand where the gradient of the margin is zero"
    flags += [f"black box: {masked}, so gradients are masked"] if square > _MOST else []
    return flags + ([f"zero gradients on the way: {ended}, so it could not go on"] if stuck > 0.01 else [])


def search_flags(rows: Sequence[AttackRow]) -> list[str]:
    """Flags of attacks side by side: a search without gradients that fools more than all attacks with them.

    Args:
        rows: What the attacks did; those of one norm and ε are compared.

    Returns:
        A sentence for the largest such difference, if there is one above 2 %.
    """
    worst = (_MOST, "")
    by_gradients = [row for row in rows if not row.attack.startswith("square_") and not row.aimed]
    for row in (row for row in rows if row.attack.startswith("square_")):
        others = [other for other in by_gradients if (other.norm, other.epsilon) == (row.norm, row.epsilon)]
        if others:
            best = max(others, key=lambda other: other.fooling.value)
            where = f"at {row.norm} {row.epsilon:g} {row.attack} fools {row.fooling} and {best.attack} {best.fooling}"
            worst = max(worst, (row.fooling.value - best.fooling.value, where))
    return [f"black box: {worst[1]}, so gradients are masked or the attacks by them too weak"] if worst[1] else []
