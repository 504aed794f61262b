"""Options that several commands share."""

import argparse
import dataclasses
import difflib
import types
import typing
from collections.abc import Sequence
from typing import Any

from keras_fim.training.config import NEW_MODEL, RECIPES, TRAINED_MODEL, TrainingConfig, descriptions
from keras_fim.training.defending import NAMES

DATASETS = "mnist, cifar10, gtsrb, mnist5k (needs no download), a folder of images by class, an .npz file, or tfds:NAME"
MODELS = "a .keras file, run folder, name of stored weights, MODULE:FUNCTION, or keras.applications:NAME"
SMOKE_TEST = "This was a smoke test: the figures show that everything works. Leave out --quick for figures to quote."
_OWN = ("image_shape", "class_names", "bounds")  # attributes that have options of another form


def add_data_dir(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--data-dir``."""
    text = "Folder of TensorFlow Datasets' data (default: $TFDS_DATA_DIR, or else ~/tensorflow_datasets)."
    parser.add_argument("--data-dir", help=text)


def add_image_size(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--image-size``."""
    text = "Height and width to which images are resized (default: those of the model, or of the images)."
    parser.add_argument("--image-size", type=int, metavar="PIXELS", help=text)


def add_bounds(parser: argparse.ArgumentParser, default: str) -> None:
    """Add the option ``--bounds``."""
    text = f"Range of the pixels that the model takes (default: {default})."
    parser.add_argument("--bounds", nargs=2, type=float, metavar=("LOW", "HIGH"), help=text)


def add_strict(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--strict``."""
    text = "Refuse a SavedModel whose graph reaches files, Python or a network, instead of warning of it."
    parser.add_argument("--strict", action="store_true", help=text)


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


def defense(text: str) -> str:
    """The name of a defense as it is typed: one of `NAMES`, or several joined by ``+``.

    Raises:
        ArgumentTypeError: If a part has no such name.
    """
    for part in text.split("+"):
        if part not in NAMES:
            near = difflib.get_close_matches(part, NAMES, 1)
            hint = f"; did you mean {near[0]}?" if near else f". The defenses are {', '.join(NAMES)}"
            raise argparse.ArgumentTypeError(f"there is no defense {part!r}{hint}")
    return text


def chunk(text: str) -> tuple[int, int]:
    """A part as it is typed: ``3/16`` as ``(3, 16)``.

    Raises:
        ArgumentTypeError: If it is none.
    """
    from keras_fim.evaluation.plans import check_chunk

    try:
        first, second = map(int, text.split("/"))
        check_chunk((first, second))
    except ValueError:
        raise argparse.ArgumentTypeError(f"should be K/N with K from 1 to N. Received: {text!r}") from None
    return first, second


def add_max_samples(parser: argparse.ArgumentParser, default: int, purpose: str) -> None:
    """Add the option ``--max-samples``."""
    text = f"Number of test images {purpose}, the same number per class as far as possible (default: %(default)s)."
    parser.add_argument("--max-samples", type=int, default=default, metavar="N", help=text)


def add_training_options(
    parser: argparse.ArgumentParser, names: Sequence[str] = (), *, data_name: str | None = None
) -> None:
    """Add options of `TrainingConfig`, with the types of its attributes, their descriptions and their defaults.

    Args:
        parser: The parser of the command.
        names: The attributes; all those with a single value that the parser does not have yet, if empty.
        data_name: The dataset whose defaults are shown; ``None`` to show how they depend on the dataset.
    """
    texts = descriptions()
    taken = {action.dest for action in parser._actions}
    for name, hint in typing.get_type_hints(TrainingConfig).items():
        if name in _OWN or typing.get_origin(hint) is dict or name in taken or (names and name not in names):
            continue
        kind = next(kind for kind in typing.get_args(hint) or (hint,) if kind is not types.NoneType)
        value: dict[str, Any] = {"action": argparse.BooleanOptionalAction} if kind is bool else {"type": kind}
        text = f"{texts.get(name, '').removesuffix('.')}{_default(name, data_name)}.".replace("%", "%%")
        parser.add_argument(f"--{name.replace('_', '-')}", default=None, help=text, **value)


def _default(name: str, data_name: str | None) -> str:
    """What an option of the training is by default, where that can be told."""
    usual = TrainingConfig.__dataclass_fields__[name].default
    settings = {**RECIPES, "a new model": NEW_MODEL, "a trained model": TRAINED_MODEL}
    values = {key: value.get(name, usual) for key, value in settings.items() if data_name in (None, key)}
    groups: dict[str, list[str]] = {}
    for key, value in values.items():
        if value is not None and value is not dataclasses.MISSING:
            groups.setdefault(_shown(value), []).append(key)
    if len(groups) < 2:
        return "".join(f" (default: {value})" for value in groups)
    return f" (default: {'; '.join(f'{value} for ' + ', '.join(keys) for value, keys in groups.items())})"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def training_options(arguments: argparse.Namespace, *, skip: Sequence[str] = ()) -> dict[str, Any]:
    """The attributes of `TrainingConfig` that were given on the command line."""
    names = typing.get_type_hints(TrainingConfig).keys() - set(skip)
    return {key: value for key, value in vars(arguments).items() if key in names and value is not None}
