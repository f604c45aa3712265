"""Sampling parameters: what their declarations say is what is checked."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import pytest

from budmlx.errors import InvalidRequestError
from budmlx.types import MAX_BIAS, MAX_BIASES, PARAMETERS, RANGES, SamplingParams


def refused(**params: Any) -> str | None:
    with pytest.raises(InvalidRequestError) as caught:
        SamplingParams(**params)
    return caught.value.param


def test_every_field_says_what_it_does() -> None:
    assert list(PARAMETERS) == [field.name for field in fields(SamplingParams)]
    for param in PARAMETERS.values():
        assert param.sentence[0].isupper() and param.sentence.endswith(".")


def test_every_number_has_bounds_that_its_default_keeps() -> None:
    numbers = {"int", "float"}
    hints = SamplingParams.__annotations__
    for field in fields(SamplingParams):
        kind = hints[field.name].removeprefix("Annotated[").partition(",")[0]
        assert (field.name in RANGES) == (kind.partition(" ")[0] in numbers)
        if field.name in RANGES and field.default is not None:
            low, high = RANGES[field.name]
            assert low <= field.default <= high


@pytest.mark.parametrize("name", RANGES)
def test_bounds_are_inclusive_and_checked(name: str) -> None:
    low, high = RANGES[name]
    rest = {"max_tokens": None} if name == "min_tokens" else {}
    for value in (low, high):
        assert getattr(SamplingParams(**{name: value, **rest}), name) == value
    beyond = 1 if isinstance(high, int) and high > 1000 else 1e-6
    assert refused(**{name: low - beyond}) == refused(**{name: high + beyond}) == name
    assert refused(**{name: math.nan}) == name


def test_what_no_range_says_is_checked() -> None:
    assert refused(stop=("a", "")) == "stop"
    assert refused(max_tokens=3, min_tokens=4) == "min_tokens"
    assert refused(logit_bias=((1, MAX_BIAS + 1),)) == "logit_bias"
    assert refused(logit_bias=((1, -math.inf),)) == "logit_bias"
    assert refused(logit_bias=((1, 0.0),) * (MAX_BIASES + 1)) == "logit_bias"
