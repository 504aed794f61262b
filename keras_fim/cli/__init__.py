"""The command ``keras-fim``. A command is imported when it runs, so that ``--help`` is immediate."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import keras_fim
from keras_fim.arguments import did_you_mean
from keras_fim.cli.errors import run_safely
from keras_fim.cli.options import NEAREST, add_options

__all__ = ["main", "train_script"]

_Formatter = argparse.RawDescriptionHelpFormatter
_GROUPS = {  # the module of each command, in which a function has its name
    "Use": {"evaluate": "evaluate", "train": "train", "compare": "train", "board": "board"},
    "Ship": {"export": "serving", "verify": "serving", "serve-client": "serving"},
    "More": {"detect": "train", "demo": "train", "completion": ""},
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
        names, near = ", ".join(_COMMANDS), did_you_mean(argv[0], _COMMANDS, NEAREST, ".")
        parser.error(f"there is no command {argv[0]!r}{near} The commands are {names}.")
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        command = commands[arguments.command]
        kind = "option" if unknown[0].startswith("-") else "argument"
        near = did_you_mean(unknown[0], command._option_string_actions, NEAREST, ".")
        command.error(f"there is no {kind} {unknown[0]!r}{near}")
    if arguments.command == "completion":
        print(_completion(parser, arguments.shell))
        return 0
    return run_safely(lambda: _run(arguments), debug=arguments.debug)


def train_script(data_name: str, argv: list[str] | None = None) -> None:
    """Entry point of the scripts in ``training/``: the command ``train`` with a default dataset.

    Args:
        data_name: The default of ``--data``.
        argv: The arguments; ``None`` for those of the process.

    Raises:
        SystemExit: Always, with the exit code.
    """
    calls = ("--quick", "--defense n-fgm", "--mu 0 --out runs/plain", "--resume")
    examples = "".join(f"  python training/train_{data_name}.py {call}\n" for call in calls)
    description = f"{_help('train').partition('Examples:')[0]}Examples:\n{examples}"
    parser = _Parser(prog=f"train_{data_name}.py", description=description, formatter_class=_Formatter)
    add_options(parser, "train", data_name=data_name)
    arguments = parser.parse_args(argv, argparse.Namespace(command="train"))
    sys.exit(run_safely(lambda: _run(arguments)))


def _run(arguments: argparse.Namespace) -> None:
    module = importlib.import_module(f"keras_fim.cli.{_COMMANDS[arguments.command]}")
    getattr(module, arguments.command.replace("-", "_"))(arguments)


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
        for name in group:
            summary, _, text = _help(name).partition("\n\n")
            command = subparsers.add_parser(name, help=summary, description=text, formatter_class=_Formatter)
            add_options(command, name)
            command.add_argument("--debug", action="store_true", help="Show the traceback of an error.")
            overview.append(f"\n  {name:14}{summary}")
    parser.description = f"{parser.description}{''.join(overview)}"
    return parser, subparsers.choices


def _help(command: str) -> str:
    """What a command does: a line, a blank one, a text with examples."""
    return Path(__file__).with_name("help").joinpath(f"{command}.txt").read_text(encoding="utf-8")


def _completion(parser: argparse.ArgumentParser, shell: str) -> str:
    """The completion script of a command line, in which options that take a path complete the names of files."""
    import shtab

    pending = [parser]
    for current in pending:
        for action in current._actions:
            if isinstance(action, argparse._SubParsersAction):
                pending.extend(action.choices.values())
            elif action.type is Path or action.dest in ("model", "models", "data", "source"):
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    return str(shtab.complete(parser, shell))
