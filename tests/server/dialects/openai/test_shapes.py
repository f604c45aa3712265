"""Tools, choices and formats on the wire: what is taken, and what is said of the rest."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from budmlx.errors import InvalidRequestError
from budmlx.server.dialects.openai.chat import ChatRequest
from budmlx.types import Request, ResponseFormat, Tool, ToolChoice
from tests.server.test_openapi import check
from tests.server.tools import body

FUNCTION = {"name": "f"}
TOOL = {"type": "function", "function": FUNCTION}
NAME = "must be 1 to 128 letters, digits, '_', '.' and '-'."
FORMATS = "text, json_object, json_schema, regex, grammar, choice"


def to_request(**fields: Any) -> Request:
    return ChatRequest.parse(body(**fields)).to_request()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tools": [5]}, "tools[0] must be an object with a function."),
        ({"tools": [{"type": "code"}]}, 'tools[0].type must be "function".'),
        ({"tools": [{"type": None, **TOOL}, {"type": None}]}, 'tools[1].type must be "function".'),
        ({"tools": [{"type": "function"}]}, "tools[0].function must be an object."),
        ({"tools": [TOOL, {"function": None}]}, "tools[1].function must be an object."),
        ({"tools": [{"function": {}}]}, f"tools[0].function.name {NAME}"),
        ({"tools": [{"name": "f g"}]}, f"tools[0].name {NAME}"),
        ({"tools": [{"name": "f\n"}]}, f"tools[0].name {NAME}"),
        ({"functions": [{"name": "x" * 129}]}, f"functions[0].name {NAME}"),
        ({"tools": [{**FUNCTION, "description": 5}]}, "tools[0].description must be a string."),
        ({"tools": [{**FUNCTION, "strict": "yes"}]}, "tools[0].strict must be true or false."),
        (
            {"tools": [{**FUNCTION, "parameters": {"type": "array"}}]},
            'tools[0].parameters must be a JSON schema of type "object".',
        ),
        (
            {"tools": [{**FUNCTION, "parameters": 5}]},
            'tools[0].parameters must be a JSON schema of type "object".',
        ),
        (
            {"tools": [{**FUNCTION, "description": "x" * 2**20}]},
            "tools[0] is longer than 262144 characters.",
        ),
        ({"tools": [TOOL] * 129}, "tools holds 129 tools; at most 128 are taken."),
        ({"tools": [TOOL, FUNCTION]}, "tools[1] has the name of another tool, f."),
        (
            {"tool_choice": "perhaps"},
            'tool_choice must be "none", "auto", "required" or name a function.',
        ),
        ({"tool_choice": "any"}, "tool_choice requires a call, but there are no tools."),
        (
            {"tool_choice": {"function": {}}},
            "tool_choice.function.name must be the name of a tool.",
        ),
        (
            {"tool_choice": {"function": None}},
            "tool_choice.function.name must be the name of a tool.",
        ),
        ({"function_call": {"name": 5}}, "function_call.name must be the name of a tool."),
        (
            {"tools": [TOOL], "tool_choice": {"name": "g"}},
            "tool_choice.function.name names 'g', which is not in tools.",
        ),
        ({"response_format": "json"}, "response_format must be an object with a type."),
        ({"response_format": {}}, f"response_format.type must be one of {FORMATS}."),
        ({"response_format": {"type": ["a"]}}, f"response_format.type must be one of {FORMATS}."),
        (
            {"response_format": {"type": "json_schema"}},
            "response_format.json_schema must be an object with a schema.",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": 5}}},
            "response_format.json_schema.schema must be a JSON schema.",
        ),
        ({"response_format": {"type": "regex"}}, "response_format.regex must be a text."),
        (
            {"response_format": {"type": "grammar", "grammar": ""}},
            "response_format.grammar must be a text.",
        ),
        (
            {"response_format": {"type": "choice", "choice": ["a", ""]}},
            "response_format.choice must be a list of 1 to 1024 texts.",
        ),
        (
            {"response_format": {"type": "choice", "choice": ["a"] * 1025}},
            "response_format.choice must be a list of 1 to 1024 texts.",
        ),
    ],
)
def test_what_is_refused(fields: dict[str, Any], message: str) -> None:  # LIMITS 68, 69
    with pytest.raises(InvalidRequestError) as caught:
        to_request(**fields)
    assert caught.value.message == message
    assert message.startswith(f"{caught.value.param} ")


EMPTY: dict[str, Any] = {"description": "", "parameters": {}, "strict": False}


@pytest.mark.parametrize("empty", [EMPTY, dict.fromkeys(EMPTY), {**EMPTY, "parameters": []}])
@pytest.mark.parametrize("field", ["tools", "functions"])
def test_empty_values_are_absent(field: str, empty: dict[str, Any]) -> None:
    for tool in ({**FUNCTION, **empty}, {"function": {**FUNCTION, **empty}}):
        assert to_request(**{field: [tool]}).tools == (Tool("f"),)


def test_tools() -> None:
    schema = {"properties": {"city": {"type": "string"}}}
    function = {"name": "f", "description": "d", "parameters": schema, "strict": True}
    expected = Tool("f", "d", {"type": "object", **schema}, True)
    for tool in (function, {"type": "function", "function": function}):
        assert to_request(tools=[tool], tool_choice="any").tools == (expected,)


@pytest.mark.parametrize(
    ("given", "choice"),
    [
        (None, ToolChoice("auto")),
        ("none", ToolChoice("none")),
        ("any", ToolChoice("required")),
        (TOOL, ToolChoice("required", "f")),
        ({"type": "what", "name": "f"}, ToolChoice("required", "f")),
    ],
)
def test_choices(given: Any, choice: ToolChoice) -> None:
    assert to_request(tools=[TOOL], tool_choice=given).tool_choice == choice
    assert to_request(functions=[FUNCTION], function_call=given).tool_choice == choice


@pytest.mark.parametrize(
    ("given", "form"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, ResponseFormat("json_object")),
        (
            {"type": "json_schema", "json_schema": {"name": 5, "schema": True}},
            ResponseFormat("json_schema", True, "response_format.json_schema.schema"),
        ),
        (
            {"type": "json_schema", "json_schema": {"schema": None}},
            ResponseFormat("json_object", None, "response_format.json_schema"),
        ),
        (
            {"type": "regex", "regex": "a"},
            ResponseFormat("regex", "a", "response_format.regex"),
        ),
        (
            {"type": "grammar", "grammar": "a"},
            ResponseFormat("grammar", "a", "response_format.grammar"),
        ),
        (
            {"type": "choice", "choice": ["a"]},
            ResponseFormat("choice", ["a"], "response_format.choice"),
        ),
    ],
)
def test_formats(given: Any, form: ResponseFormat | None) -> None:
    assert to_request(response_format=given).response_format == form


def test_null_is_absent_in_the_document_too() -> None:
    null = {**TOOL, "function": {"name": "f", "strict": None, "description": None}}
    check(body(tools=[null], stop=None, tool_choice=None), "ChatRequest")
    for wrong in ({"name": None}, {}):
        with pytest.raises(jsonschema.ValidationError):
            check(body(tools=[{**TOOL, "function": wrong}]), "ChatRequest")


def test_unknown_fields_of_calls_and_reasoning_in_the_history_are_reported() -> None:
    turn = {
        "role": "assistant",
        "reasoning": [{"type": "text", "text": "a", "x": 1}],
        "function_call": {"name": "f", "y": 1},
    }
    messages = [{"role": "user", "content": "a"}, turn]
    found = ChatRequest.parse(body(messages=messages)).review(strict=False)
    assert found == [
        f"`messages[1].{place}` is not a known parameter and was ignored."
        for place in ("function_call.y", "reasoning[0].x")
    ]
