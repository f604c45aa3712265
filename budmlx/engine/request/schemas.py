"""JSON schemas: as llguidance is to take them, without what it refuses and need not enforce."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from budmlx.errors import InvalidRequestError

# Bounded, so that a bounded document ends: a space, or a line's end and indentation.
WHITESPACE = r" |\n {0,32}"
SPACE = " "
# Doubled quantifiers, an error in ECMA 262, which llguidance takes for nested ones.
_DOUBLED = re.compile(r"[*+?}][*+]")
_NO_OPERATOR = re.compile(r"\\.|\[(?:\\.|[^\]\\])*\]", re.DOTALL)

FORMATS = frozenset(
    ["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"]
)
"""The values of `format` that llguidance enforces. In JSON Schema all others are annotations."""

FARTHEST = 2**63 - 2**10
"""The largest bound that llguidance takes on either side: the last double before 2**63."""

# What is under these is data, not a schema.
_DATA = ("enum", "const", "default", "examples", "x-guidance")
_LOWER = ("minimum", "exclusiveMinimum")
_UPPER = ("maximum", "exclusiveMaximum")


def constrainable(schema: Any, param: str, whitespace: str = WHITESPACE) -> dict[str, Any]:
    """A schema as llguidance is to take it; its own switches are not the caller's to set.

    Unknown formats are left out, and bounds beyond 64 bits are drawn in.

    Raises:
        InvalidRequestError: a pattern in it is none.
    """
    for path, pattern in _patterns(schema, param):
        check_pattern(pattern, path)
    options = {"whitespace_pattern": whitespace}
    if not isinstance(schema, Mapping):
        return {"x-guidance": options} if schema else {"x-guidance": options, "not": {}}
    rest = {key: value for key, value in _mapped(schema, _taken).items() if key != "x-guidance"}
    return {"x-guidance": options, **rest}


def unknown_formats(schema: Any) -> set[str]:
    """The values of `format` in a schema that nothing enforces."""
    found: set[str] = set()

    def look(node: Mapping[str, Any]) -> Mapping[str, Any]:
        if _has_unknown_format(node):
            found.add(node["format"])
        return node

    _mapped(schema, look)
    return found


def check_pattern(pattern: str, param: str) -> None:
    """Refuse what is no regular expression of ECMA 262. Raises InvalidRequestError."""
    if _DOUBLED.search(_NO_OPERATOR.sub("x", pattern)):
        raise InvalidRequestError(
            f"{param} is not a regular expression: a quantifier follows a quantifier.", param=param
        )


def _taken(node: Mapping[str, Any]) -> Mapping[str, Any]:
    """An object of a schema with what llguidance takes."""
    changed = {key: value for key, value in node.items() if _is_number(value)}
    for key in _LOWER:
        if key in changed:
            changed[key] = max(changed[key], -FARTHEST)
    for key in _UPPER:
        if key in changed:
            changed[key] = min(changed[key], FARTHEST)
    left_out = ("format",) if _has_unknown_format(node) else ()
    return {key: changed.get(key, value) for key, value in node.items() if key not in left_out}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _has_unknown_format(node: Mapping[str, Any]) -> bool:
    # A property may be called format: what it has is an object.
    value = node.get("format")
    return isinstance(value, str) and value not in FORMATS


def _mapped(value: Any, change: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> Any:
    """A copy of a schema in which every object is changed, from the outside in."""
    if isinstance(value, Mapping):
        return {
            key: each if key in _DATA else _mapped(each, change)
            for key, each in change(value).items()
        }
    if isinstance(value, list | tuple):
        return [_mapped(each, change) for each in value]
    return value


def _patterns(schema: Any, path: str) -> Iterator[tuple[str, str]]:
    """Regular expressions in a schema, with their places."""
    if isinstance(schema, Mapping):
        for key, value in schema.items():
            if key == "pattern" and isinstance(value, str):
                yield f"{path}.{key}", value
            elif key not in ("enum", "const", "default", "examples"):
                yield from _patterns(value, f"{path}.{key}")
    elif isinstance(schema, list):
        for index, value in enumerate(schema):
            yield from _patterns(value, f"{path}[{index}]")
