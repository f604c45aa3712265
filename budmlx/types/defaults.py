"""Default sampling parameters: a model's own values for what requests do not say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from budmlx.errors import InvalidRequestError
from budmlx.types.sampling import RANGES, SamplingParams

DEFAULTED = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "typical_p",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "repetition_window",
)
"""The sampling parameters for which a model may have defaults of its own."""

BUILT_IN = SamplingParams()
"""What neither a request nor a model says."""


@dataclass(frozen=True, slots=True)
class SamplingDefault:
    """The value of a parameter that a request does not say, and where it was set.

    source: `config` is the setting `default_sampling`.
    """

    value: float
    source: Literal["generation_config.json", "config", "built in"] = "built in"


def default_value(name: str, value: object) -> float:
    """A value that may be the default of a parameter; a text is read as a number.

    Raises:
        InvalidRequestError: the parameter can have no such default; `param` names it.
    """
    if name not in DEFAULTED:
        known = ", ".join(DEFAULTED)
        raise InvalidRequestError(f"{name} can have no default; {known} can.", param=name)
    whole = isinstance(getattr(BUILT_IN, name), int)
    try:
        number = float(value) if isinstance(value, int | float | str) else None
    except (ValueError, OverflowError):
        number = None
    if number is None or isinstance(value, bool) or (whole and not number.is_integer()):
        kind = "an integer" if whole else "a number"
        raise InvalidRequestError(f"{name} must be {kind}.", param=name)
    low, high = RANGES[name]
    if not low <= number <= high:
        raise InvalidRequestError(f"{name} must be between {low} and {high}.", param=name)
    return int(number) if whole else number
