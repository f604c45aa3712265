"""JSON schemas: as llguidance is to take them, without what it refuses and need not enforce."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from budmlx.errors import InvalidRequestError

# Bounded, so that a bounded document ends: a space, or a line's end and indentation.
WHITESPACE = r" |\n {0,32}"
SPACE = " "
# Doubled quantifiers, an error in ECMA 262, which llguidance takes for nested ones.
_DOUBLED = re.compile(r"[*+?}][*+]")
# Escapes and classes. One that is not closed goes to the end, so that nothing is read twice.
_NO_OPERATOR = re.compile(r"\\.|\[(?:\\.|[^\]\\])*(?:\]|\\?\Z)", re.DOTALL)

MAX_PATTERN = 16_384
"""Characters of a regular expression."""
FORMATS = frozenset(
    ["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"]
)
"""The values of `format` that llguidance enforces. In JSON Schema all others are annotations."""

FARTHEST = 2**63 - 2**10
"""The largest bound that llguidance takes on either side: the last double before 2**63."""

# What is under these is data, not a schema; under those, schemas that have names of any kind.
_DATA = ("enum", "const", "default", "examples", "x-guidance")
_NAMED = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")
_LOWER = ("minimum", "exclusiveMinimum")
_UPPER = ("maximum", "exclusiveMaximum")

_Change = Callable[[Mapping[str, Any], str], Mapping[str, Any]]


def constrainable(schema: Any, param: str, whitespace: str = WHITESPACE) -> dict[str, Any]:
    """A schema as llguidance is to take it; its own switches are not the caller's to set.

    Unknown formats are left out, and bounds beyond 64 bits are drawn in.

    Raises:
        InvalidRequestError: a pattern in it is none.
    """
    options = {"whitespace_pattern": whitespace}
    if not isinstance(schema, Mapping):
        return {"x-guidance": options} if schema else {"x-guidance": options, "not": {}}
    rest = {
        key: value for key, value in _mapped(schema, param, _taken).items() if key != "x-guidance"
    }
    return {"x-guidance": options, **rest}


def unknown_formats(schema: Any) -> set[str]:
    """The values of `format` in a schema that nothing enforces."""
    found: set[str] = set()

    def look(node: Mapping[str, Any], path: str) -> Mapping[str, Any]:
        if _has_unknown_format(node):
            found.add(node["format"])
        return node

    _mapped(schema, "", look)
    return found


def check_pattern(pattern: str, param: str) -> None:
    """Refuse what is too long, or no regular expression of ECMA 262. Raises InvalidRequestError."""
    if len(pattern) > MAX_PATTERN:
        raise InvalidRequestError(
            f"{param} has {len(pattern)} characters; a pattern may have {MAX_PATTERN}.", param=param
        )
    if _DOUBLED.search(_NO_OPERATOR.sub("x", pattern)):
        raise InvalidRequestError(
            f"{param} is not a regular expression: a quantifier follows a quantifier.", param=param
        )


def _taken(node: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    """An object of a schema with what llguidance takes. Raises InvalidRequestError."""
    if isinstance(pattern := node.get("pattern"), str):
        check_pattern(pattern, f"{path}.pattern")
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
    value = node.get("format")
    return isinstance(value, str) and value not in FORMATS


def _mapped(value: Any, path: str, change: _Change) -> Any:
    """A copy of a schema in which every object is changed, from the outside in. path: its own."""
    if isinstance(value, list | tuple):
        return [_mapped(each, f"{path}[{index}]", change) for index, each in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    changed = change(value, path).items()
    return {key: _mapped_under(key, each, f"{path}.{key}", change) for key, each in changed}


def _mapped_under(key: str, value: Any, path: str, change: _Change) -> Any:
    if key in _DATA:
        return value
    if key in _NAMED and isinstance(value, Mapping):
        return {name: _mapped(each, f"{path}.{name}", change) for name, each in value.items()}
    return _mapped(value, path, change)
