"""Tools and forms on the wire, as several generations of clients want them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, Literal

import aiohttp
import openai
import pytest
from pydantic import BaseModel

from budmlx.server.app import HttpServer
from tests.server.conftest import Start
from tests.server.tools import CHAT, body

FUNCTION = {
    "name": "get_weather",
    "description": "Weather of a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Oslo"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
TOOL = {"type": "function", "function": FUNCTION}
FORCED: dict[str, Any] = {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False}
FORM = {"type": "json_object"}
NAMED = {"name": "get_weather"}
LONG: dict[str, Any] = {"max_tokens": 300, "temperature": 1.5, "seed": 3}


@pytest.fixture
async def sdk(server: HttpServer) -> AsyncIterator[openai.AsyncOpenAI]:
    base_url = f"{server.url}/v1"
    async with openai.AsyncOpenAI(base_url=base_url, api_key="x", max_retries=0) as sdk:
        yield sdk


async def ask(client: aiohttp.ClientSession, **fields: Any) -> dict[str, Any]:
    async with client.post(CHAT, json=body(**{**LONG, **fields})) as response:
        assert response.status == 200, await response.text()
        reply: dict[str, Any] = await response.json()
        return reply


def check_arguments(arguments: str) -> None:
    assert json.loads(arguments)["city"] in ("Paris", "Oslo")


async def test_a_forced_call(client: aiohttp.ClientSession) -> None:
    for choice in ("required", "any", {"type": "function", "function": {"name": "get_weather"}}):
        reply = await ask(client, **{**FORCED, "tool_choice": choice})
        (answer,) = reply["choices"]
        assert answer["finish_reason"] == "tool_calls"
        message = answer["message"]
        assert message["content"] == "" and "function_call" not in message
        (call,) = message["tool_calls"]
        assert call.keys() == {"id", "type", "function"} and call["type"] == "function"
        assert call["function"]["name"] == "get_weather"
        check_arguments(call["function"]["arguments"])


async def chunks_of(client: aiohttp.ClientSession, **fields: Any) -> list[dict[str, Any]]:
    found = []
    async with client.post(CHAT, json=body(**{**LONG, "stream": True, **fields})) as response:
        async for line in response.content:
            if line.startswith(b"data: {"):
                found.append(json.loads(line[6:]))
    return found


async def test_a_streamed_call_is_one_complete_delta(client: aiohttp.ClientSession) -> None:
    chunks = await chunks_of(client, **FORCED)
    deltas = [c["choices"][0]["delta"] for c in chunks]
    (delta,) = [delta for delta in deltas if "tool_calls" in delta]
    (call,) = delta["tool_calls"]
    assert call.keys() == {"index", "id", "type", "function"} and call["index"] == 0
    check_arguments(call["function"]["arguments"])
    assert [c["choices"][0]["finish_reason"] for c in chunks][-1] == "tool_calls"
    assert not any(delta.get("content") for delta in deltas)


@pytest.mark.parametrize("asked_by", ["request", "configuration"])
async def test_arguments_come_in_pieces_for_those_who_ask(start: Start, asked_by: str) -> None:
    server = await start(incremental_tool_calls=asked_by == "configuration")
    options = {"incremental_tool_calls": True} if asked_by == "request" else {}
    async with aiohttp.ClientSession(server.url) as client:
        chunks = await chunks_of(client, stream_options=options, **FORCED)
    calls = [
        call for c in chunks for call in c["choices"][0]["delta"].get("tool_calls", ())
    ]  # fmt: skip
    assert len(calls) > 1
    assert calls[0]["id"] and calls[0]["function"]["name"] == "get_weather"
    assert not any("id" in call or "name" in call["function"] for call in calls[1:])
    check_arguments("".join(call["function"]["arguments"] for call in calls))


async def test_functions_the_older_name_of_tools(client: aiohttp.ClientSession) -> None:
    older = {"functions": [FUNCTION], "function_call": {"name": "get_weather"}}
    reply = await ask(client, **older)
    (answer,) = reply["choices"]
    assert answer["finish_reason"] == "tool_calls" and "tool_calls" not in answer["message"]
    check_arguments(answer["message"]["function_call"]["arguments"])
    # One client sends both; tools win.
    reply = await ask(client, **FORCED, functions=[{"name": "other"}])
    (call,) = reply["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    assert reply["warnings"] == ["`functions` was ignored: `tools` goes before it."]
    turn = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    result = {"role": "function", "name": "f", "content": "sunny"}
    messages = [{"role": "user", "content": "x"}, turn, result]
    await ask(client, messages=messages, max_tokens=2)


async def test_a_forced_call_goes_before_a_form(client: aiohttp.ClientSession) -> None:
    reply = await ask(client, **FORCED, response_format={"type": "choice", "choice": ["no"]})
    (call,) = reply["choices"][0]["message"]["tool_calls"]
    check_arguments(call["function"]["arguments"])
    (warning,) = reply["warnings"]
    assert warning.startswith("`response_format` ")


class Pet(BaseModel):
    kind: Literal["cat", "dog"]
    age: int


@pytest.mark.parametrize(
    ("fields", "warned"),
    [
        ({"tools": [TOOL], "tool_choice": "any", "response_format": FORM}, True),
        ({"functions": [FUNCTION], "function_call": NAMED, "response_format": FORM}, True),
        ({"tools": [TOOL], "response_format": FORM}, False),
        ({"tools": [TOOL], "tool_choice": "any", "response_format": {"type": "text"}}, False),
    ],
)
async def test_a_form_beside_a_forced_call_is_reported(
    client: aiohttp.ClientSession, fields: dict[str, Any], warned: bool
) -> None:
    warnings = (await ask(client, **fields)).get("warnings", [])
    assert any("response_format" in warning for warning in warnings) is warned


async def test_the_openai_sdk(sdk: openai.AsyncOpenAI) -> None:
    messages: Any = [{"role": "user", "content": "x"}]
    options: Any = {"max_tokens": 300, "temperature": 1.5, "seed": 3}
    done = await sdk.chat.completions.create(
        model="demo", messages=messages, tools=[TOOL], tool_choice="required", **options
    )
    calls = done.choices[0].message.tool_calls
    assert calls
    check_arguments(calls[0].function.arguments)
    turn = done.choices[0].message.model_dump()
    results = [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in calls]
    again = await sdk.chat.completions.create(
        model="demo", messages=[*messages, turn, *results], tools=[TOOL], tool_choice="none",
        max_tokens=4,
    )  # fmt: skip
    assert again.choices[0].finish_reason == "length"
    parsed = await sdk.chat.completions.parse(
        model="demo", messages=messages, response_format=Pet, **options
    )
    assert isinstance(parsed.choices[0].message.parsed, Pet)
    async with sdk.chat.completions.stream(
        model="demo",
        messages=messages,
        tools=[{**TOOL, "function": {**FUNCTION, "strict": True}}],
        tool_choice="required",
        parallel_tool_calls=False,
        **options,
    ) as stream:
        final = await stream.get_final_completion()
    assert final.choices[0].message.tool_calls


SCHEMA = "response_format.json_schema.schema"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [TOOL] * 129}, "tools"),
        ({"tools": [TOOL, TOOL]}, "tools[1]"),
        ({"tools": [{"type": "function", "function": {"name": "no name"}}]}, None),
        ({"tool_choice": "required"}, "tool_choice"),
        (
            {"tools": [TOOL], "tool_choice": {"function": {"name": "x"}}},
            "tool_choice.function.name",
        ),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0]"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "regex", "regex": "a**"}}, "response_format.regex"),
        ({"response_format": {"type": "grammar", "grammar": "start: x"}}, None),
    ],
)
async def test_what_is_refused(
    client: aiohttp.ClientSession, fields: dict[str, Any], param: str | None
) -> None:
    for stream in (False, True):
        async with client.post(CHAT, json=body(**fields, stream=stream)) as response:
            assert response.status == 400
            error = (await response.json())["error"]
            assert error["type"] == "invalid_request_error" and error["param"]
            assert param is None or error["param"] == param


# LIMITS 93
async def test_a_schema_that_cannot_be_enforced_is_400_also_for_streams(
    client: aiohttp.ClientSession,
) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "notatype"}}}
    for stream in (False, True):
        async with client.post(CHAT, json=body(response_format=form, stream=stream)) as response:
            assert response.status == 400
            assert (await response.json())["error"]["param"] == SCHEMA
