"""The defenses that a training run can name, alone or joined by ``+``, and what suits each dataset."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from keras_fim.arguments import expect, require
from keras_fim.records import read_json

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from keras_fim.data import DatasetInfo
    from keras_fim.training.config import TrainingConfig

_NORMS = {"l2": 2.0, "linf": math.inf}
_MNIST = ("mnist", "mnist5k")
# The values that an option takes, by the type of its default. A default of None depends on the dataset: a number.
_NUMBER: tuple[str, tuple[type, ...]] = ("a number", (int, float))
_KINDS = {float: _NUMBER, type(None): _NUMBER, int: ("an integer", (int,)), str: ("a string", (str,))}


class _Part(NamedTuple):
    """A defense.

    Attributes:
        options: The options with their defaults; an ε of None depends on the dataset, a σ of None on the range.
        norm: The norm of ε, for a defense without the option ``norm``.
        mu: The default weight μ on MNIST and on other datasets, ``"by classes"`` for `default_mu`; None for a defense
            without μ.
        loss_only: Whether the defense only changes the loss, and trains the classifier itself.
    """

    options: dict[str, Any] = {}  # noqa: RUF012 - never written to
    norm: str | None = None
    mu: Sequence[float] | str | None = None
    loss_only: bool = False


_PARTS = {name: _Part(**part) for name, part in read_json(Path(__file__).with_name("defenses.json")).items()}
NAMES = tuple(_PARTS)
COMPARED = ("fisher-trace", "label-smoothing", "n-fgm", "spectral", "pgd")
"""The defenses that are compared with plain training by default."""
_EPSILONS = {"l2": (2.0, 0.25), "linf": (0.1, 2 / 255)}  # on MNIST and on the paper's two other datasets
_SIGMA = 0.25  # of the noise of Gaussian augmentation, on images in [0, 1]
_COLOR_NAMES = ("cifar10", "gtsrb")


def _ossa_step() -> Any:
    from keras_fim import attacks

    return attacks.OSSA(method="krylov", max_steps=1)


def _builders() -> dict[str, Callable[..., keras.Model]]:
    """What builds each defense from a classifier or another defense, its options and a seed."""
    from keras_fim import attacks, defenses

    def pgd(model: keras.Model, *, norm: float, attack_steps: int, step_size: float, **options: Any) -> keras.Model:
        attack = attacks.PGD(norm=norm, steps=attack_steps, step_size=step_size, keep_best=False)
        return defenses.AdversarialTraining(model, attack, **options)

    return {
        "adversarial-label-smoothing": defenses.AdversarialLabelSmoothing,
        "n-fgsm": defenses.n_fgsm,
        "n-fgm": defenses.n_fgm,
        "pgd": pgd,
        "ossa": functools.partial(defenses.AdversarialTraining, attack=_ossa_step()),
        "trades": defenses.TRADES,
        "gaussian": defenses.GaussianAugmentation,
        "gradient-penalty": defenses.GradientPenalty,
        "spectral": defenses.SpectralDefense,
        "spectral-trace": functools.partial(defenses.SpectralDefense, penalty="trace"),
    }


def _parts(defense: str) -> list[_Part]:
    """The parts of a defense; unknown ones are left out."""
    return [_PARTS[name] for name in defense.split("+") if name in _PARTS]


def check_defense(defense: str, options: dict[str, Any], mu: float = 0.0) -> None:
    """Check a name, its options and the weight μ.

    Raises:
        ValueError: If a part or an option is unknown, the parts do not go together, or none of them has a weight.
    """
    names = defense.split("+")
    allowed = f"one of {', '.join(NAMES)}, or several joined by +"
    expect(set(names) <= set(NAMES), "defense", allowed, received=repr(defense))
    with_mu = [part for part in _parts(defense) if part.mu]
    with_epsilon = [part for part in _parts(defense) if "epsilon" in part.options]
    together = len(set(names)) == len(names) and (len(names) == 1 or "none" not in names)
    fits = together and len(with_mu) < 2 and len(with_epsilon) < 2
    expected = "join at most one part with a mu and one with an epsilon"
    require(fits, f"`defense` should {expected}. Received: defense={defense!r}")
    usual = {key: default for part in _parts(defense) for key, default in part.options.items()}
    if unknown := sorted(set(options) - set(usual)):
        expected = f"some of {', '.join(sorted(usual))}" if usual else "empty"
        raise ValueError(f"`defense_options` of {defense} should be {expected}. Received: {', '.join(unknown)}")
    for key, value in options.items():
        expected, types = _KINDS[type(usual[key])]
        undecided = value is None and usual[key] is None
        expect(undecided or (isinstance(value, types) and not isinstance(value, bool)), key, expected, value)
    expect(options.get("norm", "l2") in _NORMS, "norm", "l2 or linf", options.get("norm"))
    expect(not mu or bool(with_mu), "mu", f"0 with the defense {defense}", mu)


def default_weights(defense: str, facts: DatasetInfo) -> dict[str, float]:
    """The attributes of a training configuration that a defense sets: μ, its warm-up, label smoothing.

    Label smoothing matches the default μ of the Fisher trace. A defense without μ has the weight 0.
    """
    from keras_fim.geometry.simplex import default_mu, label_smoothing_from_mu

    names, num_classes = defense.split("+"), facts.num_classes
    weights = {"mu": 0.0}
    for part in _parts(defense):
        if part.mu:
            by_classes = part.mu == "by classes"
            weights["mu"] = default_mu(num_classes) if by_classes else float(part.mu[facts.name not in _MNIST])
            if not part.loss_only and facts.name not in _MNIST:
                weights["mu_warmup_epochs"] = 3.0
    if "label-smoothing" in names:
        weights["label_smoothing"] = round(label_smoothing_from_mu(default_mu(num_classes), num_classes), 3)
    return weights


def default_options(
    defense: str, facts: DatasetInfo, given: dict[str, Any], bounds: Sequence[float] | None = None
) -> dict[str, Any]:
    """All options of a defense: those given, and the others as they suit the dataset and the range of the pixels."""
    low, high = bounds or (0.0, 1.0)
    options: dict[str, Any] = {}
    for part in _parts(defense):
        mine = {**part.options, **{key: value for key, value in given.items() if key in part.options}}
        if "epsilon" in mine and mine["epsilon"] is None:
            norm = part.norm or mine["norm"]
            mine["epsilon"] = (high - low) * _epsilon(norm, facts) if norm in list(_NORMS) else None
        if "sigma" in mine and mine["sigma"] is None:
            mine["sigma"] = _SIGMA * (high - low)
        options.update(mine)
    return {**options, **given}


def _epsilon(norm: str, facts: DatasetInfo) -> float:
    """The budget on images in [0, 1]; on a dataset that is new to us 8/255 in l∞, in l2 0.5 at 32x32x3."""
    if facts.name in (*_MNIST, *_COLOR_NAMES):
        return _EPSILONS[norm][facts.name not in _MNIST]
    return 8 / 255 if norm == "linf" else round(0.5 * math.sqrt(math.prod(facts.image_shape) / 3072), 3)


def defended(config: TrainingConfig, model: keras.Model) -> keras.Model:
    """A classifier inside the defenses of a run that change more than the loss; itself if there are none.

    Defenses that choose the images are inside; the one with μ is outermost.

    Args:
        config: The run.
        model: A built classifier.

    Returns:
        The model to compile and fit.
    """
    bounds = None if config.bounds is None else config.pixels  # which the model says itself
    options = config.all_options
    parts = {name: _PARTS[name] for name in config.defense.split("+") if not _PARTS[name].loss_only}
    order = sorted(parts, key=lambda name: ("epsilon" not in parts[name].options, parts[name].mu is not None))
    for name in order:
        mine = {key: options[key] for key in parts[name].options} | ({"mu": config.mu} if parts[name].mu else {})
        if "norm" in mine:
            mine["norm"] = _NORMS[mine["norm"]]
        model = _builders()[name](model, **mine, seed=config.seed, bounds=bounds)
    return model


def budget(config: TrainingConfig) -> tuple[float, float] | None:
    """The norm and ε of a run's adversarial training; None for a defense without it."""
    options = config.all_options
    norms = [part.norm or options["norm"] for part in _parts(config.defense) if "epsilon" in part.options]
    return (_NORMS[norms[0]], float(options["epsilon"])) if norms else None


def overfitting_watch(
    config: TrainingConfig, images: tf.data.Dataset, history: Sequence[Mapping[str, float]] = ()
) -> list[keras.callbacks.Callback]:
    """A watch on catastrophic overfitting with the ε of adversarial training; empty for other defenses.

    Args:
        config: The run.
        images: Batches that are not trained on.
        history: The metrics of earlier epochs, against which a collapse is measured.

    Returns:
        One callback, or none.
    """
    from keras_fim import defenses
    from keras_fim.evaluation import samples

    if (own := budget(config)) is None:
        return []
    lowest = min((row["fooled_iterative"] for row in history if "fooled_iterative" in row), default=math.inf)
    options: dict[str, Any] = {"norm": own[0], "epsilon": own[1], "bounds": config.pixels, "lowest": lowest}
    step = _ossa_step() if "ossa" in config.defense.split("+") else None
    return [defenses.CatastrophicOverfitting(*samples(images, 256), **options, one_step=step)]
