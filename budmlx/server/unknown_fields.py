"""Fields that no wire model has: refused, or reported as warnings.

A parameter is honoured, refused with 400, or reported as a warning. Honoured ones are
fields of the wire models; this module decides about the rest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from budmlx.errors import InvalidRequestError
from budmlx.server.errors import param_path

Loc = tuple[str | int, ...]
Extra = tuple[Loc, Mapping[str, Any]]
"""Where an object stands in the request, and its fields that nothing here knows."""


@dataclass(frozen=True, slots=True)
class KnownFields:
    """The fields that a dialect knows although its models lack them, by their path.

    neutral: those that would change the answer, with the values that do not.
    without_effect: those that change no answer; a warning says that they did nothing.
    silent: those that change no answer and that clients send without meaning anything by it.
    """

    neutral: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    without_effect: frozenset[str] = frozenset()
    silent: frozenset[str] = frozenset()


def review(extra: Extra, known: KnownFields, *, strict: bool) -> Iterator[str]:
    """Judge what an object has beyond its wire model: one warning per field without effect.

    Raises InvalidRequestError for a field that would have changed the answer, and for an
    unknown one if `strict`.
    """
    loc, fields = extra
    for name, value in fields.items():
        path = param_path((*loc, name)) or name
        kind = ".".join(str(step) for step in (*loc, name) if not isinstance(step, int))
        if kind in known.neutral:
            if not any(_same(value, neutral) for neutral in known.neutral[kind]):
                raise InvalidRequestError(_refusal(path, known.neutral[kind]), param=path)
        elif kind in known.silent:
            continue
        elif kind in known.without_effect:
            yield f"`{path}` has no effect here."
        elif strict:
            raise InvalidRequestError(f"`{path}` is not a known parameter.", param=path)
        else:
            yield f"`{path}` is not a known parameter and was ignored."


def _refusal(path: str, neutral: tuple[Any, ...]) -> str:
    choices = "".join(f" or set it to {json.dumps(value)}" for value in neutral[:1])
    return f"`{path}` is not supported yet; leave it out{choices}."


def _same(value: Any, neutral: Any) -> bool:
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)
