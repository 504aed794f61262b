"""Attacks of other libraries as ours: what a library sees of the classifier, and what becomes of its answer.

A library's part is a frozen dataclass derived from `Method`; `wrapped` makes an attack of it. The attacks of Foolbox 3
and of ART, the Adversarial Robustness Toolbox, are objects that a user makes.
"""

import abc
import dataclasses
import operator
import re
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_fim._lazy import library
from keras_fim.arguments import expect
from keras_fim.attacks import kinds, lp
from keras_fim.attacks.samples import Task, choose, put, take
from keras_fim.geometry import jacobian
from keras_fim.logits import LogitsFunction, predict_logits


class Classifier(NamedTuple):
    """A logits function as the libraries want it: float32 in, float32 out, compiled; lives no longer than the model.

    Attributes:
        logits_fn: the classifier.
        dtype: what it works on.
    """

    logits_fn: LogitsFunction
    dtype: tf.DType

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        """Logits ``(batch, K)`` of float32 images."""
        return self.logits_fn.compiled(_logits, self.dtype)(images)

    def gradient(self, loss_fn: Callable[..., tf.Tensor], images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """Gradient in the images of ``loss_fn(labels=, logits=)``, as ``images``."""
        return self.logits_fn.compiled(_gradient, self.dtype, loss_fn)(images, labels)


@dataclasses.dataclass(frozen=True)
class Method(abc.ABC):
    """An attack of another library, on images in [0, 1]: the lengths among its own options are in these units, too.

    Attributes:
        name: The library, the attack and the norm.
        norm: The p of the lp norm that ε and the distances are in.
        call: The call that makes it, without the options of every attack and the last bracket.
    """

    name: str
    norm: float
    call: str

    @abc.abstractmethod
    def generate(self, classifier: Classifier, task: Task, epsilon: float | None, seed: int) -> Any:
        """The library's answer for float32 images: points ``(batch, ...)``; ε is None for the smallest distance."""

    def points(self, logits_fn: LogitsFunction, task: Task, epsilon: float | None) -> tf.Tensor:
        """What it generates, in the dtype and the range of the images, which stay where it has no finite answer."""
        classifier, seed = Classifier(logits_fn, task.images.dtype), int(task.keys[0]) % 2**31
        answer = self.generate(classifier, task._replace(images=tf.cast(task.images, tf.float32)), epsilon, seed)
        points = tf.cast(tf.convert_to_tensor(np.asarray(answer)), task.images.dtype)
        finite = tf.reduce_all(tf.math.is_finite(points), axis=tuple(range(1, points.shape.rank)))
        return tf.clip_by_value(choose(finite, points, task.images), 0, 1)


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class _Wrapped:
    """What both kinds have; made by `wrapped`."""

    method: Method

    compiled: ClassVar[bool] = False
    by_gradients: ClassVar[bool] = False

    name = property(operator.attrgetter("method.name"), doc="That of the method.")
    norm = property(operator.attrgetter("method.norm"), doc="That of the method.")

    def __repr__(self) -> str:
        options = ", ".join(f"{option}={getattr(self, option)!r}" for option in ("bounds", "batch_size", "seed"))
        return f"{self.method.call}, {options})"


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class ForeignAttack(_Wrapped, kinds.FixedBudgetAttack):
    """A fixed-budget attack of another library, which knows one ε at a time.

    The detail ``projected`` of a result marks samples for which the library left the ball by more than rounding, so
    that they were projected.
    """

    def prepare(self, logits_fn: LogitsFunction, task: Task) -> tuple[tf.Tensor, ...]:
        """Logits."""
        return (logits_fn.compiled(predict_logits)(task.images),)

    def perturb(self, logits_fn: LogitsFunction, task: Task, state: tuple[Any, ...]) -> kinds.Perturbed:
        """The method's answer for each ε that occurs, in the ball and the unit cube; an ε of 0 returns the image."""
        points, budgets = tf.identity(task.images), task.epsilon.numpy()
        for budget in np.unique(budgets[budgets > 0]):
            rows = tf.constant(np.flatnonzero(budgets == budget))
            points = put(points, rows, self.method.points(logits_fn, take(task, rows), float(budget)))
        slack = 1e-6 * np.maximum(budgets, 1.0)
        outside = lp.norms(points.numpy().astype(np.float64) - task.images.numpy(), self.norm) > budgets + slack
        points = choose(tf.constant(outside), lp.project_inside(points, task.images, task.epsilon, self.norm), points)
        return kinds.Perturbed(points, logits_fn.compiled(predict_logits)(points), {"projected": tf.constant(outside)})


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class ForeignSearch(_Wrapped, kinds.SearchAttack):
    """A minimal-distance attack of another library."""

    def search(self, logits_fn: LogitsFunction, task: Task) -> kinds.Perturbed:
        """The method's answer."""
        return kinds.Perturbed(self.method.points(logits_fn, task, None))


def wrapped(method: Method, minimal: bool, **options: Any) -> ForeignAttack | ForeignSearch:
    """A method as one of our attacks.

    Args:
        method: the method.
        minimal: whether it looks for the smallest distance, and takes no ε.
        **options: ``bounds``, ``batch_size``, ``seed`` and ``progress``, as with every attack.
    """
    return (ForeignSearch if minimal else ForeignAttack)(method=method, **options)


def _logits(dtype: tf.DType, logits_fn: LogitsFunction, images: tf.Tensor) -> tf.Tensor:
    return tf.cast(logits_fn(tf.cast(images, dtype)), tf.float32)


def _gradient(
    dtype: tf.DType, loss_fn: Callable[..., tf.Tensor], logits_fn: LogitsFunction, images: tf.Tensor, labels: tf.Tensor
) -> tf.Tensor:
    with jacobian.watched(images) as tape:
        loss = loss_fn(labels=labels, logits=_logits(dtype, logits_fn, images))
    return jacobian.gradient(tape, loss, images)


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
    base = library("foolbox.attacks.base", "attacks.Foolbox")
    innermost = attack
    while hasattr(innermost, "times") and hasattr(innermost, "attack"):  # which repeat others
        innermost = innermost.attack
    kind = type(innermost)
    valid = issubclass(kind, (base.FixedEpsilonAttack, base.MinimizationAttack))
    expect(valid, "attack", "an attack object of Foolbox", attack)
    norm = lp.check_norm(getattr(attack.distance, "p", None), (0, 1, 2, np.inf))  # type: ignore[arg-type]
    words = re.sub(r"^L(0|1|2|[Ii]nf(inity)?)(?=[A-Z])|Attack$", "", kind.__name__)
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", words).lower()
    method = _Object(f"foolbox_{snake}_{lp.norm_name(norm)}", norm, f"Foolbox({attack!r}", attack)
    return wrapped(method, issubclass(kind, base.MinimizationAttack), **options)


@dataclasses.dataclass(frozen=True)
class _Object(Method):
    """An attack object."""

    attack: Any

    def generate(self, classifier: Classifier, task: Task, epsilon: float | None, seed: int) -> tf.Tensor:
        """Foolbox' answer."""
        foolbox = library("foolbox", "attacks.Foolbox")
        model = foolbox.TensorFlowModel(classifier, (0.0, 1.0), device="/CPU:0")  # of an empty tensor; the model stays
        return self.attack(model, task.images, foolbox.Misclassification(task.labels), epsilons=epsilon)[1]


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
    norm = lp.check_norm(norm, (0, 1, 2, np.inf) if minimal else (1, 2, np.inf))
    expected = "a function of a classifier that makes an attack of ART"
    expect(callable(attack_factory), "attack_factory", expected, attack_factory)
    factory = getattr(attack_factory, "func", attack_factory)  # that of a functools.partial
    middle = str(label or getattr(factory, "__name__", type(factory).__name__))
    name = f"art_{re.sub('[^a-z0-9]+', '_', middle.lower()).strip('_')}_{lp.norm_name(norm)}"
    call = f"ART({attack_factory!r}, norm={norm}{', minimal=True' if minimal else ''}, label={label!r}"
    return wrapped(_Made(name, norm, call, attack_factory), minimal, **options)


@dataclasses.dataclass(frozen=True)
class _Made(Method):
    """What a factory makes."""

    attack_factory: Callable[..., Any]

    def generate(self, classifier: Classifier, task: Task, epsilon: float | None, seed: int) -> np.ndarray:
        """ART's answer."""
        images, num_classes = task.images.numpy(), classifier(task.images[:1]).shape[-1]
        estimator = library("art.estimators.classification", "attacks.ART").TensorFlowV2Classifier(
            model=lambda points, training=False: classifier(tf.cast(points, tf.float32)),
            nb_classes=num_classes,
            input_shape=images.shape[1:],
            # of the mean over the batch, gradients would fall under ART's tolerance sooner
            loss_object=keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum"),
            clip_values=(0.0, 1.0),
        )
        attack = self.attack_factory(estimator, **({} if epsilon is None else {"epsilon": epsilon}))
        expect(not getattr(attack, "targeted", False), "attack_factory", "a maker of untargeted attacks", attack)
        if "verbose" in getattr(attack, "attack_params", ()):
            attack.set_params(verbose=False)
        if isinstance(attack, library("art.attacks.evasion", "attacks.ART").SaliencyMapMethod):
            return np.asarray(attack.generate(images))
        return np.asarray(attack.generate(images, y=np.eye(num_classes, dtype=np.float32)[task.labels.numpy()]))
