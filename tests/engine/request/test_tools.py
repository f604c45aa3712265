"""Tools, choices and formats: what is taken, and what is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from budmlx.engine.reply.parsers import active_tools
from budmlx.engine.request.messages import parse_messages
from budmlx.engine.request.render import check_results
from budmlx.engine.request.tools import parse_response_format, parse_tool_choice, parse_tools
from budmlx.errors import InvalidRequestError
from budmlx.types import Request, ResponseFormat, Tool, ToolChoice

OPENAI = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {"properties": {"city": {"type": "string"}}},
        "strict": True,
    },
}


def test_tools_of_both_generations() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    expected = Tool("get_weather", "Weather of a city", schema, True)
    assert parse_tools([OPENAI]) == parse_tools([OPENAI["function"]]) == (expected,)
    # One client drops whatever stands in the schema.
    assert parse_tools([{"type": "function", "function": {"name": "f", "parameters": {}}}]) == (
        Tool("f"),
    )


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


@pytest.mark.parametrize(
    ("tools", "param"),
    [
        ("none", "tools"),
        ([OPENAI] * 129, "tools"),
        ([OPENAI, OPENAI], "tools[1]"),
        ([5], "tools[0]"),
        ([{"type": "code"}], "tools[0].type"),
        ([{"type": "function"}], "tools[0].function"),
        ([{"name": "get weather"}], "tools[0].name"),
        ([{"name": "x" * 129}], "tools[0].name"),
        ([{"name": "f", "description": 5}], "tools[0].description"),
        ([{"name": "f", "description": "x" * 2**20}], "tools[0]"),
        ([{"name": "f", "parameters": {"type": "array"}}], "tools[0].parameters"),
        ([{"name": "f", "parameters": {"x": deep(3000)}}], "tools[0].parameters"),
        ([{"name": "f", "strict": "yes"}], "tools[0].strict"),
    ],
)
def test_wrong_tools_are_named(tools: Any, param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_tools(tools)
    assert caught.value.param == param


def test_choices() -> None:
    tools = parse_tools([OPENAI])
    named = {"type": "function", "function": {"name": "get_weather"}}
    assert parse_tool_choice(named, tools) == ToolChoice("required", "get_weather")
    assert parse_tool_choice({"name": "get_weather"}, tools).name == "get_weather"
    assert parse_tool_choice("any", tools) == parse_tool_choice("required", tools)
    assert parse_tool_choice(None, tools) == ToolChoice("auto")
    for wrong in ("sometimes", 5, {"function": {"name": "other"}}, {"function": 3}):
        with pytest.raises(InvalidRequestError, match="tool_choice"):
            parse_tool_choice(wrong, tools)
    with pytest.raises(InvalidRequestError, match="no tools"):
        parse_tool_choice("required", ())


class Pet(BaseModel):
    name: str


def test_formats() -> None:
    schema = {"type": "integer"}
    wrapped = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    assert parse_response_format({"type": "text"}) is None
    assert parse_response_format({"type": "json_object"}) == ResponseFormat("json_object")
    place = "response_format.json_schema.schema"
    assert parse_response_format(wrapped) == ResponseFormat("json_schema", schema, place)
    assert parse_response_format({"type": "choice", "choice": ["a", "b"]}) == ResponseFormat(
        "choice", ["a", "b"], "response_format.choice"
    )
    from_class = parse_response_format(Pet)
    assert from_class is not None and from_class.value["properties"]["name"]["type"] == "string"


@pytest.mark.parametrize(
    ("raw", "param"),
    [
        ("json", "response_format"),
        ({}, "response_format.type"),
        ({"type": "xml"}, "response_format.type"),
        ({"type": "json_schema"}, "response_format.json_schema"),
        (
            {"type": "json_schema", "json_schema": {"schema": 5}},
            "response_format.json_schema.schema",
        ),
        ({"type": "regex"}, "response_format.regex"),
        ({"type": "choice", "choice": []}, "response_format.choice"),
        ({"type": "choice", "choice": ["", "b"]}, "response_format.choice"),
    ],
)
def test_wrong_formats_are_named(raw: Any, param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_response_format(raw)
    assert caught.value.param == param


def conversation(*messages: dict[str, Any]) -> tuple[Any, ...]:
    return parse_messages([{"role": "user", "content": "x"}, *messages])


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def test_results_follow_their_calls() -> None:
    called = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    check_results(conversation(called, {"role": "tool", "tool_call_id": "c1", "content": "1"}))
    # Some clients drop the id.
    check_results(conversation(called, {"role": "tool", "content": "1"}))
    legacy = {
        "role": "assistant",
        "content": None,
        "function_call": {"name": "f", "arguments": "{}"},
    }
    check_results(conversation(legacy, {"role": "function", "name": "f", "content": "1"}))
    for wrong in (
        conversation({"role": "tool", "content": "1"}),
        conversation(called, {"role": "tool", "tool_call_id": "c2", "content": "1"}),
    ):
        with pytest.raises(InvalidRequestError, match=r"messages\[[12]\]"):
            check_results(wrong)


def allowed(*names: str, mode: str = "auto") -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


def test_newer_forms_of_choices() -> None:
    tools = parse_tools([{"name": "f"}, {"name": "g"}])
    for mode in ("auto", "none", "required", "any"):
        assert parse_tool_choice({"type": mode}, tools) == parse_tool_choice(mode, tools)
    assert parse_tool_choice(allowed("g"), tools) == ToolChoice("auto", allowed=("g",))
    flat = {"type": "allowed_tools", "mode": "required", "tools": [{"name": "g"}]}
    assert parse_tool_choice(flat, tools) == ToolChoice("required", allowed=("g",))
    request = Request(messages=(), tools=tools, tool_choice=parse_tool_choice(flat, tools))
    assert [tool.name for tool in active_tools(request)] == ["g"]


@pytest.mark.parametrize(
    ("choice", "place"),
    [
        (allowed("h"), "tool_choice.allowed_tools.tools[0].function.name"),
        (allowed(), "tool_choice.allowed_tools.tools"),
        (allowed("f", mode="none"), "tool_choice.allowed_tools.mode"),
        ({"type": "allowed_tools", "allowed_tools": 5}, "tool_choice.allowed_tools"),
        ({"type": "allowed_tools"}, "tool_choice.allowed_tools.tools"),
        (
            {"type": "allowed_tools", "allowed_tools": {"tools": [5]}},
            "tool_choice.allowed_tools.tools[0].function.name",
        ),
        ({"type": "mcp"}, "tool_choice"),
        ({"type": 5}, "tool_choice.function.name"),
    ],
)
def test_errors_name_the_form_that_was_sent(choice: Any, place: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_tool_choice(choice, parse_tools([{"name": "f"}]))
    assert caught.value.param == place
