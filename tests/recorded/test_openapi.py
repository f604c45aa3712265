"""The OpenAPI document still says what it said when it was recorded."""

from __future__ import annotations

import asyncio
import copy
import json
from pathlib import Path
from typing import Any

import pytest

from tests.recorded.exchanges import servers
from tests.recorded.schemas import flat, normal
from tests.server.tools import exchange, get

RECORDED: dict[str, Any] = json.loads((Path(__file__).parent / "openapi.json").read_text("utf-8"))


async def current() -> dict[str, Any]:
    async with servers("thread") as running:
        document: dict[str, Any] = (await exchange(running["tiny"], get("/openapi.json"))).json
        return document


def lines(document: dict[str, Any]) -> set[str]:
    return set(flat(normal(document)))


NEW_FIELDS = ("root", "parent", "state", "max_model_len", "error", "residence", "speculation")
NEW_FIELDS += (
    "type",
    "display_name",
    "created_at",
    "max_input_tokens",
    "max_tokens",
    "draft_model",
)
CORRECTED = (
    # Lists and token ids were never taken there.
    "/v1/tokenize.post.requestBody.content.application/json.schema.properties.prompt.",
    # Null was always taken there.
    ".json_schema.properties.name.",
    # Null was always taken as the type, and allowed tools came later.
    ".tool_choice.anyOf[1].",
    ".tool_choice.anyOf[2].",
    # What was chosen for the device came later.
    "/ready.get.responses.200.content.application/json.schema.properties.numbers.",
    # So did adapters, and budgets of reasoning.
    ".schema.properties.adapter.",
    ".schema.properties.max_reasoning_tokens.",
    # So did vectors of texts, rankings and decisions.
    ".paths./v1/embeddings.",
    ".paths./v1/rerank.",
    ".paths./v2/rerank.",
    ".paths./v1/decisions.",
    ".schema.properties.speculation.",
    ".schema.properties.priority.",
    ".schema.properties.prediction.",
    # So did several models, and what may be done with them.
    ".paths./v1/estimate.",
    ".paths./v1/models/load.",
    ".paths./v1/models/unload.",
    ".paths./v1/models/pull.",
    ".paths./v1/models/{id}.delete.",
    "/ready.get.responses.200.content.application/json.schema.properties.problems.",
    # So did limits of keys, and settings that change while the server runs.
    ".paths./v1/usage.",
    # So did files and batches.
    ".paths./v1/files",
    ".paths./v1/batches",
    ".paths./v1/reload.",
    # So did other protocols.
    ".paths./.",
    ".paths./api/",
    ".paths./v1/fim/",
    ".paths./v1/messages",
    ".paths./v1/log_level.",
    ".paths./metrics.",
    ".paths./page/{file}.",
    ".paths./v1/watch.",
    ".paths./v1/requests/",
    ".paths./v1/log.",
    ".paths./v1/responses",
    ".paths./v1/chat/completions/input_tokens.",
    ".paths./v1/models.get.parameters",
    *(
        f".paths./v1/models.get.responses.200.content.application/json.schema.{field}"
        for field in (
            "required",
            "properties.has_more",
            "properties.first_id",
            "properties.last_id",
        )
    ),
    ".securitySchemes.x-api-key.",
    *(
        f".paths./v1/models{place}.{field}"
        for place in (
            ".get.responses.200.content.application/json.schema.properties.data.items",
            "/{id}.get.responses.200.content.application/json.schema",
        )
        for field in ("required", *map("properties.{}.".format, NEW_FIELDS))
    ),
)
"""Places of which the recorded document said what was not so."""


def comparable(document: dict[str, Any]) -> set[str]:
    return {line for line in lines(document) if not any(place in line for place in CORRECTED)}


def test_the_document_means_what_it_meant() -> None:
    now, then = comparable(asyncio.run(current())), comparable(RECORDED)
    assert {"gone": sorted(then - now), "new": sorted(now - then)} == {"gone": [], "new": []}


def wrapped(schema: Any) -> dict[str, Any]:
    components = {
        "schemas": {
            "Text": {"title": "Text", "type": "string", "maxLength": 3},
            "Tree": {"properties": {"left": {"$ref": "#/components/schemas/Tree"}}},
        }
    }
    return {"openapi": "3.1.0", "paths": {"/x": {"schema": schema}}, "components": components}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"$ref": "#/components/schemas/Text"}, {"type": "string", "maxLength": 3}),
        ({"allOf": [{"$ref": "#/components/schemas/Text"}]}, {"type": "string", "maxLength": 3}),
        ({"anyOf": [{"type": "string"}]}, {"type": "string", "description": "A text."}),
        (
            {"anyOf": [{"type": "string", "minLength": 1}, {"type": "null"}], "default": None},
            {"type": ["null", "string"], "minLength": 1},
        ),
        (
            {"anyOf": [{"enum": ["a", "b"], "type": "string"}, {"type": "null"}]},
            {"enum": [None, "b", "a"]},
        ),
        ({"const": "a"}, {"enum": ["a"], "type": "string"}),
        ({"minimum": 0.0, "type": "number"}, {"type": "number", "minimum": 0}),
        ({"required": ["a", "b"]}, {"required": ["b", "a"], "additionalProperties": True}),
        (
            {"anyOf": [{"type": "null"}, {"anyOf": [{"type": "array"}, {"type": "string"}]}]},
            {"anyOf": [{"type": "string"}, {"type": "array"}, {"type": "null"}]},
        ),
        (
            {"properties": {"title": {"type": "string", "title": "Title"}, "a": {}}},
            {"properties": {"a": {}, "title": {"type": "string"}}},
        ),
    ],
)
def test_what_means_the_same_is_the_same(one: Any, other: Any) -> None:
    assert lines(wrapped(one)) == lines(wrapped(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"$ref": "#/components/schemas/Text"}, {"type": "string", "maxLength": 4}),
        ({"type": "string"}, {"type": ["string", "null"]}),
        ({"properties": {"title": {"type": "string"}}}, {"properties": {}}),
        ({"properties": {"summary": {}}}, {"properties": {"tags": {}}}),
        ({"enum": ["a", "b"]}, {"enum": ["a"]}),
        ({"required": ["a"]}, {}),
        ({"default": 1}, {"default": 2}),
        ({"additionalProperties": False}, {}),
        ({"example": {"title": "a"}}, {"example": {"title": "b"}}),
        ({"minimum": 0}, {"exclusiveMinimum": 0}),
        ({"anyOf": [{"type": "string"}, {"type": "array"}]}, {"anyOf": [{"type": "string"}]}),
        ({"$ref": "#/components/schemas/Tree"}, {"properties": {}}),
    ],
)
def test_what_means_something_else_differs(one: Any, other: Any) -> None:
    assert lines(wrapped(one)) != lines(wrapped(other))


def test_a_loss_in_any_schema_is_seen() -> None:
    whole = normal(RECORDED)
    for name, schema in RECORDED["components"]["schemas"].items():
        broken = copy.deepcopy(RECORDED)
        for field in list(schema.get("properties", {}))[-1:]:
            del broken["components"]["schemas"][name]["properties"][field]
            assert normal(broken) != whole, (name, field)
