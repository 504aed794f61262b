"""The attacks of Foolbox 3 and of ART, the Adversarial Robustness Toolbox, as objects that a user makes."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_fim.arguments import expect
from keras_fim.attacks.adapters.common import Classifier, ForeignAttack, ForeignSearch, Method, library, wrapped
from keras_fim.attacks.lp import check_norm, norm_name
from keras_fim.attacks.samples import Task


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
    norm = check_norm(getattr(attack.distance, "p", None), (0, 1, 2, np.inf))  # type: ignore[arg-type]
    words = re.sub(r"^L(0|1|2|[Ii]nf(inity)?)(?=[A-Z])|Attack$", "", type(_innermost(attack)).__name__)
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", words).lower()
    method = _Object(f"foolbox_{snake}_{norm_name(norm)}", norm, f"Foolbox({attack!r}", attack)
    return wrapped(method, isinstance(_innermost(attack), base.MinimizationAttack), **options)


@dataclasses.dataclass(frozen=True)
class _Object(Method):
    """An attack object."""

    attack: Any

    def generate(self, classifier: Classifier, task: Task, epsilon: float | None, seed: int) -> tf.Tensor:
        """Foolbox' answer."""
        foolbox = library("foolbox", "Foolbox", "keras_fim[peers]")
        model = foolbox.TensorFlowModel(classifier, (0.0, 1.0), device="/CPU:0")  # of an empty tensor; the model stays
        return self.attack(model, task.images, foolbox.Misclassification(task.labels), epsilons=epsilon)[1]


def _innermost(attack: Any) -> Any:
    """The attack that others repeat."""
    while hasattr(attack, "times") and hasattr(attack, "attack"):
        attack = attack.attack
    return attack


def ART(  # noqa: N802 - reads as the classes beside it
    attack_factory: Callable[..., Any], *, norm: float, minimal: bool = False, label: str | None = None, **options: Any
) -> ForeignAttack | ForeignSearch:
    """An evasion attack of ART.

    Args:
        attack_factory: makes the attack, untargeted, once a model is known: called as
            ``attack_factory(classifier, epsilon=...)``, or ``attack_factory(classifier)`` with ``minimal``. Give it
            ART's own ``batch_size``, which is often 1. Whatever the bounds, it sees images in [0, 1], and ε in these
            units.
        norm: the p of the lp norm that ε and the distances are in; 1, 2 or inf, and 0 with ``minimal``.
        minimal: whether it is an attack that looks for the smallest distance, and takes no ε.
        label: the middle of the attack's name; ``None`` for the name of the factory.
        **options: ``bounds``, ``batch_size`` and ``progress`` as with every attack. ``seed`` has no effect: ART draws
            from the global generators of TensorFlow and NumPy, which ``keras.utils.set_random_seed`` seeds.

    Returns:
        A fixed-budget attack, or a minimal-distance attack with ``minimal``. The detail ``projected`` of a fixed-budget
        result marks samples for which ART left the ball by more than rounding, so that they were projected. ART's
        saliency maps (JSMA) take labels for targets only: they get none, and choose targets at random.

    Raises:
        ImportError: when it is called, if ART is missing: ``pip install 'keras_fim[peers]'``.
        ValueError: if the norm is not one of those, the factory cannot be called or makes a targeted attack.

    Example:
        >>> def pgd(classifier, epsilon):
        ...     from art.attacks.evasion import ProjectedGradientDescent
        ...
        ...     return ProjectedGradientDescent(classifier, eps=epsilon, eps_step=epsilon / 10, batch_size=128)
        >>> ART(pgd, norm=np.inf).name
        'art_pgd_linf'

    Source:
        Nicolae et al., Adversarial Robustness Toolbox v1.0.0 (arXiv 1807.01069).
    """
    norm = check_norm(norm, (0, 1, 2, np.inf) if minimal else (1, 2, np.inf))
    expected = "a function of a classifier that makes an attack of ART"
    expect(callable(attack_factory), "attack_factory", expected, attack_factory)
    factory = getattr(attack_factory, "func", attack_factory)  # that of a functools.partial
    middle = str(label or getattr(factory, "__name__", type(factory).__name__))
    name = f"art_{re.sub('[^a-z0-9]+', '_', middle.lower()).strip('_')}_{norm_name(norm)}"
    call = f"ART({attack_factory!r}, norm={norm}{', minimal=True' if minimal else ''}, label={label!r}"
    return wrapped(_Made(name, norm, call, attack_factory), minimal, **options)


@dataclasses.dataclass(frozen=True)
class _Made(Method):
    """What a factory makes."""

    attack_factory: Callable[..., Any]

    def generate(self, classifier: Classifier, task: Task, epsilon: float | None, seed: int) -> np.ndarray:
        """ART's answer."""
        images, num_classes = task.images.numpy(), classifier(task.images[:1]).shape[-1]
        estimator = _art("art.estimators.classification").TensorFlowV2Classifier(
            model=lambda points, training=False: classifier(tf.cast(points, tf.float32)),
            nb_classes=num_classes,
            input_shape=images.shape[1:],
            # of the mean over the batch, gradients would fall under ART's tolerance sooner
            loss_object=keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum"),
            clip_values=(0.0, 1.0),
        )
        attack = self.attack_factory(estimator, **({} if epsilon is None else {"epsilon": epsilon}))
        if getattr(attack, "targeted", False):
            raise ValueError(f"`attack_factory` should make an untargeted attack. Received: {attack!r}")
        if "verbose" in getattr(attack, "attack_params", ()):
            attack.set_params(verbose=False)
        if isinstance(attack, _art("art.attacks.evasion").SaliencyMapMethod):
            return np.asarray(attack.generate(images))
        return np.asarray(attack.generate(images, y=np.eye(num_classes, dtype=np.float32)[task.labels.numpy()]))


def _art(module: str) -> Any:
    return library(module, "ART", "keras_fim[peers]")
