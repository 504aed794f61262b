"""The attacks of Foolbox 3."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import tensorflow as tf

from keras_fim.attacks.adapters.common import Classifier, ForeignAttack, ForeignSearch, library
from keras_fim.attacks.lp import check_norm, norm_name

__all__ = ["Foolbox", "FoolboxAttack", "FoolboxSearch"]


def Foolbox(  # noqa: N802 - reads as the classes beside it
    attack: Any,
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    batch_size: int = 128,
    seed: int = 0,
    progress: bool = False,
) -> FoolboxAttack | FoolboxSearch:
    """An attack object of Foolbox 3.

    Args:
        attack: what ``foolbox.attacks`` makes, with an lp distance; ``repeat`` included.
        bounds: as with every attack.
        batch_size: as with every attack.
        seed: has no effect: Foolbox draws from the global generators of TensorFlow and NumPy, which
            ``keras.utils.set_random_seed`` seeds.
        progress: as with every attack.

    Returns:
        A fixed-budget attack for Foolbox' fixed-epsilon attacks, a minimal-distance attack for its minimization
        attacks. The detail ``projected`` of a fixed-budget result marks samples for which Foolbox left the ball by more
        than rounding, so that they were projected. Equality is that of the attack objects, which is identity.

    Raises:
        ImportError: if Foolbox is missing: ``pip install 'keras_fim[peers]'``.
        ValueError: if it is not such an attack.

    Source:
        Rauber et al., Foolbox native: fast adversarial attacks to benchmark the robustness of machine learning models
        in PyTorch, TensorFlow, and JAX (JOSS 2020).
    """
    base = library("foolbox.attacks.base", "Foolbox", "keras_fim[peers]")
    options = {"attack": attack, "bounds": bounds, "batch_size": batch_size, "seed": seed, "progress": progress}
    if isinstance(_innermost(attack), base.FixedEpsilonAttack):
        return FoolboxAttack(**options)
    if isinstance(_innermost(attack), base.MinimizationAttack):
        return FoolboxSearch(**options)
    raise ValueError(f"`attack` should be an attack object of Foolbox. Received: attack={attack!r}")


class _Wrapped:
    """What both kinds have."""

    attack: Any
    bounds: tuple[float, float]
    batch_size: int

    def _check_norm(self) -> None:
        check_norm(getattr(self.attack.distance, "p", None), (0, 1, 2, np.inf))  # type: ignore[arg-type]

    @property
    def norm(self) -> float:
        """That of the attack's distance."""
        return float(self.attack.distance.p)

    @property
    def name(self) -> str:
        """``foolbox_``, the class without its norm and ``Attack``, and the norm."""
        words = re.sub(r"^L(0|1|2|[Ii]nf(inity)?)(?=[A-Z])|Attack$", "", type(_innermost(self.attack)).__name__)
        snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", words).lower()
        return f"foolbox_{snake}_{norm_name(self.norm)}"

    def __repr__(self) -> str:
        return f"Foolbox({self.attack!r}, bounds={self.bounds}, batch_size={self.batch_size})"

    def _answer(self, classifier: Classifier, images: tf.Tensor, labels: tf.Tensor, epsilon: float | None) -> tf.Tensor:
        foolbox = library("foolbox", "Foolbox", "keras_fim[peers]")
        bounds = tuple(float(np.float32(bound)) for bound in self.bounds)  # it looks whether float32 images exceed them
        model = foolbox.TensorFlowModel(classifier, bounds, device="/CPU:0")  # of an empty tensor; the model stays
        return self.attack(model, images, foolbox.Misclassification(labels), epsilons=epsilon)[1]


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class FoolboxAttack(_Wrapped, ForeignAttack):
    """A fixed-epsilon attack of Foolbox; made by `Foolbox`."""

    attack: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_norm()

    def generate(
        self, classifier: Classifier, images: tf.Tensor, labels: tf.Tensor, epsilon: float, seed: int
    ) -> tf.Tensor:
        """Foolbox' answer."""
        return self._answer(classifier, images, labels, epsilon)


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class FoolboxSearch(_Wrapped, ForeignSearch):
    """A minimization attack of Foolbox; made by `Foolbox`."""

    attack: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_norm()

    def generate(
        self, classifier: Classifier, images: tf.Tensor, labels: tf.Tensor, epsilon: None, seed: int
    ) -> tf.Tensor:
        """Foolbox' answer."""
        return self._answer(classifier, images, labels, None)


def _innermost(attack: Any) -> Any:
    """The attack that others repeat."""
    while hasattr(attack, "times") and hasattr(attack, "attack"):
        attack = attack.attack
    return attack
