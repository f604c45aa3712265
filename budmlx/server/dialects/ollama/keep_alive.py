"""`keep_alive`: how long a model stays loaded when nobody uses it."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from aiohttp import web
from pydantic import PlainValidator
from pydantic.json_schema import WithJsonSchema
from pydantic_core import PydanticCustomError

from budmlx.server.admin import is_admin

FOR_GOOD = 100 * 365 * 86400.0
"""Seconds. A time that is longer has no end, as it is more than dates can say."""
_UNITS = {"ns": 1e-9, "us": 1e-6, "\u00b5s": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = r"(?:[0-9]{1,12}(?:\.[0-9]{0,9})?)(?:ns|us|\u00b5s|ms|s|m|h)"
_DURATION = rf"[-+]?(?:(?:{_PART}){{1,8}}|[0-9]{{1,12}}(?:\.[0-9]{{1,9}})?)"


def _seconds(value: Any) -> float:
    if isinstance(value, str) and re.fullmatch(_DURATION, value):
        parts = re.findall(r"([0-9.]+)([^0-9.+-]*)", value)
        amount = sum(float(number) * _UNITS.get(unit, 1.0) for number, unit in parts)
        value = -amount if value.startswith("-") else amount
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PydanticCustomError(
            "keep_alive", 'Input should be a number of seconds or a duration such as "5m"'
        )
    return float(value) if 0 <= value <= FOR_GOOD else math.inf


KeepAlive = Annotated[
    float,
    PlainValidator(_seconds),
    WithJsonSchema(
        {"anyOf": [{"type": "number"}, {"type": "string", "pattern": f"^{_DURATION}$"}]}
    ),
]
"""Seconds; infinite where a client gives a negative number, or one above `FOR_GOOD`."""


def granted(request: web.Request, seconds: float | None, warnings: list[str]) -> float | None:
    """The time that a request may set; None if it sets none. warnings: gets why it may not."""
    if seconds is None or is_admin(request):
        return seconds
    warnings.append("`keep_alive` has no effect: it needs admin rights.")
    return None
