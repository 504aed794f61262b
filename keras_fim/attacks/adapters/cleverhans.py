"""The attacks of CleverHans 4.0, and what makes them run under Keras 3.

What does not work as it stands, and what is done about it. The installed package stays as it is: its functions are
copied, and the copies see other things under some of their global names.

* its gradient is a function compiled at the level of the module, which keeps every model alive: one compiled with the
  model takes its place;
* its cross-entropy has the gradient ``p - y`` in the logits, rounded to a few digits (and then to none) where p_y is
  close to 1: unless a ``loss_fn`` is given, the same loss is computed as `cross_entropy` below;
* the sanity checks of BIM and Madry raise: they are off, `keras_fim.validation` has looked at the images;
* PGD asserts ``eps_iter <= eps``: a step is never longer than ε, and for ε = 0 the library is not called;
* Carlini-Wagner calls ``optimizer.variables()``, a property in Keras 3, and zeroes what it holds, the learning rate
  too: it gets an optimizer with that method, which leaves the learning rate out;
* Carlini-Wagner takes any given label as a target: labels are given after construction, untargeted;
* Carlini-Wagner makes its constant in the shape of the images, so that it multiplies the loss by pixels times batch
  size (and fails on color images): it gets one for each image;
* SPSA passes ``lr=`` to Adam and takes one image at a time: it gets an optimizer that starts, and one at a time;
* random numbers come from global generators: they are drawn from the attack's seed.
"""

import dataclasses
import functools
import types
from collections.abc import Callable, Iterable
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_fim._lazy import library
from keras_fim.arguments import expect
from keras_fim.attacks import losses, lp, samples
from keras_fim.attacks.adapters.foreign import Classifier, ForeignAttack, ForeignSearch, Method, wrapped
from keras_fim.records import read_json

_METHODS = read_json(Path(__file__).with_suffix(".json"))
"""What each attack takes: its norms, of which the first is the default, and its parameters with their defaults here.

``null`` leaves the choice to CleverHans or, for the length of a step, to ``travel``, which is the length of all steps
together as a multiple of ε.
"""
_SHARED = ("bounds", "batch_size", "seed", "progress")
_COUNTS = ("nb_iter", "binary_search_steps", "max_iterations", "spsa_samples", "spsa_iters")
_POSITIVE = ("eps_iter", "step_size", "initial_const", "learning_rate", "delta", "rand_minmax")


def CleverHans(  # noqa: N802 - reads as the classes beside it
    attack: str, *, norm: float | None = None, **parameters: Any
) -> ForeignAttack | ForeignSearch:
    """An attack of CleverHans 4.0, by its name there.

    Args:
        attack: ``fast_gradient_method``, ``projected_gradient_descent``, ``basic_iterative_method``,
            ``momentum_iterative_method``, ``madry_et_al`` or ``spsa``, which take ε; or ``carlini_wagner_l2``, which
            looks for the smallest distance.
        norm: 1, 2 or inf, as far as the attack knows it; ``None`` for inf (2 with ``carlini_wagner_l2``).
        **parameters: ``bounds``, ``batch_size``, ``seed`` and ``progress`` as with every attack (Carlini-Wagner stops
            early by the loss of a whole batch); and what the attack takes there, without images, labels, ε and bounds.
            The length of a step is ``eps_iter`` as it stands or ``step_size`` as a share of ε, by default 2.5 (BIM 2,
            MIM 1) over ``nb_iter``; none is longer than ε. Whatever the bounds, CleverHans sees images in [0, 1], and
            all lengths are in these units.

    Returns:
        A fixed-budget attack, or a minimal-distance attack for ``carlini_wagner_l2``. Labels are true labels. The
        detail ``projected`` of a fixed-budget result marks samples for which CleverHans left the ball by more than
        rounding, so that they were projected.

    Raises:
        ValueError: if there is no such attack, norm or parameter.

    Example:
        >>> attack = CleverHans("projected_gradient_descent", norm=2, nb_iter=5)
        >>> attack
        CleverHans('projected_gradient_descent', norm=2.0, nb_iter=5, bounds=(0.0, 1.0), batch_size=128, seed=0)
        >>> attack.name
        'cleverhans_projected_gradient_descent_l2'

    Source:
        Papernot et al., Technical report on the CleverHans v2.1.0 adversarial examples library (arXiv 1610.00768).
    """
    expect(attack in _METHODS, "attack", f"one of {', '.join(_METHODS)}", attack)
    norms = tuple(map(float, _METHODS[attack]["norms"]))
    norm = lp.check_norm(norms[0] if norm is None else norm, norms)
    options = {name: parameters.pop(name) for name in _SHARED if name in parameters}
    _check_parameters(attack, parameters)
    given = {"norm": norm, **dict(sorted(parameters.items()))}
    suffix = "" if attack.endswith(lp.norm_name(norm)) else f"_{lp.norm_name(norm)}"
    call = f"CleverHans({attack!r}, {', '.join(f'{key}={value!r}' for key, value in given.items())}"
    method = _Named(f"cleverhans_{attack}{suffix}", norm, call, attack, tuple(sorted(parameters.items())))
    return wrapped(method, attack == "carlini_wagner_l2", **options)


