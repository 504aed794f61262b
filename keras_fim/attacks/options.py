"""The options of attacks: annotations that say which values are valid, and the one check of all of them."""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, TypeAlias

import numpy as np

from keras_fim.arguments import check_fields, expect, hints_of


class Valid(NamedTuple):
    """The values that an option may have, as a note of its annotation.

    Attributes:
        test: Whether a value of the right type is valid.
        expected: What a value should be, for the message of the error.
    """

    test: Callable[[Any], bool]
    expected: str


def one_of(*values: str) -> Valid:
    """Some words."""
    return Valid(values.__contains__, f"one of {', '.join(values)}")


Norm: TypeAlias = Annotated[float, Valid(lambda p: p in (1, 2, np.inf), "one of 1, 2, np.inf")]
GradientNorm: TypeAlias = Annotated[float, Valid(lambda p: p in (2, np.inf), "one of 2, np.inf")]
Count: TypeAlias = Annotated[int, Valid(lambda count: count >= 1, "a positive integer")]
Positive: TypeAlias = Annotated[float, Valid(lambda value: 0 < value < np.inf, "a positive number")]
PositiveOrNone: TypeAlias = Annotated[
    float | None, Valid(lambda value: value is None or 0 < value < np.inf, "a positive number")
]
NotNegative: TypeAlias = Annotated[float, Valid(lambda value: 0 <= value < np.inf, "a number >= 0")]
Share: TypeAlias = Annotated[float, Valid(lambda share: 0 <= share <= 1, "in [0, 1]")]
PositiveShare: TypeAlias = Annotated[float, Valid(lambda share: 0 < share <= 1, "in (0, 1]")]
InnerShare: TypeAlias = Annotated[float, Valid(lambda share: 0 < share < 1, "in (0, 1)")]


def check_options(attack: Any) -> None:
    """Check the fields of an attack, types first, and make its norm a float.

    Raises:
        ValueError: If one is not valid; it says what was expected and what came.
    """
    check_fields(attack)
    hints = hints_of(attack.__class__)
    for name in (field.name for field in dataclasses.fields(attack)):
        for note in getattr(hints.get(name), "__metadata__", ()):
            if isinstance(note, Valid):
                expect(note.test(value := getattr(attack, name)), name, note.expected, value)
    if "norm" in hints:
        object.__setattr__(attack, "norm", float(attack.norm))
