"""How a command reports errors and warnings that its user can act on."""

import json
import os
import re
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

_REMEDIES: dict[str, str] = json.loads(Path(__file__).with_name("remedies.json").read_text(encoding="utf-8"))
"""What to do, by the system's words, which the errors of TensorFlow and HDF5 repeat."""
_FAULT = 70  # as of sysexits.h: an error inside of the program


def run_safely(command: Callable[[], None], *, debug: bool = False) -> int:
    """Run ``command``; each warning and each error becomes one line on stderr.

    Args:
        command: Runs the command.
        debug: Whether to show the traceback of an error as well.

    Returns:
        The exit code: 0, 2 after an error that the user can mend, 70 after any other, 130 after Ctrl-C.
    """
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show
            _import_tensorflow()
            command()
    except KeyboardInterrupt:
        message = "interrupted: finished parts are kept; the same command continues from there (`train` with --resume)"
        print(message, file=sys.stderr)
        return 130
    except Exception as error:
        if debug:
            traceback.print_exception(error)
        text, expected = _sentence(error), isinstance(error, (ValueError, OSError, ImportError))
        if not expected and not any(words in text for words in _REMEDIES):
            print(f"error: {type(error).__name__}: {text} (unexpected: --debug shows where)", file=sys.stderr)
            return _FAULT
        print(f"error: {text}", file=sys.stderr)
        return 2
    return 0


def _sentence(error: Exception) -> str:
    """One line: what failed, the file, and what to do where the system's words tell."""
    text = " ".join(str(error).split()).partition(" [Op:")[0] or type(error).__name__
    words = next((words for words in _REMEDIES if words in text), None)
    if words is None:
        return text
    path = getattr(error, "filename", None)
    if named := re.search(r"filename = '([^']+)'", text):  # of HDF5, among much else
        path = named[1]
    return f"{f'{path}: {words}' if path else text}; {_REMEDIES[words]}"


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
