"""Print a script that completes commands and options in your shell.

The script answers without starting Python. Print it once, where your shell looks for such scripts.

Examples:
  keras-fim completion bash > ~/.local/share/bash-completion/completions/keras-fim
  keras-fim completion zsh > ~/.zfunc/_keras-fim     with ~/.zfunc in $fpath
"""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="The shell that you use.")


def script(parser: argparse.ArgumentParser, shell: str) -> str:
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