def cleverhans_attacks() -> list[tuple[str, float]]:
    """Each attack that `CleverHans` makes, with each norm that it takes."""
    return [(attack, norm) for attack, method in _METHODS.items() for norm in map(float, method["norms"])]


def _check_parameters(attack: str, given: dict[str, Any]) -> None:
    parameters = _METHODS[attack]["parameters"]
    for name, value in given.items():
        if name not in parameters:
            raise ValueError(f"`{attack}` takes the parameters {', '.join(parameters)}. Received: {name}={value!r}")
        number = isinstance(value, Real) and not isinstance(value, bool) and 0 < value < np.inf  # type: ignore[operator]
        expect(name not in _COUNTS or (number and isinstance(value, Integral)), name, "a positive integer", value)
        expect(name not in _POSITIVE or value is None or number, name, "a positive number", value)
        expect(name != "spsa_samples" or value % 2 == 0, name, "even", value)
    if given.get("eps_iter") is not None and given.get("step_size") is not None:
        raise ValueError("`eps_iter` and `step_size` exclude each other. Received: both")


@dataclasses.dataclass(frozen=True)
class _Named(Method):
    """An attack of CleverHans by its name there."""

    attack: str
    parameters: tuple[tuple[str, Any], ...]

    def generate(self, classifier: Classifier, task: samples.Task, epsilon: float | None, seed: int) -> tf.Tensor:
        """CleverHans' answer."""
        options = {"clip_min": 0.0, "clip_max": 1.0, **_METHODS[self.attack]["parameters"], **dict(self.parameters)}
        if epsilon is None:
            return carlini_wagner(classifier, task.images, task.labels, **options)
        options["eps"] = epsilon
        if self.attack == "spsa":
            attack = functools.partial(spsa(seed), classifier, **options)
            ones = [samples.take(task, slice(i, i + 1)) for i in range(len(task.images))]
            return tf.concat([attack(one.images, one.labels) for one in ones], axis=0)
        loss_fn = options.pop("loss_fn", None) or cross_entropy
        if self.attack != "fast_gradient_method":
            share = options.pop("step_size") or _METHODS[self.attack]["travel"] / options["nb_iter"]
            options["eps_iter"] = min(options["eps_iter"] or share * epsilon, epsilon)
        method = gradient_method(self.attack, classifier, loss_fn, seed)
        return method(classifier, task.images, y=task.labels, norm=self.norm, sanity_checks=False, **options)


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """``-log p_y`` as ``log(1 + (1 - p_y) / p_y)``, whose gradient keeps its digits on confident samples.

    Args:
        labels: class indices ``(batch,)``.
        logits: ``(batch, K)``.

    Returns:
        ``(batch,)``.
    """
    return tf.nn.softplus(losses.log_odds_against(logits, labels))


