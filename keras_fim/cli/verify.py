"""Check that an exported model answers as the trained one did.

Run every signature of an exported model in a fresh process without Keras, on the inputs stored with
it, and compare with what the trained model returned. Exit code 1 means that something does not agree.

Examples:
  keras-fim verify saved_models/mnist               its newest version
  keras-fim verify saved_models/mnist/1 --verbose   with a line for every output
"""

import argparse
from pathlib import Path

from keras_fim.cli.options import add_strict


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("path", type=Path, help="An exported version, or the folder of its versions.")
    parser.add_argument("--verbose", action="store_true", help="Print a line for every comparison.")
    add_strict(parser)


def run(arguments: argparse.Namespace) -> None:
    """Verify and print the verdict."""
    from keras_fim.export import verify

    report = verify(_newest(arguments.path), strict=arguments.strict)
    print(report if arguments.verbose or not report.passed else report.summary)
    if not report.passed:
        raise SystemExit(1)


def _newest(path: Path) -> Path:
    versions = [folder for folder in path.glob("*") if folder.name.isdecimal()]
    if (path / "saved_model.pb").is_file() or not versions:
        return path
    return max(versions, key=lambda folder: int(folder.name))
