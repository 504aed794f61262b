"""The command ``keras-fim``. Its commands import what they need when they run, so that ``--help`` is immediate."""

from __future__ import annotations

import argparse
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
    description = "Fisher-information robustness for Keras classifiers."
    parser = argparse.ArgumentParser(prog="keras-fim", description=description)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, module in _COMMANDS.items():
        summary, _, text = str(module.__doc__).partition("\n\n")
        command = commands.add_parser(name, help=summary, description=text, formatter_class=_Formatter)
        module.add_arguments(command)
    arguments = parser.parse_args(argv)
    return run_safely(lambda: _COMMANDS[arguments.command].run(arguments))
