"""What is going to be measured: which attacks at which budgets, and how long that may take."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_fim.attacks.base import Attack
from keras_fim.attacks.catalog import Epsilons, attack_by_name, resolve_epsilons
from keras_fim.attacks.losses import loss_gradient
from keras_fim.attacks.lp import norm_name
from keras_fim.attacks.minimal import MinimalDistance
from keras_fim.attacks.one_step import FGM, FGSM
from keras_fim.attacks.strong import Strong
from keras_fim.evaluation.sources import Chunk
from keras_fim.logits import LogitsFunction

__all__ = ["Plan", "bounded", "default_attacks", "estimate", "planned", "stated_gradients"]

_PREVIEW = 8  # images whose gradients are timed
_FEW = 10_000  # gradients, which take seconds at most


class Plan(NamedTuple):
    """An attack and its budgets."""

    attack: Attack
    epsilons: tuple[float, ...]


def planned(
    attacks: Sequence[Attack | str] | None, epsilons: Epsilons, bounds: tuple[float, float] | None
) -> list[Plan]:
    """The attacks of an evaluation with their budgets.

    Args:
        attacks: Attacks or their names; ``None`` for `default_attacks`.
        epsilons: As for `keras_fim.attacks.resolve_epsilons`.
        bounds: Smallest and largest pixel value, or ``None``, as for `bounded`.

    Returns:
        `Plan` for each attack.

    Raises:
        ValueError: If there is no attack, or one twice, or as `keras_fim.attacks.resolve_epsilons`.
    """
    several = default_attacks(epsilons) if attacks is None else attacks
    chosen = [bounded(attack_by_name(attack), bounds) for attack in several]
    if not chosen or len({repr(attack) for attack in chosen}) < len(chosen):
        raise ValueError(f"`attacks` should be different attacks, at least one. Received: {[a.name for a in chosen]}")
    return [Plan(*pair) for pair in zip(chosen, resolve_epsilons(chosen, epsilons), strict=True)]


def default_attacks(epsilons: Epsilons = None, **options: Any) -> list[Attack]:
    """The strong attack and one of one step, in the norms of the keys of ``epsilons``, or else in l∞.

    Args:
        epsilons: As for `keras_fim.attacks.resolve_epsilons`.
        **options: Of `Strong`.

    Returns:
        Two attacks for each norm.
    """
    keys = {norm_name(key) if isinstance(key, (int, float)) else str(key) for key in _keys(epsilons)}
    norms = [norm for norm in (2, np.inf) if norm_name(norm) in keys] or [np.inf]
    return [attack for norm in norms for attack in (FGM() if norm == 2 else FGSM(), Strong(norm=norm, **options))]


def bounded(attack: Attack, bounds: tuple[float, float] | None) -> Attack:
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
    if isinstance(attack, Strong):
        return sum(stated_gradients(stage) for stage in attack.attacks().values())
    inner = stated_gradients(attack.attack) * 20 if isinstance(attack, MinimalDistance) else 0
    steps = getattr(attack, "steps", 1) * getattr(attack, "restarts", 1) * getattr(attack, "search_steps", 1)
    return int(inner + max(steps, getattr(attack, "queries", 0) // 3))


def estimate(logits_fn: LogitsFunction, plans: Sequence[Plan], chunk: Chunk, num_samples: int | None) -> str:
    """How long an evaluation may take, from the time that the gradients of a few images take.

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
    labels, gradient = tf.constant(chunk.labels[:_PREVIEW]), logits_fn.compiled(_gradient)
    gradient(images, labels)  # compiles
    begin = time.perf_counter()
    gradient(images, labels)
    minutes = (time.perf_counter() - begin) / len(images) * count * total / 60
    names = ", ".join(plan.attack.name for plan in plans)
    which = f"{total} images" if num_samples is not None else f"every {total} images"
    return f"{names}: at most {count} gradients an image, up to {minutes:.1f} minutes for {which}"


def _keys(epsilons: Epsilons) -> Sequence[Any]:
    return list(epsilons) if isinstance(epsilons, Mapping) else []


def _gradient(logits_fn: LogitsFunction, images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    return loss_gradient(logits_fn, images, labels)[0]
