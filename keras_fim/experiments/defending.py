"""The defences that a training run can name, alone or joined by ``+``, and what suits each data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_fim import attacks, defenses
from keras_fim.data import info
from keras_fim.evaluation import samples
from keras_fim.geometry.label_smoothing import default_mu, label_smoothing_from_mu

__all__ = ["NAMES", "check_defense", "default_options", "default_weights", "defended", "overfitting_watch", "takes_mu"]

_NORMS = {"l2": 2.0, "linf": np.inf}
_MNIST = ("mnist", "mnist5k")
_BY_CLASSES = (-1.0, -1.0)
# what an option may be, by the type of its default; of the default None, which the data set decides, a number
_NUMBER: tuple[str, tuple[type, ...]] = ("a number", (int, float))
_KINDS = {float: _NUMBER, type(None): _NUMBER, int: ("an integer", (int,)), str: ("a string", (str,))}
_OSSA = attacks.OSSA(method="krylov", max_steps=1)
_SPECTRAL = {"step": 0.1, "difference": "one_sided", "share": 1.0}


class _Part(NamedTuple):
    """A defence.

    Attributes:
        build: from a classifier or another defence, the options and a seed; None for what is only a loss.
        options: with their defaults; an ε of None is the data set's.
        norm: of ε, where there is no option ``norm``.
        mu: the default weight μ on MNIST and on the others, `_BY_CLASSES` for `default_mu`; None where there is no μ.
    """

    build: Callable[..., keras.Model] | None = None
    options: dict[str, Any] = {}  # noqa: RUF012 - never written to
    norm: str | None = None
    mu: tuple[float, float] | None = None


def _pgd(model: keras.Model, *, norm: str, attack_steps: int, step_size: float, **options: Any) -> keras.Model:
    attack = attacks.PGD(norm=_NORMS[norm], steps=attack_steps, step_size=step_size, keep_best=False)
    return defenses.AdversarialTraining(model, attack, **options)


def _ossa(model: keras.Model, **options: Any) -> keras.Model:
    return defenses.AdversarialTraining(model, _OSSA, **options)


def _trades(model: keras.Model, *, norm: str, **options: Any) -> keras.Model:
    return defenses.TRADES(model, norm=_NORMS[norm], **options)


def _spectral_trace(model: keras.Model, **options: Any) -> keras.Model:
    return defenses.SpectralDefense(model, penalty="trace", **options)


_ADVERSARIAL = {"epsilon": None, "mix": 1.0, "attack_mode": "training"}
_PARTS = {
    "none": _Part(),
    "fisher-trace": _Part(mu=_BY_CLASSES),
    "fisher-eigenvalue": _Part(mu=_BY_CLASSES),
    "label-smoothing": _Part(),
    "adversarial-label-smoothing": _Part(defenses.AdversarialLabelSmoothing, {"alpha": 0.3}),
    "n-fgsm": _Part(defenses.n_fgsm, {**_ADVERSARIAL, "noise": 2.0}, "linf"),
    "n-fgm": _Part(defenses.n_fgm, {**_ADVERSARIAL, "noise": 1.0}, "l2"),
    "pgd": _Part(_pgd, {**_ADVERSARIAL, "norm": "l2", "attack_steps": 7, "step_size": 0.25}),
    "ossa": _Part(_ossa, {**_ADVERSARIAL, "noise": 0.0}, "l2"),
    "trades": _Part(_trades, {"epsilon": None, "norm": "l2", "attack_steps": 1, "beta": 3.0}),
    "gradient-penalty": _Part(defenses.GradientPenalty, {"step": 0.1}, mu=(1.0, 0.1)),
    "spectral": _Part(
        defenses.SpectralDefense, {**_SPECTRAL, "direction": "gradient", "krylov_steps": 1}, mu=(1.0, 0.02)
    ),
    "spectral-trace": _Part(_spectral_trace, _SPECTRAL, mu=(0.3, 0.03)),
}
NAMES = tuple(_PARTS)
_EPSILONS = {"l2": (2.0, 0.25), "linf": (0.1, 2 / 255)}  # MNIST and the others


def takes_mu(defense: str) -> bool:
    """Whether one of its parts has a weight μ."""
    return any(_PARTS[name].mu for name in defense.split("+"))


def check_defense(defense: str, options: dict[str, Any]) -> None:
    """Check a name and its options.

    Raises:
        ValueError: if a part or an option is not known, or parts do not go together.
    """
    names = defense.split("+")
    if any(name not in NAMES for name in names):
        raise ValueError(f"`defense` should be one of {', '.join(NAMES)}, or some joined by +. Received: {defense!r}")
    alone = len(names) > 1 and "none" in names
    for one in ([n for n in names if _PARTS[n].mu], [n for n in names if "epsilon" in _PARTS[n].options]):
        alone = alone or len(one) > 1
    if alone or len(set(names)) < len(names):
        raise ValueError(
            f"`defense` should join at most one part with a mu and one with an epsilon. Received: defense={defense!r}"
        )
    known = {key for name in names for key in _PARTS[name].options}
    if unknown := sorted(set(options) - known):
        expected = f"some of {', '.join(sorted(known))}" if known else "empty"
        raise ValueError(f"`defense_options` of {defense} should be {expected}. Received: {', '.join(unknown)}")
    usual = {key: default for name in names for key, default in _PARTS[name].options.items()}
    for key, value in options.items():
        expected, types = _KINDS[type(usual[key])]
        undecided = value is None and usual[key] is None
        if not undecided and (not isinstance(value, types) or isinstance(value, bool)):
            raise ValueError(f"`{key}` should be {expected}. Received: {key}={value!r}")
    if options.get("norm", "l2") not in _NORMS:
        raise ValueError(f"`norm` should be l2 or linf. Received: norm={options['norm']!r}")


def default_weights(defense: str, data: str) -> dict[str, float]:
    """The attributes of a training configuration that a defence sets: μ, its warm-up, label smoothing.

    Label smoothing is that which the default μ of the Fisher trace comes to. Without a μ it is 0.
    """
    names, usual = defense.split("+"), default_mu(info(data).num_classes)
    found = {"mu": 0.0}
    for part in (_PARTS[name] for name in names if name in NAMES):
        if part.mu:
            found["mu"] = usual if part.mu is _BY_CLASSES else part.mu[data not in _MNIST]
            if part.build is not None and data not in _MNIST:
                found["mu_warmup_epochs"] = 3.0
    if "label-smoothing" in names:
        found["label_smoothing"] = round(label_smoothing_from_mu(usual, info(data).num_classes), 3)
    return found


def default_options(defense: str, data: str, given: dict[str, Any]) -> dict[str, Any]:
    """All options of a defence: those given, the others as they suit the data set."""
    found: dict[str, Any] = {}
    for part in (_PARTS[name] for name in defense.split("+") if name in NAMES):
        mine = {**part.options, **{key: value for key, value in given.items() if key in part.options}}
        if "epsilon" in mine and mine["epsilon"] is None:
            norm = part.norm or mine["norm"]
            mine["epsilon"] = _EPSILONS[norm][data not in _MNIST] if norm in list(_NORMS) else None
        found.update(mine)
    return {**found, **given}


def defended(model: keras.Model, defense: str, *, mu: float, seed: int, options: dict[str, Any]) -> keras.Model:
    """A classifier inside the defences that change more than the loss; the classifier itself where there is none.

    Those that choose the images are inside; the one with the μ is outermost.

    Args:
        model: a built classifier.
        defense: a name of `NAMES`, or some joined by ``+``.
        mu: weight μ of the part that has one.
        seed: of what they draw.
        options: all of them, as `default_options` gives them.

    Returns:
        What to compile and fit.
    """
    parts = [_PARTS[name] for name in defense.split("+")]
    for part in sorted(parts, key=lambda part: ("epsilon" not in part.options, part.mu is not None)):
        if part.build is not None:
            mine = {key: options[key] for key in part.options}
            model = part.build(model, **({"mu": mu} if part.mu else {}), **mine, seed=seed)
    return model


def overfitting_watch(
    defense: str, options: dict[str, Any], images: tf.data.Dataset, history: Sequence[Mapping[str, float]] = ()
) -> list[keras.callbacks.Callback]:
    """A watch on catastrophic overfitting with the ε of adversarial training; empty for other defences.

    Args:
        defense: a name of `NAMES`, or some joined by ``+``.
        options: all of them, as `default_options` gives them.
        images: batches not trained on.
        history: rows of metrics of the epochs before, which a collapse is measured against.

    Returns:
        One callback, or none.
    """
    lowest = min((row["fooled_iterative"] for row in history if "fooled_iterative" in row), default=np.inf)
    for part in (_PARTS[name] for name in defense.split("+")):
        if "epsilon" in part.options:
            budget = {"epsilon": options["epsilon"], "norm": _NORMS[part.norm or options["norm"]]}
            budget["one_step"] = _OSSA if part.build is _ossa else None
            return [defenses.CatastrophicOverfitting(*samples(images, 256), **budget, lowest=lowest)]
    return []
