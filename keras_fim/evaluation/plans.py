"""What is going to be measured: which attacks at which budgets, how long that may take, and what is left of it."""

import dataclasses
import math
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_fim.arguments import checked, expect
from keras_fim.attacks import FAB, FGM, FGSM, Attack, AutoAttack, MinimalDistance, Square, Strong, losses, lp, staged
from keras_fim.attacks.catalog import Epsilons, attack_by_name, resolve_epsilons
from keras_fim.evaluation.measurement import fits_memory
from keras_fim.evaluation.sources import Chunk, digest
from keras_fim.logits import LogitsFunction, logits_function, predict_logits
from keras_fim.pixels import PixelRange, check_contradiction, find_range
from keras_fim.typing import Bounds
from keras_fim.validation import check_images

_PREVIEW = 8  # images whose gradients are timed
_FEW = 10_000  # gradients, which take seconds at most


class Plan(NamedTuple):
    """An attack and its budgets."""

    attack: Attack
    epsilons: tuple[float, ...]


def pixel_range(
    logits_fn: LogitsFunction, chunk: Chunk, attacks: Sequence[Attack | str] | None, bounds: Bounds | PixelRange | None
) -> PixelRange | None:
    """The range of the pixels of an evaluation.

    Args:
        logits_fn: The classifier.
        chunk: The first samples.
        attacks: As for `planned`. Attack objects bring their own bounds, which should not contradict the model.
        bounds: What the caller says, or ``None``.

    Returns:
        The range, or None if attack objects bring different ones.

    Raises:
        ValueError: As `keras_fim.pixels.find_range`, or if the bounds of the attacks contradict the model.
    """
    if bounds is not None or not attacks or any(isinstance(attack, str) for attack in attacks):
        return find_range(logits_fn, chunk.images, chunk.labels, bounds)
    own = list(dict.fromkeys(attack.bounds for attack in attacks if isinstance(attack, Attack)))
    for own_bounds in own:
        check_contradiction(logits_fn, chunk.images, own_bounds)
    return PixelRange(*own[0], "the bounds of the attacks") if len(own) == 1 else None


def within(pixels: PixelRange | None, chunk: Chunk) -> tuple[tf.Tensor, int]:
    """The images of a chunk, within the range of the pixels, and how many were clipped."""
    return (check_images(chunk.images), 0) if pixels is None else pixels.clip(chunk.images)


def planned(
    attacks: Sequence[Attack | str] | None, epsilons: Epsilons, pixels: PixelRange | None, *, black_box: bool = False
) -> list[Plan]:
    """The attacks of an evaluation with their budgets.

    Args:
        attacks: Attacks or their names; ``None`` for `default_attacks`.
        epsilons: As for `keras_fim.attacks.resolve_epsilons`.
        pixels: The range of the pixels, or ``None`` to leave the attacks' own bounds.
        black_box: Whether only `Square` may run.

    Returns:
        `Plan` for each attack.

    Raises:
        ValueError: If there is no attack, or one twice, or as `keras_fim.attacks.resolve_epsilons`.
    """
    several: Sequence[Attack | str] = default_attacks(epsilons, black_box=black_box) if attacks is None else attacks
    selected = [bounded(attack_by_name(attack), pixels.bounds if pixels else None) for attack in several]
    names = str([attack.name for attack in selected])
    allowed = not black_box or all(isinstance(attack, Square) for attack in selected)
    expect(allowed, "attacks", "Square alone with black_box=True", received=names)
    different = len(selected) > 0 and len({repr(attack) for attack in selected}) == len(selected)
    expect(different, "attacks", "different attacks, at least one", received=names)
    return [Plan(*pair) for pair in zip(selected, resolve_epsilons(selected, epsilons), strict=True)]


