"""What is imported when it is first used, so that the command line can answer without it, or may be missing."""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def importer(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """A ``__getattr__`` for a package, after PEP 562.

    Args:
        package: The name of the package.
        homes: The module of the package that defines each name; a name that is a module is its own home.

    Returns:
        A function that imports a name, keeps it in the package, and returns it. It raises an AttributeError if the
        name is not in ``homes``.
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(f"{package}.{homes[name]}")
        value = module if homes[name] == name else getattr(module, name)
        setattr(sys.modules[package], name, value)
        return value

    return get


def library(module: str, user: str, install: str = "keras_fim[peers]") -> Any:
    """A module of a library that may not be installed.

    Args:
        module: Its name.
        user: What needs it, for the message.
        install: What to pass to ``pip install``.

    Raises:
        ImportError: If it is not installed; says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{user} needs the module {module}: pip install '{install}'") from error
