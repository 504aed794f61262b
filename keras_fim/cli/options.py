"""The options of the commands, from the table ``options.json``."""

import argparse
import dataclasses
import json
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras_fim.arguments import did_you_mean
from keras_fim.training import config, defending

SMOKE_TEST = "This was a smoke test: the figures show that everything works. Leave out --quick for figures to quote."
NEAREST = "; did you mean {}?"  # what a message about a wrong name on the command line ends in
_OWN = ("image_shape", "class_names", "bounds")  # attributes that have options of another form
_TABLE = json.loads(Path(__file__).with_name("options.json").read_text(encoding="utf-8"))
_TEXTS = {**_TABLE["texts"], "defenses": ", ".join(defending.NAMES), "compared": " ".join(defending.COMPARED)}


def add_options(parser: argparse.ArgumentParser, command: str, *, data_name: str | None = None) -> None:
    """Add the options of a command.

    Args:
        parser: The parser of the command.
        command: The name of the command.
        data_name: The dataset that ``--data`` is by default; ``None`` makes it required where a command needs one.
    """
    for name, settings in _TABLE["commands"][command].items():
        if name == config.TrainingConfig.__name__:
            add_training_options(parser, settings, data_name=data_name)
        elif name == "--data" and data_name is not None:
            usual = {"required": False, "default": data_name, "default_data": f" (default: {data_name})"}
            add_option(parser, name, **{**settings, **usual})
        else:
            add_option(parser, name, **settings)


def add_option(parser: argparse.ArgumentParser, name: str, **settings: Any) -> None:
    """Add one option.

    Args:
        parser: The parser of the command.
        name: Its name, such as ``--data-dir``. One that several commands share has its settings in the table.
        **settings: As for ``add_argument``, with the name of the type; others fill gaps in the help text.
    """
    settings = {**_TABLE["shared"].get(name, {}), **settings}
    gaps = {key: settings.pop(key, "") for key in ("usual", "purpose", "default_data")}
    settings["help"] = settings["help"].format(**gaps, **_TEXTS)
    if "type" in settings:
        settings["type"] = _TYPES[settings["type"]]
    settings = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
    parser.add_argument(name, **settings)


def number(text: str) -> float:
    """A number as it is typed for ε: ``0.1`` or ``8/255``.

    Raises:
        ArgumentTypeError: If it is none.
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
        if part not in defending.NAMES:
            hint = did_you_mean(part, defending.NAMES, NEAREST, f". The defenses are {', '.join(defending.NAMES)}")
            raise argparse.ArgumentTypeError(f"there is no defense {part!r}{hint}")
    return text


def chunk(text: str) -> tuple[int, int]:
    """A part as it is typed: ``3/16`` as ``(3, 16)``.

    Raises:
        ArgumentTypeError: If it is none.
    """
    first, _, second = text.partition("/")
    if not (first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second)):
        raise argparse.ArgumentTypeError(f"should be K/N with K from 1 to N. Received: {text!r}")
    return int(first), int(second)


def option(text: str) -> tuple[str, Any]:
    """A key and its value as they are typed: ``noise=1`` as ``("noise", 1)``.

    Raises:
        ArgumentTypeError: If one of them is missing.
    """
    key, sign, value = text.partition("=")
    if not (key and sign):
        raise argparse.ArgumentTypeError(f"should be KEY=VALUE. Received: {text!r}")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


_TYPES: dict[str, Any] = {kind.__name__: kind for kind in (int, float, Path, number, defense, chunk, option)}


def add_training_options(
    parser: argparse.ArgumentParser, names: Sequence[str] = (), *, data_name: str | None = None
) -> None:
    """Add options of `TrainingConfig`, with the types of its attributes, their descriptions and their defaults.

    Args:
        parser: The parser of the command.
        names: The attributes; all those with a single value that the parser does not have yet, if empty.
        data_name: The dataset whose defaults are shown; ``None`` to show how they depend on the dataset.
    """
    texts = config.descriptions()
    taken = {action.dest for action in parser._actions}
    for name, hint in typing.get_type_hints(config.TrainingConfig).items():
        if name in _OWN or typing.get_origin(hint) is dict or name in taken or (names and name not in names):
            continue
        kind = next(kind for kind in typing.get_args(hint) or (hint,) if kind is not types.NoneType)
        value: dict[str, Any] = {"action": argparse.BooleanOptionalAction} if kind is bool else {"type": kind}
        text = f"{texts.get(name, '').removesuffix('.')}{_default(name, data_name)}.".replace("%", "%%")
        parser.add_argument(f"--{name.replace('_', '-')}", default=None, help=text, **value)


def _default(name: str, data_name: str | None) -> str:
    """What an option of the training is by default, where that can be told."""
    usual = config.TrainingConfig.__dataclass_fields__[name].default
    values = {key: recipe.get(name, usual) for key, recipe in config.RECIPES.items() if data_name in (None, key)}
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
    names = typing.get_type_hints(config.TrainingConfig).keys() - set(skip)
    return {key: value for key, value in vars(arguments).items() if key in names and value is not None}


def given(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The values of arguments by their names; those that the command does not have are left out."""
    return {name: getattr(arguments, name) for name in names if hasattr(arguments, name)}


def data_options(arguments: argparse.Namespace, name: str | None) -> Any:
    """A dataset as `keras_fim.training.inputs.DataOptions`, with the other options of a command that describe it."""
    from keras_fim.training.inputs import DataOptions

    return DataOptions(name or "", **given(arguments, "data_dir", "image_size", "bounds"))
