"""What a command does with errors that its user can mend."""

from __future__ import annotations

import sys
from collections.abc import Callable

__all__ = ["run_safely"]


def run_safely(command: Callable[[], None]) -> int:
    """Run ``command``; a ValueError, a missing file or package become one line on stderr.

    Returns:
        The exit code: 0, 2 after such an error, 130 after Ctrl-C.
    """
    try:
        command()
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        message = "interrupted: what was finished is kept; the same command goes on there (`train` with --resume)"
        print(message, file=sys.stderr)
        return 130
    return 0
