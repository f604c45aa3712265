"""Schemas of tools, and JSON text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]
"""A JSON schema of an object of arguments."""

MAX_REFERENCES = 8
"""Levels of schemas in schemas that are read."""


def properties(schema: Schema) -> dict[str, Any]:
    """The schemas of the properties of an object."""
    found = schema.get("properties")
    return found if isinstance(found, dict) else {}


def part(schema: Any, root: Schema) -> dict[str, Any]:
    """The schema of a value as one of its own, with the definitions that it may refer to."""
    shared = {word: root[word] for word in ("$defs", "definitions", "x-guidance") if word in root}
    return {**shared, **schema} if isinstance(schema, dict) else shared


def required(schema: Schema) -> list[Any]:
    """The names of the properties that an object must have."""
    return _list(schema.get("required"))


def kinds(schema: Any, root: Schema, depth: int = 0) -> frozenset[str]:
    """The JSON types that a schema allows, as far as it names them; empty: any."""
    return frozenset(_kinds(schema, root, depth))


def _kinds(schema: Any, root: Schema, depth: int) -> Iterator[str]:
    if not isinstance(schema, dict) or depth > MAX_REFERENCES:
        return
    yield from (name for name in _list(schema.get("type")) if isinstance(name, str))
    yield from map(kind, _list(schema.get("enum")))
    if "const" in schema:
        yield kind(schema["const"])
    for word in ("anyOf", "oneOf", "allOf"):
        for inner in _list(schema.get(word)):
            yield from _kinds(inner, root, depth + 1)
    if isinstance(reference := schema.get("$ref"), str):
        yield from _kinds(_resolve(reference, root), root, depth + 1)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _resolve(reference: str, root: Schema) -> Any:
    """The target of a reference into the same schema (`#/$defs/name`)."""
    found: Any = root
    for part in reference.removeprefix("#").split("/")[1:]:
        found = found.get(part) if isinstance(found, dict) else None
    return found


def kind(value: Any) -> str:
    """The JSON type of a value."""
    for name, types in (
        ("boolean", bool),
        ("integer", int),
        ("number", float),
        ("string", str),
        ("array", list),
        ("object", dict),
    ):
        if isinstance(value, types):
            return name
    return "null"


def dumps(value: Any) -> str:
    """JSON, readable where it can be encoded."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isascii() or _encodes(text) else json.dumps(value)


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def object_text(members: dict[str, str]) -> str:
    """The text of an object, of keys and JSON texts."""
    return "{" + ", ".join(f"{dumps(key)}: {text}" for key, text in members.items()) + "}"