def gradient_method(
    name: str, classifier: Classifier, loss_fn: Callable[..., tf.Tensor], seed: int
) -> Callable[..., tf.Tensor]:
    """FGM, MIM, PGD or its shorthands with our gradient and random start."""

    def compute_gradient(model_fn: Any, theirs: Any, images: tf.Tensor, labels: tf.Tensor, targeted: bool) -> tf.Tensor:
        return classifier.gradient(loss_fn, images, labels)

    if name == "momentum_iterative_method":
        return _with(_module(name).momentum_iterative_method, compute_gradient=compute_gradient)
    step = _with(_module("fast_gradient_method").fast_gradient_method, compute_gradient=compute_gradient)
    if name == "fast_gradient_method":
        return step
    module = _module("projected_gradient_descent")
    start = _with(module.random_lp_vector, tf=_drawing_from(seed))
    descent = _with(module.projected_gradient_descent, fast_gradient_method=step, random_lp_vector=start)
    if name == "projected_gradient_descent":
        return descent
    return _with(getattr(_module(name), name), projected_gradient_descent=descent)


def carlini_wagner(classifier: Classifier, images: tf.Tensor, labels: tf.Tensor, **options: Any) -> tf.Tensor:
    """Untargeted Carlini-Wagner on images that are laid flat: it knows only those with three axes.

    Args:
        classifier: the classifier.
        images: float32 ``(batch, ...)``.
        labels: the true classes, ``(batch,)``.
        **options: of CleverHans' class.

    Returns:
        As ``images``; unchanged where it found nothing.
    """
    attack = _module("carlini_wagner_l2").CarliniWagnerL2(
        lambda flat: classifier(tf.reshape(flat, [-1, *images.shape[1:]])), **options
    )
    attack.y, attack.optimizer = labels, _Resettable(attack.optimizer)
    attack_batch = _with(type(attack)._attack, tf=_StandIn(tf, ones=lambda shape: tf.ones(shape[:1])))  # one for each
    return tf.reshape(attack_batch(attack, tf.reshape(images, [len(images), -1, 1, 1])), images.shape)


def spsa(seed: int) -> Callable[..., tf.Tensor]:
    """SPSA with an optimizer that starts under Keras 3."""
    module, random = _module("spsa"), _drawing_from(seed)

    class Adam(module.SPSAAdam):  # type: ignore[name-defined]
        _get_delta = _with(module.SPSAAdam._get_delta, tf=random)

        def __init__(self, lr: float, delta: float, num_samples: int, num_iters: int) -> None:
            tf.optimizers.Adam.__init__(self, learning_rate=lr)
            self.lr, self._delta, self._num_samples, self._num_iters = lr, delta, num_samples // 2, num_iters

    return _with(module.spsa, SPSAAdam=Adam, projected_optimization=_with(module.projected_optimization, tf=random))


class _StandIn:
    """A module in which some names mean something else."""

    def __init__(self, module: Any, **instead: Any) -> None:
        self._module = module
        vars(self).update(instead)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class _Resettable:
    """A Keras 3 optimizer whose state, without the learning rate, Carlini-Wagner can list and zero."""

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer

    def variables(self) -> list[Any]:
        return [variable for variable in self._optimizer.variables if variable is not self._optimizer.learning_rate]

    def apply_gradients(self, pairs: Iterable[tuple[tf.Tensor, tf.Variable]]) -> None:
        self._optimizer.apply_gradients(pairs)


def _with(function: Callable[..., Any], **instead: Any) -> Callable[..., Any]:
    """A copy of a function of CleverHans that sees other things under some global names."""
    scope = {**function.__globals__, **instead}
    copy = types.FunctionType(function.__code__, scope, function.__name__, function.__defaults__, function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def _drawing_from(seed: int) -> _StandIn:
    """TensorFlow with draws from a seed."""
    generator = tf.random.Generator.from_seed(seed)

    def uniform(shape: Any, *limits: Any, seed: None = None, **options: Any) -> tf.Tensor:
        return generator.uniform(shape, *limits, **options)

    def normal(shape: Any, *, seed: None = None, **options: Any) -> tf.Tensor:
        return generator.normal(shape, **options)

    return _StandIn(tf, random=_StandIn(tf.random, uniform=uniform, normal=normal))


def _module(name: str) -> Any:
    return library(f"cleverhans.tf2.attacks.{name}", "attacks.CleverHans", "cleverhans>=4.0")
