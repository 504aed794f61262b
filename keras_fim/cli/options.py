"""Options that several commands share."""

from __future__ import annotations

import argparse
import types
import typing
from collections.abc import Sequence
from typing import Any

from keras_fim.training.config import TrainingConfig, descriptions

__all__ = ["DATASETS", "add_data_dir", "add_max_samples", "add_training_options", "training_options"]

DATASETS = "mnist, cifar10, gtsrb, or mnist5k, which needs no download"


def add_data_dir(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--data-dir``."""
    text = "Folder in which TensorFlow Datasets keeps its data (default: $TFDS_DATA_DIR or its own default)."
    parser.add_argument("--data-dir", help=text)


def add_max_samples(parser: argparse.ArgumentParser, default: int, purpose: str) -> None:
    """Add the option ``--max-samples``."""
    text = f"Number of test images {purpose}, the same number per class as far as possible (default: %(default)s)."
    parser.add_argument("--max-samples", type=int, default=default, metavar="N", help=text)


def add_training_options(parser: argparse.ArgumentParser, names: Sequence[str] = ()) -> None:
    """Add options of `TrainingConfig`, with the types of its attributes and their descriptions.

    Args:
        parser: The parser of the command.
        names: The attributes; all those with a single value that the parser does not have yet, if empty.
    """
    texts = descriptions()
    taken = {action.dest for action in parser._actions}
    for name, hint in typing.get_type_hints(TrainingConfig).items():
        if typing.get_origin(hint) is dict or name in taken or (names and name not in names):
            continue
        kind = next(kind for kind in typing.get_args(hint) or (hint,) if kind is not types.NoneType)
        value: dict[str, Any] = {"action": argparse.BooleanOptionalAction} if kind is bool else {"type": kind}
        text = texts.get(name, "").replace("%", "%%")
        parser.add_argument(f"--{name.replace('_', '-')}", default=None, help=text, **value)


def training_options(arguments: argparse.Namespace, *, skip: Sequence[str] = ()) -> dict[str, Any]:
    """The attributes of `TrainingConfig` that were given on the command line."""
    names = typing.get_type_hints(TrainingConfig).keys() - set(skip)
    return {key: value for key, value in vars(arguments).items() if key in names and value is not None}
