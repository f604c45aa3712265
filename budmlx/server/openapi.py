"""The OpenAPI 3.1 document, built from the table of endpoints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import msgspec
from msgspec import Struct
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

import budmlx
from budmlx.server.dialects.base import Dialects
from budmlx.server.endpoints import Endpoint
from budmlx.server.security import OPEN_ROUTES

Schema = dict[str, Any]

REF = "#/components/schemas/"

INTRODUCTION = """\
A model on this machine. {dialects} Query strings are ignored but for the fields that are listed.
Where API keys are configured, all but `/health`, `/ready`, the page at `/` with its files, `/docs`
and this document need one.
Routes of plugins are not listed."""

RANGES = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
"""Pydantic's names for the bounds of a type that has validators of its own."""


@cache
def document(dialects: Dialects, others: Sequence[Endpoint], *, needs_key: bool) -> bytes:
    """The document as JSON.

    others: the endpoints of no dialect; their errors are those of the default one.
    needs_key: whether API keys are configured.
    """
    default, *_ = dialects
    groups = [(dialect.error_reply, tuple(dialect.endpoints)) for dialect in dialects]
    groups.append((default.error_reply, tuple(others)))
    schemes: Schema = {}
    for dialect in dialects:
        schemes |= dialect.key_schemes
    refs, schemas = _schemas(groups)
    said = " ".join(dialect.introduction for dialect in dialects)
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "budmlx",
                "version": budmlx.__version__,
                "description": INTRODUCTION.format(dialects=said),
            },
            "servers": [{"url": "/"}],
            "security": [{name: []} for name in schemes] if needs_key else [],
            "paths": _paths(groups, refs),
            "components": {"schemas": schemas, "securitySchemes": schemes},
        }
    )


Group = tuple[type[Struct], tuple[Endpoint, ...]]
"""Endpoints, and the shape of their errors."""

Refs = dict[type, Schema]
"""References to the schemas of bodies and replies."""


def _paths(groups: Sequence[Group], refs: Refs) -> Schema:
    paths: Schema = {}
    for error, endpoints in groups:
        for endpoint in endpoints:
            operations = paths.setdefault(endpoint.path, {})
            operations[endpoint.method.lower()] = _operation(endpoint, refs, error)
    return paths


def _operation(endpoint: Endpoint, refs: Refs, error: type[Struct]) -> Schema:
    operation: Schema = {"summary": endpoint.summary}
    if parameters := [*_variables(endpoint), *_query(endpoint)]:
        operation["parameters"] = parameters
    if endpoint.body is not None:
        content = {"application/json": {"schema": refs[endpoint.body]}}
        operation["requestBody"] = {"required": True, "content": content}
    if endpoint.form:
        content = {"multipart/form-data": {"schema": dict(endpoint.form)}}
        operation["requestBody"] = {"required": True, "content": content}
    errors = dict(sorted(endpoint.errors.items()))
    if endpoint.path in OPEN_ROUTES:
        errors.pop(401)
        operation["security"] = []
    done = {"description": "Done.", "headers": _headers(200), "content": _content(endpoint, refs)}
    failed = {
        str(status): {
            "description": sentence,
            "headers": _headers(status),
            "content": {"application/json": {"schema": refs[error]}},
        }
        for status, sentence in errors.items()
    }
    return {**operation, "responses": {"200": done, **failed}}


def _variables(endpoint: Endpoint) -> Iterator[Schema]:
    """The variables of the path."""
    for name, sentence in endpoint.parameters.items():
        schema = {"type": "string", "minLength": 1}
        yield {
            "name": name,
            "in": "path",
            "required": True,
            "description": sentence,
            "schema": schema,
        }


def _query(endpoint: Endpoint) -> Iterator[Schema]:
    """The fields of the query string."""
    for name, described in endpoint.query.items():
        schema = {key: value for key, value in described.items() if key != "description"}
        yield {
            "name": name,
            "in": "query",
            "description": described["description"],
            "schema": schema,
        }


def _content(endpoint: Endpoint, refs: Refs) -> Schema:
    """The schemas of a successful response, by content type."""
    content: Schema = {}
    if endpoint.reply is not None:
        content["application/json"] = {"schema": refs[endpoint.reply]}
    else:
        for content_type in endpoint.content_types:
            kind = "object" if content_type == "application/json" else "string"
            content[content_type] = {"schema": {"type": kind}}
    if (streamed := endpoint.streamed) is not None:
        content[streamed.content_type] = {
            "schema": {"type": "string", "description": streamed.description},
            "x-event": refs[streamed.event],
        }
    return content


def _headers(status: int) -> Schema:
    headers: Schema = {"X-Request-Id": {"schema": {"type": "string"}}}
    if status in (429, 503):
        seconds = {"type": "string", "pattern": "^[0-9]+$"}
        headers["Retry-After"] = {"description": "Seconds.", "schema": seconds}
    return headers


def _schemas(groups: Sequence[Group]) -> tuple[Refs, Schema]:
    """The schemas that the paths refer to: the reference to each, and all of them by name."""
    bodies: dict[type[BaseModel], None] = {}
    replies: dict[type[Struct], None] = {}
    for error, endpoints in groups:
        for each in endpoints:
            bodies |= {} if each.body is None else {each.body: None}
            replies |= {} if each.reply is None else {each.reply: None}
            replies |= {} if each.streamed is None else {each.streamed.event: None}
        replies[error] = None
    input_refs, found = models_json_schema(
        [(body, "validation") for body in bodies], ref_template=REF + "{model}"
    )
    # A name of two shapes would hide one of them.
    output_refs, described = msgspec.json.schema_components(replies, ref_template=REF + "{name}")
    refs: Refs = {model: ref for (model, _), ref in input_refs.items() if isinstance(model, type)}
    refs |= dict(zip(replies, output_refs, strict=True))
    assert not found["$defs"].keys() & described.keys(), "a body and a reply of one name"
    return refs, {**_standard(found["$defs"]), **described}


def _standard(node: Any) -> Any:
    """A schema in the standard's words, without titles."""
    if isinstance(node, list):
        return [_standard(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        RANGES.get(key, key): _standard(value)
        for key, value in node.items()
        if key != "title" or isinstance(value, dict)
    }
