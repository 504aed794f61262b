"""CleverHans 4.0 under Keras 3.

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

import types
from collections.abc import Callable, Iterable
from typing import Any

import tensorflow as tf

from keras_fim.attacks.adapters.common import Classifier, library
from keras_fim.attacks.losses import log_odds_against


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """``-log p_y`` as ``log(1 + (1 - p_y) / p_y)``, whose gradient keeps its digits on confident samples.

    Args:
        labels: class indices ``(batch,)``.
        logits: ``(batch, K)``.

    Returns:
        ``(batch,)``.
    """
    return tf.nn.softplus(log_odds_against(logits, labels))


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
    one_for_each = _StandIn(tf, ones=lambda shape: tf.ones(shape[:1]))
    attack_batch = _with(type(attack)._attack, tf=one_for_each)
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
    return library(f"cleverhans.tf2.attacks.{name}", "CleverHans", "cleverhans>=4.0")
