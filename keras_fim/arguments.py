"""Checks of arguments against the annotations of public functions, so that a wrong one is named where it is passed.

An annotation says which type is expected and, with a `Valid` in it, which values of that type are.
"""

import builtins
import collections.abc
import dataclasses
import difflib
import functools
import inspect
import math
import os
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, NamedTuple, ParamSpec, TypeAlias, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")
_PLAIN = (str, bytes, Real, list, Mapping, type(None))


class Valid(NamedTuple):
    """The values that an argument may have, as a note of its annotation.

    Attributes:
        test: Whether a value of the right type is valid.
        expected: What a value should be, for the message of the error.
    """

    test: Callable[[Any], bool]
    expected: str


def one_of(*values: str) -> Valid:
    """Some words."""
    return Valid(values.__contains__, f"one of {', '.join(values)}")


Norm: TypeAlias = Annotated[float, Valid(lambda p: p in (1, 2, math.inf), "one of 1, 2, np.inf")]
GradientNorm: TypeAlias = Annotated[float, Valid(lambda p: p in (2, math.inf), "one of 2, np.inf")]
Count: TypeAlias = Annotated[int, Valid(lambda count: count >= 1, "a positive integer")]
CountOrNone: TypeAlias = Annotated[int | None, Valid(lambda n: n is None or n >= 1, "a positive integer")]
AtLeastTwo: TypeAlias = Annotated[int, Valid(lambda count: count >= 2, "at least 2")]
Positive: TypeAlias = Annotated[float, Valid(lambda value: 0 < value < math.inf, "a positive number")]
PositiveOrNone: TypeAlias = Annotated[
    float | None, Valid(lambda x: x is None or 0 < x < math.inf, "a positive number or None")
]
NotNegative: TypeAlias = Annotated[float, Valid(lambda value: 0 <= value < math.inf, "a finite number >= 0")]
Share: TypeAlias = Annotated[float, Valid(lambda share: 0 <= share <= 1, "in [0, 1]")]
PositiveShare: TypeAlias = Annotated[float, Valid(lambda share: 0 < share <= 1, "in (0, 1]")]
ShareBelowOne: TypeAlias = Annotated[float, Valid(lambda share: 0 <= share < 1, "in [0, 1)")]
InnerShare: TypeAlias = Annotated[float, Valid(lambda share: 0 < share < 1, "in (0, 1)")]


