"""The OpenAPI 3.1 document of the server's own endpoints, made from the wire models."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
from pydantic.json_schema import models_json_schema

import budmlx
from budmlx.server.dialects.openai.body import Body
from budmlx.server.dialects.openai.openapi_fields import MESSAGE, NOTES, SCHEMAS, Schema
from budmlx.server.dialects.openai.request import ChatRequest
from budmlx.server.dialects.openai.shapes import ChatCompletion, Chunk
from budmlx.server.dialects.openai.text_reply import TextCompletion
from budmlx.server.dialects.openai.text_request import CompletionRequest
from budmlx.server.dialects.openai.token_shapes import (
    DetokenizeRequest,
    Text,
    TokenizeRequest,
    Tokens,
)

BODIES: tuple[type[Body], ...] = (
    ChatRequest, CompletionRequest, TokenizeRequest, DetokenizeRequest,
)  # fmt: skip
REPLIES: tuple[type[msgspec.Struct], ...] = (ChatCompletion, Chunk, TextCompletion, Tokens, Text)
REF = "#/components/schemas/"
NULLABLE: Schema = {"type": ["string", "null"]}

INTRODUCTION = """\
A model on this machine behind the chat-completions protocol. Paths under `/v1` answer without that
prefix and under `/v1/v1`, too; query strings are ignored. An explicit null is the same as an absent
field. A parameter is honoured, refused with 400 that names it, or listed in `warnings`. Where API
keys are configured, all but `/health`, `/ready`, `/docs` and this document need one.
Routes of plugins are not listed."""

ERRORS = {
    400: "The request is wrong; `error.param` says where.",
    401: "The API key is missing or wrong.",
    403: "The Host is not served here, or the request comes from a foreign web page.",
    404: "Nothing answers to this model name, or there is no such path.",
    408: "The body arrived too slowly.",
    413: "The body is too large.",
    415: "The body is not JSON in UTF-8, or its compression is unknown.",
    417: "Only `Expect: 100-continue` is understood.",
    422: "The same as 400, for bud-sdk, which shows no reason for that.",
    429: "The API key made too many requests.",
    500: "This request failed; it would fail again.",
    503: "Too many requests, or the model is not available now.",
}
ALWAYS = (400, 401, 403, 417, 500)
WITH_BODY = (*ALWAYS, 404, 408, 413, 415, 422, 429, 503)

EVENTS = (
    "Server-sent events: `data:` lines, each the JSON of a {name}, then `data: [DONE]`. Lines that "
    "begin with a colon keep the connection alive. An error after the first event is the last "
    'one: `{{"error": ..., "status_code": ...}}`.'
)


@cache
def document(*, needs_key: bool) -> bytes:
    """The document as JSON. needs_key: whether API keys are configured."""
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {"title": "budmlx", "version": budmlx.__version__, "description": INTRODUCTION},
            "servers": [{"url": "/"}],
            "security": [{"key": []}] if needs_key else [],
            "paths": _paths(),
            "components": {
                "schemas": _schemas(),
                "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            },
        }
    )


def _paths() -> Schema:
    """Every endpoint; the order is that of the page."""
    message = _object(message="string", status="string")
    return {
        "/v1/chat/completions": {
            "post": _post("Answer a conversation", ChatRequest, ChatCompletion, Chunk)
        },
        "/v1/completions": {
            "post": _post("Continue raw text", CompletionRequest, TextCompletion, TextCompletion)
        },
        "/v1/models": {"get": _get("List every name that is served", _ref("ModelList"))},
        "/v1/models/{id}": {
            "get": _get("Describe one name", _ref("Model"), 404)
            | {
                "parameters": [
                    {
                        "name": "id",
                        "in": "path",
                        "required": True,
                        "description": "It may hold slashes, escaped or not.",
                        "schema": {"type": "string", "minLength": 1},
                    }
                ]
            }
        },
        "/v1/tokenize": {"post": _post("Token ids of raw text", TokenizeRequest, Tokens)},
        "/v1/detokenize": {"post": _post("Text of token ids", DetokenizeRequest, Text)},
        "/v1/apply_template": {
            "post": _post("The prompt that the body of a chat becomes", ChatRequest, Tokens)
        },
        "/health": {"get": _get("The process lives", message, open_=True)},
        "/ready": {"get": _get("The model makes progress", message, 503, open_=True)},
        "/v1/tcp_warming": {"get": _get("Open a connection; the answer is empty", None)},
        "/openapi.json": {"get": _get("This document", {"type": "object"}, open_=True)},
        "/docs": {"get": _get("A page that shows it", None, media="text/html", open_=True)},
    }


def _get(
    summary: str,
    reply: Schema | None,
    *statuses: int,
    media: str = "application/json",
    open_: bool = False,
) -> Schema:
    content: Schema = {media: {"schema": reply or {"type": "string"}}}
    if reply is None and media == "application/json":
        content = {}
    operation: Schema = {"summary": summary, "responses": _responses(content, (*ALWAYS, *statuses))}
    if open_:
        operation["responses"].pop("401")
        operation["security"] = []
    return operation


def _post(
    summary: str,
    body: type[Body],
    reply: type[msgspec.Struct],
    event: type[msgspec.Struct] | None = None,
) -> Schema:
    content: Schema = {"application/json": {"schema": _ref(reply.__name__)}}
    if event is not None:
        content["text/event-stream"] = {
            "schema": {"type": "string", "description": EVENTS.format(name=event.__name__)},
            "x-event": _ref(event.__name__),
        }
    return {
        "summary": summary,
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _ref(body.__name__)}},
        },
        "responses": _responses(content, WITH_BODY),
    }


def _responses(content: Schema, statuses: tuple[int, ...]) -> Schema:
    error = {"application/json": {"schema": _ref("Error")}}
    request_id = {"X-Request-Id": {"schema": {"type": "string"}}}
    responses: Schema = {"200": {"description": "Done.", "headers": request_id, "content": content}}
    for status in sorted(statuses):
        headers: Schema = dict(request_id)
        if status in (429, 503):
            headers["Retry-After"] = {
                "description": "Seconds.", "schema": {"type": "string", "pattern": "^[0-9]+$"},
            }  # fmt: skip
        responses[str(status)] = {
            "description": ERRORS[status], "headers": headers, "content": error,
        }  # fmt: skip
    return responses


def _schemas() -> Schema:
    _, found = models_json_schema(
        [(body, "validation") for body in BODIES], ref_template=REF + "{model}"
    )
    requests = {name: _request(name, schema) for name, schema in found["$defs"].items()}
    requests["ChatMessage"] |= MESSAGE
    requests.pop("CachePolicy", None)  # `cache` has a schema of its own.
    _, replies = msgspec.json.schema_components(REPLIES, ref_template=REF + "{name}")
    model = _object(id="string", object="string", created="integer", owned_by="string")
    models = _object(object="string")
    models["properties"]["data"] = {"type": "array", "items": _ref("Model")}
    return {**requests, **replies, "Model": model, "ModelList": models, "Error": _error()}


def _request(model: str, schema: Schema) -> Schema:
    """The schema of a wire model as it is meant: null is absent, ranges have standard names."""
    properties = schema.get("properties", {})
    body = model in {body.__name__ for body in BODIES}
    for name, given in properties.items():
        field = _standard(given)
        default, sentence = field.pop("default", None), field.pop("description", None)
        if body:
            field = SCHEMAS.get(name, field)
        if name not in schema.get("required", ()) and {"type": "null"} not in field.get(
            "anyOf", ()
        ):
            field = {"anyOf": [field, {"type": "null"}]}
        if body and sentence is None:
            sentence = NOTES.get(name)
        notes = {} if sentence is None else {"description": sentence}
        extra = {} if default is None else {"default": default}
        properties[name] = {**notes, **field, **extra}
    return {key: value for key, value in schema.items() if key != "title"}


RANGES = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
"""What pydantic calls the bounds of a type that has validators of its own."""


def _standard(node: Any) -> Any:
    if isinstance(node, list):
        return [_standard(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {RANGES.get(key, key): _standard(value) for key, value in node.items() if key != "title"}


def _error() -> Schema:
    """The schema of `Failure.body`, which all errors have."""
    error = _object(message="string", type="string")
    error["properties"] |= {"param": NULLABLE, "code": NULLABLE}
    error["required"] += ["param", "code"]
    whole = _object(message="string", description="string", extras="object", status_code="integer")
    whole["properties"] |= {"error": error, "key": {"type": "null"}}
    whole["required"] += ["error", "key"]
    return whole


def _object(**types: str) -> Schema:
    properties = {name: {"type": kind} for name, kind in types.items()}
    return {"type": "object", "required": list(types), "properties": properties}


def _ref(name: str) -> Schema:
    return {"$ref": REF + name}
