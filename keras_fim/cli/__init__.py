"""The command ``keras-fim``. Its commands import what they need when they run, so that ``--help`` is immediate."""

import argparse
import difflib
import sys
from collections.abc import Iterable, Sequence
from typing import NoReturn

import keras_fim
from keras_fim.cli import board, compare, completion, demo, detect, evaluate, export, serve_client, train, verify
from keras_fim.cli.errors import run_safely

__all__ = ["main"]

_Formatter = argparse.RawDescriptionHelpFormatter
_GROUPS = {
    "Use": {"evaluate": evaluate, "train": train, "compare": compare, "board": board},
    "Ship": {"export": export, "verify": verify, "serve-client": serve_client},
    "More": {"detect": detect, "demo": demo, "completion": completion},
}
_COMMANDS = {name: module for group in _GROUPS.values() for name, module in group.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; an error ends in one line on stderr and an exit code: see `keras_fim.cli.errors`.

    Args:
        argv: The arguments; ``None`` for those of the process.

    Returns:
        The exit code.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser, commands = _parsers()
    if not argv:
        parser.print_help()
        return 0
    if not argv[0].startswith("-") and argv[0] not in _COMMANDS:
        names = ", ".join(_COMMANDS)
        parser.error(f"there is no command {argv[0]!r}{_nearest(argv[0], _COMMANDS)} The commands are {names}.")
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        command = commands[arguments.command]
        command.error(f"there is no option {unknown[0]!r}{_nearest(unknown[0], command._option_string_actions)}")
    if arguments.command == "completion":
        print(completion.script(parser, arguments.shell))
        return 0
    return run_safely(lambda: _COMMANDS[arguments.command].run(arguments), debug=arguments.debug)


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are two lines: what is wrong, and where to read on."""

    def error(self, message: str) -> NoReturn:
        """End the process with exit code 2."""
        self.exit(2, f"error: {message}\nSee {self.prog} --help.\n")


def _parsers() -> tuple[_Parser, dict[str, _Parser]]:
    """The parser of the whole command line, and the parser of each command."""
    parser = _Parser(
        prog="keras-fim",
        usage="keras-fim COMMAND [OPTION ...]",
        description="How easily a Keras classifier is fooled, and what can be done about it.",
        epilog="keras-fim COMMAND --help explains a command, with examples.",
        formatter_class=_Formatter,
    )
    parser.add_argument("--version", action="version", version=f"keras-fim {keras_fim.__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, prog="keras-fim", help=argparse.SUPPRESS)
    overview = []
    for title, group in _GROUPS.items():
        overview.append(f"\n\n{title}:")
        for name, module in group.items():
            summary, _, text = str(module.__doc__).partition("\n\n")
            command = subparsers.add_parser(name, help=summary, description=text, formatter_class=_Formatter)
            module.add_arguments(command)
            command.add_argument("--debug", action="store_true", help="Show the traceback of an error.")
            overview.append(f"\n  {name:14}{summary}")
    parser.description = f"{parser.description}{''.join(overview)}"
    return parser, subparsers.choices


def _nearest(name: str, names: Iterable[str]) -> str:
    """The end of a message about a wrong name."""
    near = difflib.get_close_matches(name, list(names), 1)
    return f"; did you mean {near[0]}?" if near else "."
