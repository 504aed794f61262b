"""Options are valid or named in an error, by their annotations."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import numpy as np
import pytest

from keras_fim import attacks
from keras_fim.arguments import Count, PositiveShare, Valid, checked, hints_of

LIMIT = 7  # a value that only this module knows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limited(attacks.FGSM):
    limit: Annotated[int, Valid(lambda limit: limit < LIMIT, "below the limit")] = 1


def make(kind, **options):
    return kind(attacks.FGSM(), **options) if kind is attacks.MinimalDistance else kind(**options)


@pytest.mark.parametrize(
    "kind, option, value, expected",
    [
        (attacks.MinimalDistance, "growth", 1.0, "a number > 1"),
        (attacks.MinimalDistance, "start", 0.0, "a positive number or None"),
        (attacks.FAB, "eta", 0.5, "a number >= 1"),
        (attacks.FAB, "beta", 0.0, "in (0, 1]"),
        (attacks.FMN, "step_size", -1.0, "a positive number or None"),
        (attacks.FMN, "gamma", 1.0, "in (0, 1)"),
        (attacks.JSMA, "theta", 0.0, "in [-1, 1] and not 0"),
        (attacks.JSMA, "saliency", "odds", "one of logits, probabilities"),
        (attacks.DeepFool, "norm", 1, "one of 2, np.inf"),
        (attacks.OTCM, "target", "first", "one of least_likely, second, random, given"),
        (attacks.PGD, "target", -1, "a class >= 0, 'given' or None"),
        (attacks.PGD, "seed", 2**63, "an integer of 64 bits"),
        (attacks.CarliniWagner, "confidence", np.nan, "a finite number >= 0"),
        (attacks.AutoAttack, "version", "plus", "one of standard, rand"),
        (Limited, "limit", LIMIT, "below the limit"),
    ],
)
def test_a_value_that_is_not_valid_is_named_with_what_was_expected(kind, option, value, expected):
    with pytest.raises(ValueError) as error:
        make(kind, **{option: value})
    assert str(error.value) == f"`{option}` should be {expected}. Received: {option}={value!r}"


def test_the_type_of_an_option_is_checked_first_and_named_as_it_is_written():
    with pytest.raises(ValueError, match=r"^`steps` should be of type int. Received: steps='ten'"):
        attacks.PGD(steps="ten")
    with pytest.raises(ValueError, match=r"^`step_size` should be of type float \| None. Received: step_size='long'"):
        attacks.FMN(step_size="long")


@checked
def halved(share: PositiveShare, steps: Count = 1) -> float:
    return share / 2**steps


def test_functions_are_checked_by_the_same_annotations():
    assert halved(1, steps=np.int64(2)) == 0.25
    with pytest.raises(ValueError, match=r"^`share` should be in \(0, 1\]. Received: share=0.0$"):
        halved(0.0)
    with pytest.raises(ValueError, match="^`steps` should be a positive integer. Received: steps=0$"):
        halved(0.5, steps=0)
    with pytest.raises(ValueError, match="^`share` should be of type float. Received: share='half'$"):
        halved("half")
    with pytest.raises(ValueError, match=r"^`share` should be in \(0, 1\]. Received: share=nan$"):
        halved(np.nan)


@pytest.mark.parametrize(
    "kind", [attacks.APGD, attacks.DeepFool, attacks.FMN, attacks.OTCM, attacks.PGD, attacks.Square]
)
def test_a_norm_is_a_float(kind):
    attack = kind(norm=2)
    assert isinstance(attack.norm, float) and attack == kind(norm=2.0) and repr(attack) == repr(kind(norm=2.0))


def test_every_numeric_option_says_which_values_are_valid():
    for kind in (value for name in attacks.__all__ if dataclasses.is_dataclass(value := getattr(attacks, name))):
        for name, hint in hints_of(kind).items():
            assert hint not in (int, float), f"{kind.__name__}.{name}"
