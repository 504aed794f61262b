"""The attacks of CleverHans 4.0; `repairs` makes them run under Keras 3."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_fim.arguments import expect
from keras_fim.attacks.adapters import repairs
from keras_fim.attacks.adapters.common import Classifier, ForeignAttack, ForeignSearch, Method, wrapped
from keras_fim.attacks.lp import check_norm, norm_name
from keras_fim.attacks.samples import Task, take

_METHODS = json.loads(Path(__file__).with_suffix(".json").read_text())
"""What each attack takes: its norms, of which the first is the default, and its parameters with their defaults here.

``null`` leaves the choice to CleverHans or, for the length of a step, to ``travel``, which is the length of all steps
together as a multiple of ε.
"""
_COUNTS = ("nb_iter", "binary_search_steps", "max_iterations", "spsa_samples", "spsa_iters")
_POSITIVE = ("eps_iter", "step_size", "initial_const", "learning_rate", "delta", "rand_minmax")


def CleverHans(  # noqa: N802 - reads as the classes beside it
    attack: str,
    *,
    norm: float | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    batch_size: int = 128,
    seed: int = 0,
    progress: bool = False,
    **parameters: Any,
) -> ForeignAttack | ForeignSearch:
    """An attack of CleverHans 4.0, by its name there.

    Args:
        attack: ``fast_gradient_method``, ``projected_gradient_descent``, ``basic_iterative_method``,
            ``momentum_iterative_method``, ``madry_et_al`` or ``spsa``, which take ε; or ``carlini_wagner_l2``, which
            looks for the smallest distance.
        norm: 1, 2 or inf, as far as the attack knows it; ``None`` for inf (2 with ``carlini_wagner_l2``).
        bounds: as with every attack.
        batch_size: as with every attack. Carlini-Wagner stops early by the loss of a whole batch.
        seed: as with every attack.
        progress: as with every attack.
        **parameters: what the attack takes there, without images, labels, ε and bounds. The length of a step is
            ``eps_iter`` as it stands or ``step_size`` as a share of ε, by default 2.5 (BIM 2, MIM 1) over
            ``nb_iter``; none is longer than ε. Whatever the bounds, CleverHans sees images in [0, 1], and all lengths
            are in these units.

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
    norm = check_norm(norms[0] if norm is None else norm, norms)
    _check_parameters(attack, parameters)
    given = {"norm": norm, **dict(sorted(parameters.items()))}
    options = {"bounds": bounds, "batch_size": batch_size, "seed": seed, "progress": progress}
    name = f"cleverhans_{attack}" if attack.endswith(norm_name(norm)) else f"cleverhans_{attack}_{norm_name(norm)}"
    call = f"CleverHans({attack!r}, {', '.join(f'{key}={value!r}' for key, value in given.items())}"
    method = _Named(name, norm, call, attack, tuple(sorted(parameters.items())))
    return wrapped(method, attack == "carlini_wagner_l2", **options)


def cleverhans_attacks() -> list[tuple[str, float]]:
    """Each attack that `CleverHans` makes, with each norm that it takes."""
    return [(attack, norm) for attack, method in _METHODS.items() for norm in map(float, method["norms"])]


def _check_parameters(attack: str, given: dict[str, Any]) -> None:
    parameters = _METHODS[attack]["parameters"]
    for name, value in given.items():
        if name not in parameters:
            raise ValueError(f"`{attack}` takes the parameters {', '.join(parameters)}. Received: {name}={value!r}")
        expect(name not in _COUNTS or isinstance(value, int) and value >= 1, name, "a positive integer", value)
        expect(name not in _POSITIVE or value is None or 0 < value < np.inf, name, "a positive number", value)
        expect(name != "spsa_samples" or value % 2 == 0, name, "even", value)
    if given.get("eps_iter") is not None and given.get("step_size") is not None:
        raise ValueError("`eps_iter` and `step_size` exclude each other. Received: both")


@dataclasses.dataclass(frozen=True)
class _Named(Method):
    """An attack of CleverHans by its name there."""

    attack: str
    parameters: tuple[tuple[str, Any], ...]

    def generate(self, classifier: Classifier, task: Task, epsilon: float | None, seed: int) -> tf.Tensor:
        """CleverHans' answer."""
        options = {"clip_min": 0.0, "clip_max": 1.0, **_METHODS[self.attack]["parameters"], **dict(self.parameters)}
        if epsilon is None:
            return repairs.carlini_wagner(classifier, task.images, task.labels, **options)
        options["eps"] = epsilon
        if self.attack == "spsa":
            attack = functools.partial(repairs.spsa(seed), classifier, **options)
            ones = [take(task, slice(i, i + 1)) for i in range(len(task.images))]
            return tf.concat([attack(one.images, one.labels) for one in ones], axis=0)
        loss_fn = options.pop("loss_fn", None) or repairs.cross_entropy
        if self.attack != "fast_gradient_method":
            share = options.pop("step_size") or _METHODS[self.attack]["travel"] / options["nb_iter"]
            options["eps_iter"] = min(options["eps_iter"] or share * epsilon, epsilon)
        method = repairs.gradient_method(self.attack, classifier, loss_fn, seed)
        return method(classifier, task.images, y=task.labels, norm=self.norm, sanity_checks=False, **options)
