"""Options that several commands share."""

from __future__ import annotations

import argparse
import types
import typing
from collections.abc import Sequence
from typing import Any

from keras_fim.training.config import TrainingConfig, descriptions

DATASETS = "mnist, cifar10, gtsrb, mnist5k (needs no download), a folder of images by class, an .npz file, or tfds:NAME"
MODELS = "a .keras file, run folder, name of stored weights, MODULE:FUNCTION, or keras.applications:NAME"
_OWN = ("image_shape", "class_names", "bounds")  # attributes that have options of another form


def add_data_dir(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--data-dir``."""
    text = "Folder in which TensorFlow Datasets keeps its data (default: $TFDS_DATA_DIR or its own default)."
    parser.add_argument("--data-dir", help=text)


def add_image_size(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--image-size``."""
    text = "Height and width to which images are resized (default: those of the model, or of the images)."
    parser.add_argument("--image-size", type=int, metavar="PIXELS", help=text)


def add_bounds(parser: argparse.ArgumentParser, default: str) -> None:
    """Add the option ``--bounds``."""
    text = f"Range of the pixels that the model takes (default: {default})."
    parser.add_argument("--bounds", nargs=2, type=float, metavar=("LOW", "HIGH"), help=text)


def number(text: str) -> float:
    """A number as it is typed for ε: ``0.1`` or ``8/255``.

    Raises:
        ValueError: If it is none.
    """
    numerator, _, denominator = text.partition("/")
    try:
        return float(numerator) / float(denominator or 1)
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"should be a number, such as 0.1 or 8/255. Received: {text!r}") from None


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
        if name in _OWN or typing.get_origin(hint) is dict or name in taken or (names and name not in names):
            continue
        kind = next(kind for kind in typing.get_args(hint) or (hint,) if kind is not types.NoneType)
        value: dict[str, Any] = {"action": argparse.BooleanOptionalAction} if kind is bool else {"type": kind}
        text = texts.get(name, "").replace("%", "%%")
        parser.add_argument(f"--{name.replace('_', '-')}", default=None, help=text, **value)


def training_options(arguments: argparse.Namespace, *, skip: Sequence[str] = ()) -> dict[str, Any]:
    """The attributes of `TrainingConfig` that were given on the command line."""
    names = typing.get_type_hints(TrainingConfig).keys() - set(skip)
    return {key: value for key, value in vars(arguments).items() if key in names and value is not None}
