"""The command ``keras-fim``. Its commands import what they need when they run, so that ``--help`` is immediate."""

from __future__ import annotations

import argparse
import difflib
import importlib.metadata
import sys
from collections.abc import Sequence

from keras_fim.cli import board, compare, demo, detect, evaluate, export, serve_client, train, verify
from keras_fim.cli.errors import run_safely

__all__ = ["main"]

_Formatter = argparse.RawDescriptionHelpFormatter
_COMMANDS = {
    "evaluate": evaluate,
    "train": train,
    "compare": compare,
    "board": board,
    "detect": detect,
    "export": export,
    "verify": verify,
    "serve-client": serve_client,
    "demo": demo,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; bad input ends in one line on stderr and exit code 2.

    Args:
        argv: The arguments; ``None`` for those of the process.

    Returns:
        The exit code.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    description = "How easily a Keras classifier is fooled, and what can be done about it."
    parser = argparse.ArgumentParser(prog="keras-fim", description=description)
    parser.add_argument("--version", action="version", version=f"keras-fim {_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, module in _COMMANDS.items():
        summary, _, text = str(module.__doc__).partition("\n\n")
        command = commands.add_parser(name, help=summary, description=text, formatter_class=_Formatter)
        module.add_arguments(command)
    if not argv:
        parser.print_help()
        return 0
    if not argv[0].startswith("-") and argv[0] not in _COMMANDS:
        near = difflib.get_close_matches(argv[0], _COMMANDS, 1)
        hint = f"; did you mean {near[0]}?" if near else "."
        parser.error(f"there is no command {argv[0]!r}{hint} The commands are {', '.join(_COMMANDS)}.")
    arguments = parser.parse_args(argv)
    return run_safely(lambda: _COMMANDS[arguments.command].run(arguments))


def _version() -> str:
    """The version of the installed package, without importing it."""
    return importlib.metadata.version("keras_fim")
