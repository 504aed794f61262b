"""Names that a package imports when they are first used, so that its command line can answer without TensorFlow."""

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
