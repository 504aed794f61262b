"""Result files: written whole or not at all, with the versions that produced them."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

_REMEDY = "Restore the file, or train into another folder (--out)"


def write_text(path: str | Path, text: str) -> Path:
    """Write a text file aside and rename it, so that no reader and no interruption sees half of it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
    return path


def write_json(path: str | Path, content: Any) -> Path:
    """`write_text` of ``content`` as indented JSON."""
    return write_text(path, json.dumps(content, indent=2) + "\n")


def read_json(path: str | Path) -> Any:
    """The content of a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def read_run(path: str | Path) -> dict[str, Any]:
    """The content of the ``run.json`` of a training run.

    Raises:
        ValueError: If it is damaged.
    """
    try:
        record = read_json(path)
    except ValueError as error:
        raise ValueError(f"{path} should hold the record of a run, but it is not JSON ({error}). {_REMEDY}") from error
    config = record.get("config") if isinstance(record, dict) else None
    if not isinstance(config, dict) or not {"data", "model"} <= set(config):
        raise ValueError(f"{path} should hold the record of a run and its config. Received: {record!r:.80}. {_REMEDY}")
    return dict(record)


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that a result depends on, and the git revision of this package.

    Returns:
        Version strings by name, None of what is not installed; ``"git"`` is None outside of a checkout and ends in
        ``-dirty`` in a changed one.
    """
    import keras
    import numpy as np
    import tensorflow as tf

    return {
        "python": platform.python_version(),
        "keras_fim": _installed("keras_fim"),
        "tensorflow": tf.__version__,  # its distribution may be tensorflow-cpu, tf-nightly or another
        "keras": keras.__version__,
        "numpy": np.__version__,
        "tensorflow-datasets": _installed("tensorflow-datasets"),
        "cleverhans": _installed("cleverhans"),
        "git": _git_revision(),
    }


def _installed(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
