"""Fuzzed calls: every public function and class, with one argument replaced by a value that it may not expect.

A call survives if it works, or raises a ValueError or TypeError that names the argument.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import tempfile
import typing
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from hypothesis import strategies as st

from keras_fim import attacks, detection
from keras_fim.training import recipe

PACKAGES = (
    *(
        "keras_fim",
        "keras_fim.attacks",
        "keras_fim.losses",
        "keras_fim.layers",
        "keras_fim.metrics",
        "keras_fim.models",
    ),
    *("keras_fim.defenses", "keras_fim.detection", "keras_fim.evaluation", "keras_fim.callbacks", "keras_fim.export"),
    *("keras_fim.training", "keras_fim.data", "keras_fim.geometry", "keras_fim.logits"),
)
ABSTRACT = {"Attack", "FixedBudgetAttack", "MinimalDistanceAttack", "SearchAttack", "Defense", "Report", "Dataset"}
FOREIGN = {"ART", "CleverHans", "Foolbox"}  # whose options are those of another library
INTERNAL = {
    "bootstrap",
    "spectral_features",
    "LogitsFunction",
    "PassSeed",
    "mu_value",
    "mu_variable",
    "plain",
    "predict_logits",
    "two_classes",
    "evaluated",
    "defenses_figure",
}


class Target(NamedTuple):
    """A public callable, and arguments with which it works."""

    name: str
    function: Any
    valid: dict[str, Any]


class Fuzzed(NamedTuple):
    """One call."""

    target: Target
    argument: str
    value: Any

    def outcome(self) -> str:
        """ "" if it works or refuses the argument by its name, else what it raised."""
        arguments = {**self.target.valid, self.argument: self.value}
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("ignore")
            if "folder" in arguments and self.argument != "folder":
                arguments["folder"] = Path(folder) / "new"
            try:
                result = self.target.function(**arguments)
                if isinstance(result, Iterator):
                    list(result)
            except (ValueError, TypeError) as error:
                alike = self.argument.removesuffix("s")
                if self.argument in ("twin", "source", "target") and isinstance(self.value, str):
                    alike = f"({alike}|model)"  # the path of one
                return "" if re.search(rf"\b{alike}", str(error).replace("-", "_")) else f"{error!r:.300}"
            except (MemoryError, tf.errors.ResourceExhaustedError):
                return ""  # it would work on a larger machine
            except Exception as error:
                return f"{error!r:.300}"
        return ""

    def __str__(self) -> str:
        return f"{self.target.name}({self.argument}={self.value!r:.60})"


def values() -> st.SearchStrategy[Any]:
    """What somebody may pass by mistake."""
    # not so large that a call that works would take all the memory of the machine, as a network of 2^31 filters does
    floats = st.one_of(st.floats(-5, 5), st.sampled_from([float("nan"), float("inf"), -float("inf")]))
    numbers = st.one_of(st.integers(-3, 40), floats, st.sampled_from([-(2**70), -1e300]))
    shapes = st.sampled_from([(), (0,), (3,), (2, 8), (2, 8, 8), (2, 8, 8, 1), (2, 9, 8, 1), (1, 2, 8, 8, 1)])
    arrays = shapes.map(lambda shape: np.full(shape, 0.5, "float32"))
    others = st.sampled_from([None, True, "", "0.1", "linf", "cat", b"x", object(), {}, [], (), [[]], {"a": 1}, print])
    odd = st.sampled_from([np.full((2, 8, 8, 1), np.nan), np.array(["a", "b"]), np.float32(0.1), tf.constant([1])])
    return st.one_of(numbers, others, arrays, odd, st.lists(numbers, max_size=3))


class _Providers:
    """Valid arguments by name."""

    def __init__(self) -> None:
        keras.utils.set_random_seed(0)
        layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3, activation="softmax")]
        self.model = keras.Sequential(layers)
        self.images = np.random.default_rng(0).uniform(size=(4, 8, 8, 1)).astype("float32")
        self.labels = self.model.predict(self.images, verbose=0).argmax(axis=-1)
        self.dataset = tf.data.Dataset.from_tensor_slices((self.images, self.labels)).batch(2)

    def by_name(self, folder: Path) -> dict[str, Any]:
        """The values."""
        success, correct = np.array([True, False, False, True]), np.array([True, True, False, True])
        detector = detection.FisherDetector(threshold=0.0, false_positive_rate=0.1)
        logits = tf.constant([[1.0, 0.0, 2.0]])
        return {
            **{"model": self.model, "source": self.model, "target": self.model, "images": self.images},
            **{"labels": self.labels, "dataset": self.dataset, "epsilon": 0.1, "sigma": 0.2, "num_classes": 3},
            **{"attack": attacks.FGSM(), "attacks": [attacks.FGSM()], "epsilons": [0.1], "detector": detector},
            **{"success": success, "was_correct": correct, "distances": np.ones(4), "norm": 2.0, "size": 64},
            **{"convention": "norm", "count": 1, "total": 4, "confidence": 0.9, "statistic": np.mean},
            **{"num_draws": 20, "num_selection": 5, "alpha": 0.1, "mu": 0.1, "schedule": 0.1, "threshold": 0.0},
            **{"false_positive_rate": 0.1, "benign_scores": np.arange(5.0), "attacked_scores": np.arange(5.0) + 1},
            **{"name": None, "data": "mnist5k", "image_shape": (8, 8, 1), "class_names": ["a", "b", "c"]},
            **{"folder": folder / "new", "path": folder / "none", "max_samples": 4, "steps": 2, "queries": 2},
            **{"logits": logits, "other_logits": logits, "bounds": (0.0, 1.0), "logits_fn": self.model},
        }


OVERRIDES: dict[str, dict[str, Any]] = {
    "convnet": {"input_shape": (8, 8, 1), "filters": (1, 1), "name": "net"},
    "vgg11": {"width": 0.05, "name": "net"},
    "resnet14": {"filters": (1, 1, 1), "name": "net"},
    "AdversarialTraining": {"attack": attacks.FGSM()},
    "attack_by_name": {"name": "fgsm"},
    "minimal_distances": {"attack": attacks.DeepFool(steps=2)},
    "evaluate": {"spectrum": False, "folder": None, "name": "net", "class_names": ["a", "b", "c"]},
    "masking_report": {"norm": 2.0, "epsilons": [0.1, 0.2]},
    "transfer": {"epsilons": {"fgsm": 0.1}},
    "load": {"name": "mnist5k", "image_shape": (8, 8, 1), "limit": 4, "test_limit": 4},
    "load_splits": {"name": "mnist5k", "image_shape": (8, 8, 1), "limit": 4, "test_limit": 4},
    "info": {"name": "mnist5k"},
    "open_source": {"name": "mnist5k", "class_names": None},
    "short_name": {"name": "mnist5k"},
    "described": {"name": "photos"},
    "load_model": {"name": "convnet"},
    "FoolingRatio": {"name": "ratio"},
    "RobustAccuracy": {"name": "ratio"},
    "JSMA": {"target": "none"},
    "OTCM": {"target": "least_likely"},
    "calibrate": {"images": np.random.default_rng(0).uniform(size=(200, 8, 8, 1)).astype("float32")},
    "TrainingConfig": {"model": "convnet", "bounds": None, "image_shape": None, "class_names": None},
    "recipe": {"model": "convnet"},
    "saved_model": {"labels": ["a", "b", "c"], "version": 1, "detector": None, "input_shape": (8, 8, 1)},
    "verify": {},
}
SLOW = {"compare": "trains", "train": "trains", "saved_model": "exports"}


def targets(folder: Path, *, slow: bool) -> list[Target]:
    """All of them, each once."""
    providers = _Providers()
    given, reached = providers.by_name(folder), {}
    for package in PACKAGES:
        module = importlib.import_module(package)
        names = getattr(module, "__all__", None) or [
            name for name, thing in vars(module).items() if getattr(thing, "__module__", "") == package
        ]
        for name in names:
            function = getattr(module, name)
            if callable(function) and not _left_out(name, function):
                reached.setdefault(name, Target(f"{package}.{name}", function, _valid(name, function, given)))
    reached["attack"] = Target("attacks.FGSM()", _attacked, _subset(given, "model", "images", "labels", "epsilon"))
    reached["fit"] = Target("FisherDetector.fit", _fitted, {"model": providers.model, "images": providers.images})
    config = recipe("mnist5k", epochs=1, limit=20, test_limit=20, model_options={"filters": (1, 1)}, mu=0.0)
    reached["train"] = reached["train"]._replace(valid={"config": config, "folder": folder / "new", "verbose": 0})
    options = {
        "defenses": [],
        "changes": {"epochs": 1, "limit": 20, "test_limit": 20},
        "max_samples": 40,
        "quick": True,
    }
    compare = {"data_name": "mnist5k", "folder": folder / "new", **options}
    reached["compare"] = reached["compare"]._replace(valid=compare)
    return [target for name, target in reached.items() if slow or name not in SLOW]


def _left_out(name: str, function: Any) -> bool:
    results = dataclasses.is_dataclass(function) and not issubclass(function, attacks.Attack)
    own = {"TrainingConfig", "FisherDetector"}
    named = inspect.isclass(function) and issubclass(function, tuple)
    private = name.startswith("_") or name in ABSTRACT | FOREIGN | INTERNAL or not _ours(function)
    return private or named or bool(results and name not in own) or _geometry(function)


def _ours(function: Any) -> bool:
    return str(getattr(function, "__module__", "")).startswith("keras_fim") and not typing.get_origin(function)


def _geometry(function: Any) -> bool:
    """Functions of tensors, inside of compiled graphs: TensorFlow checks what they are given."""
    return function.__module__.startswith("keras_fim.geometry") and "label_smoothing" not in function.__module__


def _valid(name: str, function: Any, given: dict[str, Any]) -> dict[str, Any]:
    valid = {}
    for key, parameter in inspect.signature(function).parameters.items():
        own = OVERRIDES.get(name, {})
        if key in own:
            valid[key] = own[key]
        elif parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            attack = inspect.isclass(function) and issubclass(function, attacks.Attack)
            if key in given and (parameter.default is parameter.empty or not attack):
                valid[key] = given[key]
            elif parameter.default is not parameter.empty:
                valid[key] = parameter.default
    return valid


def _subset(given: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: given[name] for name in names}


def _attacked(model: Any, images: Any, labels: Any, epsilon: Any) -> Any:
    return attacks.FGSM()(model, images, labels, epsilon=epsilon)


def _fitted(model: Any, images: Any) -> Any:
    return detection.FisherDetector.fit(model, images, false_positive_rate=0.2, bounds=(0, 1))


def fuzzed(available: list[Target]) -> st.SearchStrategy[Fuzzed]:
    """Calls."""
    pairs = [(target, argument) for target in available for argument in target.valid]
    calls = st.builds(lambda pair, value: Fuzzed(*pair, value), st.sampled_from(pairs), values())
    return calls.filter(lambda call: call.argument != "width" or not _above(call.value, 2))


def _above(value: Any, limit: float) -> bool:
    """Whether a number is larger: VGG11 of 40 times its width works, and takes 20 GB."""
    return isinstance(value, (int, float)) and value > limit
