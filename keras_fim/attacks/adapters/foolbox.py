"""The attacks of Foolbox 3."""

import dataclasses
import re
from typing import Any

import numpy as np
import tensorflow as tf

from keras_fim.attacks.adapters.common import Classifier, ForeignAttack, ForeignSearch, Method, library, wrapped
from keras_fim.attacks.lp import check_norm, norm_name


def Foolbox(attack: Any, **options: Any) -> ForeignAttack | ForeignSearch:  # noqa: N802 - reads as the classes
    """An attack object of Foolbox 3.

    Args:
        attack: what ``foolbox.attacks`` makes, with an lp distance; ``repeat`` included. Whatever the bounds, it sees
            images in [0, 1], and lengths among its own options are in these units.
        **options: ``bounds``, ``batch_size`` and ``progress`` as with every attack. ``seed`` has no effect: Foolbox
            draws from the global generators of TensorFlow and NumPy, which ``keras.utils.set_random_seed`` seeds.

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
    if not isinstance(_innermost(attack), (base.FixedEpsilonAttack, base.MinimizationAttack)):
        raise ValueError(f"`attack` should be an attack object of Foolbox. Received: attack={attack!r}")
    check_norm(getattr(attack.distance, "p", None), (0, 1, 2, np.inf))  # type: ignore[arg-type]
    return wrapped(_Object(attack), isinstance(_innermost(attack), base.MinimizationAttack), **options)


@dataclasses.dataclass(frozen=True)
class _Object(Method):
    """An attack object."""

    attack: Any

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

    @property
    def call(self) -> str:
        """The argument of `Foolbox`."""
        return f"Foolbox({self.attack!r}"

    def generate(
        self, classifier: Classifier, images: tf.Tensor, labels: tf.Tensor, epsilon: float | None, seed: int
    ) -> tf.Tensor:
        """Foolbox' answer."""
        foolbox = library("foolbox", "Foolbox", "keras_fim[peers]")
        model = foolbox.TensorFlowModel(classifier, (0.0, 1.0), device="/CPU:0")  # of an empty tensor; the model stays
        return self.attack(model, images, foolbox.Misclassification(labels), epsilons=epsilon)[1]


def _innermost(attack: Any) -> Any:
    """The attack that others repeat."""
    while hasattr(attack, "times") and hasattr(attack, "attack"):
        attack = attack.attack
    return attack
