"""The package as a whole: its import order, its public names, its behavior at import."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import keras_fim

ROOT = Path(keras_fim.__file__).parent
ORDER = [
    *("arguments", "_lazy", "typing", "geometry", "records", "validation", "strangers", "inspection", "distribution"),
    *("logits", "pixels", "fisher", "losses", "layers", "metrics", "attacks", "defenses", "detection", "evaluation"),
    *("plots", "callbacks", "export", "training", "cli", "__main__"),
]
STANDALONE = ("data", "models")  # import arguments and records only; training and cli, and no other, import them
MODULES = sorted(module.name for module in pkgutil.walk_packages([str(ROOT)], "keras_fim."))


def imported(module):
    """The parts of the package that a module's source imports, at the top or in a function."""
    path = Path(importlib.util.find_spec(module).origin)
    parts = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            parts |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            whole = node.module == "keras_fim"
            parts |= {f"keras_fim.{alias.name}" for alias in node.names} if whole else {node.module}
    return parts


def part(name):
    return name.split(".")[1]


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module):
    own = part(module)
    assert own in (*ORDER, *STANDALONE), f"{module} has no place in the import order"
    for other in {part(name) for name in imported(module) if name.startswith("keras_fim.")} - {own}:
        before = ["arguments", "records"] if own in STANDALONE else ORDER[: ORDER.index(own)]
        allowed = before + (list(STANDALONE) if own in ("training", "cli") else [])
        assert other in allowed, f"{module} imports {other}"


@pytest.mark.parametrize("module", [name for name in MODULES if part(name) in ("typing", "geometry")])
def test_mathematics_knows_nothing_of_keras(module):
    assert not any(name.split(".")[0] == "keras" for name in imported(module))


@pytest.mark.parametrize("module", ["keras_fim", *(name for name in MODULES if not name.endswith("__main__"))])
def test_public_names_exist_and_are_documented(module):
    """A package names what it offers; in a module it is what has no leading underscore."""
    loaded = importlib.import_module(module)
    assert loaded.__doc__ and hasattr(loaded, "__all__") == hasattr(loaded, "__path__")
    own = [name for name, thing in vars(loaded).items() if getattr(thing, "__module__", "") == module]
    for name in getattr(loaded, "__all__", [name for name in own if not name.startswith("_")]):
        thing = getattr(loaded, name)
        if inspect.isroutine(thing) or issubclass(type(thing), type):  # not `isclass`: true of an alias on Python 3.10
            assert thing.__doc__, f"{module}.{name} has no docstring"


def test_the_command_line_imports_a_name_when_it_is_used():
    program = "import sys; sys.argv = ['bin/keras-fim']; import keras_fim; assert 'keras' not in sys.modules; "
    assert fresh(program + "print(keras_fim.attacks.PGD().name)").stdout.strip() == "pgd_linf"
    with pytest.raises(AttributeError, match="module 'keras_fim' has no attribute 'nothing'"):
        keras_fim.nothing  # noqa: B018
    assert set(keras_fim.__all__) <= set(dir(keras_fim))


@pytest.mark.slow
@pytest.mark.parametrize("imports", ["import keras_fim, keras", "import keras, keras_fim"])
def test_what_keras_saves_is_registered_whatever_is_imported_first(imports):
    program = f"{imports}; print(*[n for n in keras.saving.get_custom_objects() if 'keras_fim>' in n])"
    registered = {name.removeprefix("keras_fim>") for name in fresh(program).stdout.split()}
    assert {"FisherTraceLoss", "FisherTraceRegularization", "FoolingRatio", "SpectralDefense", "TRADES"} <= registered


def fresh(program, **environment):
    kept = {key: value for key, value in os.environ.items() if key != "KERAS_BACKEND"}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env={**kept, **environment}, capture_output=True, text=True, timeout=600)


def test_another_backend_is_refused(tmp_path):
    """In the environment, or in Keras' configuration file."""
    expected = "ImportError: keras_fim needs Keras on TensorFlow: set the environment variable KERAS_BACKEND=tensorflow"
    assert f"{expected}. Received: the backend 'jax'" in fresh("import keras_fim", KERAS_BACKEND="jax").stderr
    (tmp_path / "keras.json").write_text('{"backend": "numpy"}')
    assert expected in fresh("import keras_fim", KERAS_HOME=str(tmp_path)).stderr


def test_import_loads_no_package_that_only_some_functions_need():
    """Keras itself loads matplotlib and scikit-learn where they are installed."""
    program = "import sys, keras_fim; print({'tensorflow_datasets', 'cleverhans', 'mlxtend'} & set(sys.modules))"
    assert fresh(program).stdout.strip() == "set()"


def test_version_and_type_hints():
    assert importlib.metadata.version("keras_fim") == keras_fim.__version__
    assert (ROOT / "py.typed").exists()