def checked(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """A function, or an ``__init__``, that checks its arguments by their annotations: a ValueError names a wrong one.

    Any real number will do where a ``float`` is asked for, any integer for an ``int``, any sequence for a ``tuple``.
    Arrays and models are left to the function.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        _check(signature.bind(*args, **kwargs).arguments, function)
        return function(*args, **kwargs)

    call.__signature__ = signature  # type: ignore[attr-defined]  # which Keras looks at
    return call


def check_fields(instance: Any) -> None:
    """Check the fields of a dataclass, as `checked` does."""
    _check({field.name: getattr(instance, field.name) for field in dataclasses.fields(instance)}, type(instance))


def expect(valid: bool, name: str, expected: str, value: Any = None, *, received: str = "") -> None:
    """Check the value of an argument.

    Args:
        valid: Whether it is as it should be.
        name: The name of the argument.
        expected: What it should be, such as ``"a positive integer"``.
        value: What was given.
        received: What to say of it in place of its text, such as ``"3 entries"``.

    Raises:
        ValueError: If it is not valid; it says what was expected and what came.
    """
    if not valid:
        text = repr(value) if isinstance(value, str) else value
        raise ValueError(f"`{name}` should be {expected}. Received: {received or f'{name}={text}'}")


def require(valid: Any, message: str) -> None:
    """Raise a ValueError with a message of its own unless something is valid, as `expect` does with one of its form."""
    if not valid:
        raise ValueError(message)


def did_you_mean(name: str, names: Iterable[str], text: str = " (did you mean {}?)", otherwise: str = "") -> str:
    """The end of a message about a wrong name: which one is near, or ``otherwise`` if none is."""
    near = difflib.get_close_matches(name, [*names], 1)
    return text.format(*near) if near else otherwise


def _check(values: Mapping[str, Any], owner: Any) -> None:
    hints = hints_of(owner)
    for name, value in values.items():
        if not _fits(value, hint := hints.get(name, Any)):
            raise ValueError(f"`{name}` should be of type {_text(hint)}. Received: {name}={value!r:.80}")
        for note in getattr(hint, "__metadata__", ()):
            if isinstance(note, Valid):
                expect(note.test(value), name, note.expected, value)


class _Scope(dict[str, Any]):
    """The names of a module; one that only type checkers import is a class that is not looked into."""

    def __missing__(self, name: str) -> Any:
        return getattr(builtins, name) if hasattr(builtins, name) else _Scope


@functools.cache
def hints_of(owner: Any) -> dict[str, Any]:
    """Annotations as types; those that are text name what is defined later in their module."""
    hints: dict[str, Any] = {}
    for part in reversed(owner.__mro__) if inspect.isclass(owner) else [owner]:
        names = vars(inspect.getmodule(part) or typing)
        scope = _Scope(names)
        for name, hint in inspect.get_annotations(part).items():
            hints[name] = eval(hint, names, scope) if isinstance(hint, str) else hint  # our own source
    return {name: hint for name, hint in hints.items() if typing.get_origin(hint) is not typing.ClassVar}


def _text(hint: Any) -> str:
    """An annotation as it is written in our source, such as ``Bounds | None``."""
    if typing.get_origin(hint) is typing.Annotated:
        return hint.__metadata__[0] if isinstance(hint.__metadata__[0], str) else _text(hint.__origin__)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " | ".join(map(_text, typing.get_args(hint)))
    text = "None" if hint is types.NoneType else inspect.formatannotation(hint)
    return re.sub(r"\b(?:\w+\.)+(?=\w)", lambda match: "keras." if match[0].startswith("keras.") else "", text)


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint in _SIMPLE:
        return _SIMPLE[hint](value)
    if origin is typing.Annotated:
        data = isinstance(value, (Real, bytes, list, tuple, Mapping)) or type(value).__name__ == "ndarray"
        return _fits(value, hint.__origin__) and not (hint.__metadata__ == ("Model",) and data)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in inner)
    if origin is collections.abc.Callable:
        return callable(value)
    if origin in (dict, Mapping):
        return isinstance(value, Mapping)
    if origin in (tuple, list, collections.abc.Sequence):
        sized = isinstance(value, collections.abc.Sized) and getattr(value, "ndim", 1) > 0
        if isinstance(value, (str, bytes, Mapping)) or not sized:
            return False
        parts: Any = value
        return origin is tuple and inner[-1] is not ... or all(_fits(part, inner[0]) for part in parts)
    if getattr(hint, "__name__", "") == "ndarray":
        return isinstance(value, collections.abc.Sized) and not isinstance(value, (str, bytes, Mapping))
    if not inspect.isclass(hint) or not hint.__module__.startswith("keras") or isinstance(value, hint):
        return True
    # an object of another class may do what Keras or a protocol asks of it, but not a number or a list
    strict = hint.__module__.startswith("keras_fim.") and not (hint is _Scope or getattr(hint, "_is_protocol", False))
    return not (strict or isinstance(value, _PLAIN) or type(value).__name__ in ("tuple", "ndarray"))


def _is_number(value: Any, kind: type) -> bool:
    value = value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value
    return isinstance(value, kind) and not isinstance(value, bool)


_SIMPLE: dict[Any, Callable[[Any], bool]] = {
    Any: lambda value: True,
    bool: lambda value: isinstance(value, bool) or type(value).__name__ == "bool",
    int: lambda value: _is_number(value, Integral),
    float: lambda value: _is_number(value, Real),
    str: lambda value: isinstance(value, str),
    Path: lambda value: isinstance(value, (str, os.PathLike)),
    type(None): lambda value: value is None,
}