@checked
def default_attacks(
    epsilons: Epsilons = None, *, black_box: bool = False, autoattack: bool = False, **options: Any
) -> list[Attack]:
    """The strong attack and, but for l1, one of one step, in the norms of the keys of ``epsilons``, or else in l∞.

    Args:
        epsilons: As for `keras_fim.attacks.resolve_epsilons`.
        black_box: Whether to return `Square`, which needs no gradient, in place of both.
        autoattack: Whether to return `AutoAttack` in place of both.
        **options: Of `Strong`.

    Returns:
        One or two attacks for each norm.
    """
    keys = list(epsilons) if isinstance(epsilons, Mapping) else []
    keys = [lp.norm_name(key) if isinstance(key, (int, float)) else str(key) for key in keys]
    norms = [norm for norm in (1, 2, np.inf) if lp.norm_name(norm) in keys] or [np.inf]
    if black_box:
        return [Square(norm=norm, queries=5000) for norm in norms]
    if autoattack:
        return [AutoAttack(norm=norm) for norm in norms]
    one_step: dict[float, list[Attack]] = {2: [FGM()], np.inf: [FGSM()]}
    return [attack for norm in norms for attack in (*one_step.get(norm, []), Strong(norm=norm, **options))]


def fitted(plan: Plan, shape: Sequence[int], num_devices: int = 1) -> Plan:
    """The plan with batches of images of a shape that fit into the memory of one device, times their number."""
    size = min(plan.attack.batch_size, fits_memory(shape)) * num_devices
    return plan._replace(attack=_replaced(plan.attack, batch_size=size))


def bounded(attack: Attack, bounds: Bounds | None) -> Attack:
    """The attack with other bounds on the pixels; ``None`` leaves its own. The place where a range enters."""
    return attack if bounds is None else _replaced(attack, bounds=bounds)


def _replaced(attack: Attack, **options: Any) -> Attack:
    """The attack with other options; those of a search over ε are those of the attack that it searches with."""
    if isinstance(attack, MinimalDistance):
        options = {"attack": _replaced(attack.attack, **options)}
    return dataclasses.replace(attack, **options)


def attack_settings(attack: Attack, images: np.ndarray) -> dict[str, Any]:
    """What tells an attack apart in the settings of a cell: all but what does not change its results.

    Args:
        attack: The attack. Another model that it uses is told apart by `model_digest`.
        images: Some images that it is called on.

    Returns:
        Ready for JSON, with the attack's integer ``revision``, which changes with what the attack computes.
    """
    fields = {field.name: getattr(attack, field.name) for field in dataclasses.fields(attack) if field.repr}
    settings: dict[str, Any] = {"attack": type(attack).__name__, "revision": getattr(attack, "revision", 1)}
    for name, value in fields.items():
        if isinstance(value, Attack):
            settings[name] = attack_settings(value, images)
        elif name == "twin" and value is not None:
            settings[name] = model_digest(logits_function(value, images), images)
        elif name != "batch_size":
            settings[name] = repr(value)
    return settings


def model_digest(logits_fn: LogitsFunction, images: np.ndarray) -> str:
    """Tells models apart.

    For a Keras model by its weights, and by its logits of a few images of noise, which differ where the layers do;
    coarsely, because the last bits are the processor's. For anything else, whose weights are unknown, by its exact
    logits of the images.

    Args:
        logits_fn: The model.
        images: ``(batch, ...)``; of a Keras model only their shape matters.

    Returns:
        64 hexadecimal digits.
    """
    weighted = isinstance(logits_fn.model, keras.Model)
    probe = np.random.default_rng(0).uniform(size=(8, *images.shape[1:])) if weighted else images
    logits = np.asarray(logits_fn.in_batches(predict_logits, probe), np.float64)
    arrays = [*logits_fn.model.get_weights(), *_coarse(logits)] if weighted else [logits]
    return digest(*arrays, logits_fn.form)


