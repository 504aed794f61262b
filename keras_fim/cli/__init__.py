"""The command ``keras-fim``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from keras_fim.cli import (
    board,
    compare,
    demo,
    detect,
    evaluate,
    export,
    reproduce,
    serve_client,
    store,
    train,
    verify,
)
from keras_fim.cli.errors import run_safely

__all__ = ["main"]

_COMMANDS = {
    "train": train,
    "evaluate": evaluate,
    "board": board,
    "store": store,
    "export": export,
    "verify": verify,
    "serve-client": serve_client,
    "detect": detect,
    "reproduce": reproduce,
    "compare": compare,
    "demo": demo,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; bad input ends in one line on stderr and exit code 2.

    Args:
        argv: the arguments; ``None`` for those of the process.

    Returns:
        The exit code.
    """
    description = "Fisher-information robustness for Keras classifiers."
    parser = argparse.ArgumentParser(prog="keras-fim", description=description)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, module in _COMMANDS.items():
        summary = str(module.__doc__).splitlines()[0]
        command = commands.add_parser(
            name, help=summary, description=module.DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.add_arguments(command)
    arguments = parser.parse_args(argv)
    return run_safely(lambda: _COMMANDS[arguments.command].run(arguments))
