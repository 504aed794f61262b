"""What is going to be measured: which attacks at which budgets, and how long that may take."""

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_fim.arguments import checked
from keras_fim.attacks.base import Attack
from keras_fim.attacks.boundaries import FAB
from keras_fim.attacks.catalog import Epsilons, attack_by_name, resolve_epsilons
from keras_fim.attacks.ensembles import AutoAttack, Strong
from keras_fim.attacks.kinds import MinimalDistance
from keras_fim.attacks.losses import TARGETED_LOSSES, loss_gradient
from keras_fim.attacks.lp import norm_name
from keras_fim.attacks.single_steps import FGM, FGSM
from keras_fim.attacks.square import Square
from keras_fim.attacks.staged import StagedAttack
from keras_fim.evaluation.measurement import fits_memory
from keras_fim.evaluation.sources import Chunk
from keras_fim.logits import LogitsFunction
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
    for each in own:
        check_contradiction(logits_fn, chunk.images, each)
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
    chosen = [bounded(attack_by_name(attack), pixels.bounds if pixels else None) for attack in several]
    if black_box and not all(isinstance(attack, Square) for attack in chosen):
        raise ValueError(f"`attacks` should be Square alone with black_box=True. Received: {[a.name for a in chosen]}")
    if not chosen or len({repr(attack) for attack in chosen}) < len(chosen):
        raise ValueError(f"`attacks` should be different attacks, at least one. Received: {[a.name for a in chosen]}")
    return [Plan(*pair) for pair in zip(chosen, resolve_epsilons(chosen, epsilons), strict=True)]


def check_chunk(chunk: Any) -> None:
    """Raise a ValueError unless ``chunk`` is a pair of integers: which part, from 1, of how many."""
    whole = isinstance(chunk, tuple) and len(chunk) == 2 and all(isinstance(number, int) for number in chunk)
    if not whole or not 1 <= chunk[0] <= chunk[1]:
        raise ValueError(f"`chunk` should be two integers, such as (3, 16) for 3/16. Received: chunk={chunk}")


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
    keys = {norm_name(key) if isinstance(key, (int, float)) else str(key) for key in _keys(epsilons)}
    norms = [norm for norm in (1, 2, np.inf) if norm_name(norm) in keys] or [np.inf]
    if black_box:
        return [Square(norm=norm, queries=5000) for norm in norms]
    if autoattack:
        return [AutoAttack(norm=norm) for norm in norms]
    one_step: dict[float, list[Attack]] = {2: [FGM()], np.inf: [FGSM()]}
    return [attack for norm in norms for attack in (*one_step.get(norm, []), Strong(norm=norm, **options))]


def fitted(plan: Plan, shape: Sequence[int], num_devices: int = 1) -> Plan:
    """The plan with batches of images of a shape that fit into the memory of one device, times their number."""
    attack = plan.attack
    if isinstance(attack, MinimalDistance):  # whose batches are those of its attack
        inner = fitted(Plan(attack.attack, ()), shape, num_devices).attack
        return plan._replace(attack=dataclasses.replace(attack, attack=inner))  # type: ignore[arg-type]
    size = min(attack.batch_size, fits_memory(shape)) * num_devices
    return plan._replace(attack=dataclasses.replace(attack, batch_size=size))


def bounded(attack: Attack, bounds: Bounds | None) -> Attack:
    """The attack with other bounds on the pixels; ``None`` leaves its own. The place where a range enters."""
    if bounds is None:
        return attack
    if isinstance(attack, MinimalDistance):  # whose bounds are those of its attack
        return dataclasses.replace(attack, attack=bounded(attack.attack, bounds))  # type: ignore[arg-type]
    return dataclasses.replace(attack, bounds=bounds)


def stated_gradients(attack: Attack) -> int:
    """The largest number of gradients of an image at one ε, from the attack's options; a query counts as a third.

    Example:
        >>> from keras_fim import attacks
        >>> stated_gradients(attacks.FGSM()), stated_gradients(attacks.PGD(steps=10, restarts=3))
        (1, 30)
    """
    if isinstance(attack, StagedAttack):
        return sum(stated_gradients(stage) for stage in attack.attacks().values())
    inner = stated_gradients(attack.attack) * 20 if isinstance(attack, MinimalDistance) else 0
    runs = math.prod(getattr(attack, option, 1) for option in ("restarts", "search_steps", "eot_draws"))
    if getattr(attack, "loss", "") in TARGETED_LOSSES or isinstance(attack, FAB):
        runs *= getattr(attack, "num_targets", 1)
    steps = getattr(attack, "steps", 1) * runs
    return int(inner + max(steps, getattr(attack, "queries", 0) // 3))


def estimate(logits_fn: LogitsFunction, plans: Sequence[Plan], chunk: Chunk, num_samples: int | None) -> str:
    """How long an evaluation may take, from the time of a few gradients, or of forward passes where `Square` is alone.

    Args:
        logits_fn: The classifier.
        plans: The attacks.
        chunk: The first samples.
        num_samples: The number of samples, at most; ``None`` if it is unknown.

    Returns:
        A sentence, or "" where it hardly takes any time.
    """
    total = len(chunk.labels) if num_samples is None else num_samples
    count = sum(stated_gradients(plan.attack) * len(plan.epsilons) for plan in plans)
    if count * total < _FEW:
        return ""
    images = logits_fn.cast(tf.convert_to_tensor(chunk.images[:_PREVIEW]))
    scores = all(isinstance(plan.attack, Square) for plan in plans)
    labels, timed = tf.constant(chunk.labels[:_PREVIEW]), logits_fn.compiled(_logits if scores else _gradient)
    timed(images[:1], labels[:1])  # compiles
    begin = time.perf_counter()
    timed(images, labels)
    minutes = (3 if scores else 1) * (time.perf_counter() - begin) / len(images) * count * total / 60
    names = ", ".join(plan.attack.name for plan in plans)
    which = f"{total} images" if num_samples is not None else f"every {total} images"
    counted = f"{3 * count} queries" if scores else f"{count} gradients"
    return f"{names}: at most {counted} an image, up to {minutes:.1f} minutes for {which}"


def _keys(epsilons: Epsilons) -> Sequence[Any]:
    return list(epsilons) if isinstance(epsilons, Mapping) else []


def _logits(logits_fn: LogitsFunction, images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    return logits_fn(images)


def _gradient(logits_fn: LogitsFunction, images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    return loss_gradient(logits_fn, images, labels)[0]