def _coarse(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sixteen levels of either sign, and the largest to a quarter of a power of two: rounding hardly moves them."""
    largest = np.maximum(np.abs(logits).max(), np.finfo(np.float32).tiny)
    return np.round(16 * logits / largest).astype(np.int64), np.round(4 * np.log2(largest)).astype(np.int64)


def stated_gradients(attack: Attack) -> int:
    """The largest number of gradients of an image at one ε, from the attack's options; a query counts as a third.

    Example:
        >>> from keras_fim import attacks
        >>> stated_gradients(attacks.FGSM()), stated_gradients(attacks.PGD(steps=10, restarts=3))
        (1, 30)
    """
    if isinstance(attack, staged.StagedAttack):
        return sum(stated_gradients(stage) for stage in attack.attacks().values())
    inner = stated_gradients(attack.attack) * 20 if isinstance(attack, MinimalDistance) else 0
    runs = math.prod(getattr(attack, option, 1) for option in ("restarts", "search_steps", "eot_draws"))
    if getattr(attack, "loss", "") in losses.TARGETED_LOSSES or isinstance(attack, FAB):
        runs *= getattr(attack, "num_targets", 1)
    return int(inner + max(getattr(attack, "steps", 1) * runs, getattr(attack, "queries", 0) // 3))


def estimate(logits_fn: LogitsFunction, todo: Sequence[Plan], chunk: Chunk, num_samples: int | None) -> tuple[str, Any]:
    """How long an evaluation may take, from the time of a few gradients, or of forward passes where `Square` is alone.

    Args:
        logits_fn: The classifier.
        todo: The attacks.
        chunk: The first samples.
        num_samples: The number of samples, at most; ``None`` if it is unknown.

    Returns:
        A sentence, or "" where it hardly takes any time; and `keras_fim.attacks.losses.slope` at the images whose
        gradients were timed, which are the first ones of the chunk.
    """
    total = len(chunk.labels) if num_samples is None else num_samples
    count = sum(stated_gradients(plan.attack) * len(plan.epsilons) for plan in todo)
    if count * total < _FEW:
        return "", np.zeros(0)
    images = logits_fn.cast(tf.convert_to_tensor(chunk.images[:_PREVIEW]))
    scores = all(isinstance(plan.attack, Square) for plan in todo)
    labels, timed = tf.constant(chunk.labels[:_PREVIEW]), logits_fn.compiled(_scores if scores else losses.slope)
    first = timed(images[:1], labels[:1])  # compiles
    others = slice(min(1, len(images) - 1), None)  # where there is one image, it is timed again
    begin = time.perf_counter()
    slopes = timed(images[others], labels[others])
    minutes = (3 if scores else 1) * (time.perf_counter() - begin) / len(slopes) * count * total / 60
    names = ", ".join(plan.attack.name for plan in todo)
    which = f"{total} images" if num_samples is not None else f"every {total} images"
    counted = f"{3 * count} queries" if scores else f"{count} gradients"
    line = f"{names}: at most {counted} an image, up to {minutes:.1f} minutes for {which}"
    return line, np.zeros(0) if scores else np.append(first, slopes)[-len(images) :]


def say(line: str) -> None:
    """Show a line in place of the last one, on stderr if that is a terminal, and otherwise nothing."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{line[: shutil.get_terminal_size().columns - 1]}")
        sys.stderr.flush()


class Progress:
    """Tells what is left of some work, from the time that was taken so far.

    Args:
        report: Gets the lines.
        work: For each kind of work its name, and about how long an image takes, in any unit.
        total: The number of images, at most; ``None`` if it is unknown.
    """

    def __init__(self, report: Callable[[str], None], work: Sequence[tuple[str, float]], total: int | None) -> None:
        self.report, self.names, self.total = report, [name for name, _ in work], total
        self.weights = np.array([weight for _, weight in work])
        self.done, self.timed, self.seconds = np.zeros((3, len(work)))
        self._begin = time.perf_counter()

    def begin(self, index: int) -> None:
        """Report that a kind of work begins on the next images."""
        self._begin = time.perf_counter()
        done = self.done[index]
        left = f"{done:,.0f} images done" if self.total is None else f"at most {self.total - done:,.0f} images left"
        self.report(f"{self.names[index]}: {left}{self._time_left()}")

    def end(self, index: int, num_images: int, *, kept: bool) -> None:
        """Note that this work is done; what was kept from an earlier time took none."""
        self.done[index] += num_images
        if not kept:
            self.timed[index] += num_images
            self.seconds[index] += time.perf_counter() - self._begin

    def _time_left(self) -> str:
        timed = self.timed > 0
        if self.total is None or self.weights[timed].sum() < self.weights.sum() / 2:
            return ""  # compiling the quick ones says little about the slow ones
        typical = self.seconds.sum() / (self.timed * self.weights).sum()
        rates = np.where(timed, self.seconds / np.maximum(self.timed, 1), self.weights * typical)
        left = float(np.maximum(0, self.total - self.done) @ rates)
        return f", about {left / 60:.0f} min left" if left >= 90 else f", about {left:.0f} s left"


def _scores(logits_fn: LogitsFunction, images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    return logits_fn(images)
