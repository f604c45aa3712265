"""One form for OpenAPI documents that mean the same."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

ANNOTATIONS = {"title", "description", "summary", "tags", "operationId"}
# The keys of these objects are names that the API gives, not words of the standard.
NAMED = {
    "$defs",
    "content",
    "dependentSchemas",
    "headers",
    "mapping",
    "paths",
    "patternProperties",
    "properties",
    "responses",
    "schemas",
    "securitySchemes",
}
# The values of these are data, in which no key means anything.
DATA = {"const", "default", "enum", "example", "examples"}
NULL = {"enum": [None]}
TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "null": type(None),
}


def normal(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with references resolved, without words for people, in a fixed order.

    Left are paths, methods, parameters, fields, types, ranges, enums, defaults and what is
    required. Components stand where they are used.
    """
    schemes = document.get("components", {}).get("securitySchemes", {})
    whole = {
        "openapi": document["openapi"],
        "servers": document.get("servers", []),
        "security": document.get("security", []),
        "securitySchemes": schemes,
        "paths": document["paths"],
    }
    result: dict[str, Any] = _node(whole, document, ())
    return result


def flat(node: Any, place: str = "") -> Iterator[str]:
    """A line for every value, with its place, so that a difference is easy to read."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from flat(value, f"{place}.{key}")
    elif isinstance(node, list) and node and isinstance(node[0], dict):
        for number, value in enumerate(node):
            yield from flat(value, f"{place}[{number}]")
    else:
        yield f"{place} = {json.dumps(node, sort_keys=True)}"


def _node(node: Any, document: Mapping[str, Any], inside: tuple[str, ...]) -> Any:
    """A schema, or any other object of the standard."""
    if isinstance(node, list):
        return [_node(item, document, inside) for item in node]
    if not isinstance(node, dict):
        return _number(node)
    if "$ref" in node:
        target = node["$ref"]
        if target in inside:
            return {"recursive": target.rpartition("/")[2]}
        rest = {key: value for key, value in node.items() if key != "$ref"}
        return _node({**_resolved(target, document), **rest}, document, (*inside, target))
    found: dict[str, Any] = {}
    for key in sorted(node.keys() - ANNOTATIONS):
        value = node[key]
        if key in DATA:
            found[key] = _number(value)
        elif key in NAMED and isinstance(value, dict):
            named = sorted(value.items())
            found[key] = {name: _node(each, document, inside) for name, each in named}
        else:
            found[key] = _node(value, document, inside)
    return _schema(found)


def _resolved(target: str, document: Mapping[str, Any]) -> dict[str, Any]:
    """What a reference names: `#/components/schemas/Name`."""
    node: Any = document
    for step in target.removeprefix("#/").split("/"):
        node = node[step.replace("~1", "/").replace("~0", "~")]
    return dict(node)


def _number(value: Any) -> Any:
    """A number that is an integer as such: JSON does not tell 1.0 from 1."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _schema(node: dict[str, Any]) -> dict[str, Any]:
    """A schema whose parts are normal, with what can be written in several ways in one."""
    if isinstance(node.get("required"), list):
        node["required"] = sorted(node["required"])
    if "const" in node:
        node["enum"] = [node.pop("const")]
    if node.get("additionalProperties") in (True, {}):
        node.pop("additionalProperties")
    for key in ("required", "default"):
        if node.get(key, 0) in ([], None):
            node.pop(key)
    if node.get("type") == "null":
        node = {key: value for key, value in node.items() if key != "type"} | NULL
    if isinstance(node.get("type"), list):
        node = _several(node)
    if "enum" in node:
        node = _enum(node)
    for key in ("allOf", "anyOf", "oneOf"):
        if key in node:
            node = _union(node, key)
    return dict(sorted(node.items()))


def _several(node: dict[str, Any]) -> dict[str, Any]:
    """A list of types as `anyOf`; the rest belongs to every type but null."""
    outer = {key: node[key] for key in ("default", "example", "examples") if key in node}
    rest = {key: value for key, value in node.items() if key not in {*outer, "type"}}
    members = [
        dict(NULL) if kind == "null" else _schema({**rest, "type": kind}) for kind in node["type"]
    ]
    return {**outer, "anyOf": members}


def _enum(node: dict[str, Any]) -> dict[str, Any]:
    """The values in order; a type that they all have says nothing more."""
    kind = TYPES.get(str(node.get("type")))
    if kind is not None and all(isinstance(value, kind) for value in node["enum"]):
        node = {key: value for key, value in node.items() if key != "type"}
    return {**node, "enum": sorted(node["enum"], key=_text)}


def _union(node: dict[str, Any], key: str) -> dict[str, Any]:
    """Without unions in unions, enums in one, in order; alone, a member is no union."""
    members: list[dict[str, Any]] = []
    for member in node[key]:
        members += member[key] if member.keys() == {key} else [member]
    if key != "allOf":
        values = [
            value for member in members if member.keys() == {"enum"} for value in member["enum"]
        ]
        members = [member for member in members if member.keys() != {"enum"}]
        members += [{"enum": sorted(values, key=_text)}] if values else []
    members = sorted(members, key=_text)
    rest = {name: value for name, value in node.items() if name != key}
    if len(members) == 1 and not members[0].keys() & rest.keys():
        return {**rest, **members[0]}
    return {**rest, key: members}


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
