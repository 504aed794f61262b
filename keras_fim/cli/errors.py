"""How a command reports errors and warnings that its user can act on."""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from typing import Any


def run_safely(command: Callable[[], None]) -> int:
    """Run ``command``; warnings, and a ValueError or a missing file or package, become one line on stderr.

    Returns:
        The exit code: 0, 2 after such an error, 130 after Ctrl-C.
    """
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show
            _import_tensorflow()
            command()
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        message = "interrupted: finished parts are kept; the same command continues from there (`train` with --resume)"
        print(message, file=sys.stderr)
        return 130
    return 0


def _import_tensorflow() -> None:
    """Import TensorFlow without what its libraries write to stderr meanwhile, unless it cannot be imported."""
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as noise:
        os.dup2(noise.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def _show(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)
