"""Print the lower bound of each runtime dependency as a pip constraint, as pyproject.toml declared it on installing."""

from __future__ import annotations

import importlib.metadata
import sys

from packaging.requirements import Requirement


def lower_bounds(package: str, extra: str) -> list[str]:
    """Constraints ``name==version`` of a package's dependencies with an extra.

    Raises:
        ValueError: if a dependency has no lower bound.
    """
    constraints = []
    for text in importlib.metadata.requires(package) or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        versions = [part.version for part in requirement.specifier if part.operator == ">="]
        if not versions:
            raise ValueError(f"each dependency should have a lower bound. Received: {text}")
        constraints.append(f"{requirement.name}=={versions[0]}")
    return constraints


if __name__ == "__main__":
    print("\n".join(lower_bounds("keras_fim", *sys.argv[1:])))
