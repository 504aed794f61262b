"""Print the lower bound of each runtime dependency of a wheel as a pip constraint: lower_bounds.py WHEEL [EXTRA]."""

from __future__ import annotations

import email
import sys
import zipfile

from packaging.requirements import Requirement


def lower_bounds(wheel: str, extra: str = "") -> list[str]:
    """Constraints ``name==version`` of a wheel's dependencies with an extra.

    Raises:
        ValueError: if a dependency has no lower bound.
    """
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        texts = email.message_from_bytes(archive.read(metadata)).get_all("Requires-Dist", [])
    constraints = []
    for text in texts:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        versions = [part.version for part in requirement.specifier if part.operator == ">="]
        if not versions:
            raise ValueError(f"each dependency should have a lower bound. Received: {text}")
        constraints.append(f"{requirement.name}=={versions[0]}")
    return constraints


if __name__ == "__main__":
    print("\n".join(lower_bounds(*sys.argv[1:])))
