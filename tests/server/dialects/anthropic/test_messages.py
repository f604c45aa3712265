"""Messages over HTTP: whole, streamed, with tools; counts, errors, keys."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest

from budmlx import Engine
from tests.server.conftest import Start
from tests.server.dialects.anthropic.captures import bodies, captured, events_of
from tests.server.tools import body as chat_body

MESSAGES = "/v1/messages"
COUNT = f"{MESSAGES}/count_tokens"
TOOL = {
    "name": "get_weather",
    "description": "Weather of a city",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Oslo"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
FORCED: dict[str, Any] = {
    "tools": [TOOL],
    "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
    "max_tokens": 300,
    "temperature": 1.5,
    "seed": 3,
}


def body(content: Any = "Hello", **fields: Any) -> dict[str, Any]:
    return {**chat_body(content), **fields}


async def ask(client: aiohttp.ClientSession, path: str = MESSAGES, **fields: Any) -> Any:
    given = body(**fields)
    if path == COUNT:
        given = {key: value for key, value in given.items() if key not in UNCOUNTED}
    async with client.post(path, json=given) as response:
        assert response.status == 200, await response.text()
        assert response.headers["request-id"] == response.headers["x-request-id"]
        return await response.json()


UNCOUNTED = ("max_tokens", "temperature")


async def stream(client: aiohttp.ClientSession, **fields: Any) -> list[dict[str, Any]]:
    async with client.post(MESSAGES, json=body(stream=True, **fields)) as response:
        assert response.status == 200 and response.content_type == "text/event-stream"
        assert response.headers["request-id"]
        return events_of(await response.read())


async def warnings(client: aiohttp.ClientSession, **fields: Any) -> list[str]:
    async with client.post(MESSAGES, json=body(**fields)) as response:
        assert response.status == 200, await response.text()
        found: list[str] = json.loads(response.headers.get("x-budmlx-warnings", "[]"))
        return found


async def test_whole(engine: Engine, client: aiohttp.ClientSession) -> None:
    expected = engine.chat("Hello", temperature=0, max_tokens=8)
    reply = await ask(client, model="org/name")
    assert reply.pop("id").startswith("msg_")
    assert reply == {
        "type": "message",
        "role": "assistant",
        "model": "org/name",
        "content": [{"type": "text", "text": expected.text}],
        "stop_reason": "max_tokens",
        "stop_sequence": None,
        "usage": {
            "input_tokens": expected.usage.prompt_tokens,
            "cache_read_input_tokens": 0,
            "cache_creation_input_tokens": 0,
            "output_tokens": 8,
        },
    }


async def test_streamed(engine: Engine, client: aiohttp.ClientSession) -> None:
    expected = engine.chat("Hello", temperature=0, max_tokens=8)
    events = await stream(client)
    names = [event["event"] for event in events]
    assert names[:2] == ["message_start", "content_block_start"]
    assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert all(event["data"]["type"] == event["event"] for event in events)
    deltas = [e["data"]["delta"] for e in events if e["event"] == "content_block_delta"]
    assert "".join(delta["text"] for delta in deltas) == expected.text
    assert events[-2]["data"]["usage"]["input_tokens"] == expected.usage.prompt_tokens


async def test_a_stored_reply_counts_its_prompt_as_read(client: aiohttp.ClientSession) -> None:
    for stored in (False, True):
        events = await stream(client, content="Once", cache=True)
        begun = events[0]["data"]["message"]["usage"]
        [ended] = [e["data"]["usage"] for e in events if e["event"] == "message_delta"]
        assert begun["input_tokens"] == ended["input_tokens"]
        assert begun["cache_read_input_tokens"] == ended["cache_read_input_tokens"]
        assert (begun["input_tokens"] == 0) is stored
        assert (begun["cache_read_input_tokens"] > 0) is stored


async def test_a_forced_call(client: aiohttp.ClientSession) -> None:
    for choice in ({"type": "any"}, {"type": "tool", "name": "get_weather"}):
        choice["disable_parallel_tool_use"] = True
        reply = await ask(client, **{**FORCED, "tool_choice": choice})
        assert reply["stop_reason"] == "tool_use"
        [call] = reply["content"]
        assert (call["type"], call["name"]) == ("tool_use", "get_weather")
        assert call["input"]["city"] in ("Paris", "Oslo")
        events = await stream(client, **{**FORCED, "tool_choice": choice})
        [start] = [e["data"] for e in events if e["event"] == "content_block_start"]
        assert start["content_block"] == {**call, "id": start["content_block"]["id"], "input": {}}
        pieces = [e["data"]["delta"] for e in events if e["event"] == "content_block_delta"]
        assert json.loads("".join(piece["partial_json"] for piece in pieces)) == call["input"]
        history = [
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": reply["content"]},
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": call["id"], "content": "Sun."}],
            },
        ]
        assert (await ask(client, messages=history, tools=[TOOL]))["content"]


async def test_a_stop_sequence_comes_back(engine: Engine, client: aiohttp.ClientSession) -> None:
    text = engine.chat("Hello", temperature=0, max_tokens=8).text
    stop = text[2:4]
    for stops in ([stop], ["never", stop]):
        reply = await ask(client, stop_sequences=stops)
        assert (reply["stop_reason"], reply["stop_sequence"]) == ("stop_sequence", stop)
        assert reply["content"][0]["text"] == text[: text.index(stop)]
        events = await stream(client, stop_sequences=stops)
        assert events[-2]["data"]["delta"] == {
            "stop_reason": "stop_sequence",
            "stop_sequence": stop,
        }


async def test_counting(engine: Engine, client: aiohttp.ClientSession) -> None:
    for fields in ({}, {"system": "Be brief."}, {"tools": [TOOL]}):
        counted = await ask(client, COUNT, **fields)
        assert counted == {"input_tokens": (await ask(client, **fields))["usage"]["input_tokens"]}
    for number, given in enumerate(bodies(9)):
        async with client.post(f"{COUNT}?beta=true", json={**given, "model": "demo"}) as response:
            assert response.status == 200, (number, await response.text())
            assert (await response.json())["input_tokens"] > 3


@pytest.mark.parametrize("prefix", ["", "/v1", "/v1/v1"])
async def test_prefixes(client: aiohttp.ClientSession, prefix: str) -> None:
    async with client.post(f"{prefix}/messages?beta=true", json=body()) as response:
        assert (await response.json())["type"] == "message"


@pytest.mark.parametrize(
    ("fields", "status", "kind", "message"),
    [
        ({"model": "nobody"}, 404, "not_found_error", "model: "),
        ({"max_tokens": None}, 400, "invalid_request_error", "max_tokens: field required."),
        ({"max_tokens": 0}, 400, "invalid_request_error", "max_tokens: "),
        ({"temperature": 3}, 400, "invalid_request_error", "temperature: "),
        ({"messages": []}, 400, "invalid_request_error", "messages: "),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "nobody", "content": "b"}]},
            400,
            "invalid_request_error",
            "messages.1.role: input should be 'user', 'assistant' or 'system'.",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            400,
            "invalid_request_error",
            "messages.0.content.0.text: field required.",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": 1}]}]},
            400,
            "invalid_request_error",
            "messages.0.content.0.source: input should be an object.",
        ),
        (
            {
                "system": "S",
                "messages": [
                    {"role": "user", "content": "a"},
                    {
                        "role": "user",
                        "content": [{"type": "tool_result", "tool_use_id": "x", "content": "1"}],
                    },
                ],
            },
            400,
            "invalid_request_error",
            "messages.1.content.0: is the result of a call",
        ),
        (
            {"tools": [{"name": "f", "input_schema": {"type": "string"}}]},
            400,
            "invalid_request_error",
            "tools.0.input_schema: ",
        ),
        (
            {"messages": [{"role": "user", "content": "a", "output_config": {"effort": "huge"}}]},
            400,
            "invalid_request_error",
            "messages.0.output_config.effort: ",
        ),
        (
            {"tool_choice": {"type": "tool", "name": "f"}},
            400,
            "invalid_request_error",
            "tool_choice.name: names 'f', which is not in tools.",
        ),
        ({"messages": [{"role": "user", "content": "x" * 9000}]}, 400, "invalid_request_error", ""),
    ],
)
async def test_errors(
    client: aiohttp.ClientSession, fields: dict[str, Any], status: int, kind: str, message: str
) -> None:
    for streaming in (False, True):
        async with client.post(MESSAGES, json=body(**fields, stream=streaming)) as response:
            found = await response.json()
            assert response.status == status, found
            assert found["request_id"] == response.headers["request-id"]
        assert found["type"] == "error" and found["error"]["type"] == kind
        assert found["error"]["message"].startswith(message), found


async def test_a_prompt_that_is_too_long(client: aiohttp.ClientSession) -> None:
    async with client.post(MESSAGES, json=body("word " * 9000)) as response:
        message = (await response.json())["error"]["message"]
    counted = await ask(client, COUNT, content="word " * 9000)
    assert message == f"prompt is too long: {counted['input_tokens']} tokens > 8191 maximum"


async def test_other_paths_and_methods(client: aiohttp.ClientSession) -> None:
    for method, path, status in (
        ("GET", "/v1/messages/none", 404),
        ("POST", "/v1/messages/none", 404),
        ("GET", MESSAGES, 405),
    ):
        async with client.request(method, path) as response:
            assert response.status == status
            assert (await response.json())["type"] == "error"


async def test_either_header_or_both(start: Start) -> None:
    server = await start(api_keys=("right",))
    bearer, own = "Authorization", "X-Api-Key"
    async with aiohttp.ClientSession(server.url) as client:
        for headers, status in (
            ({bearer: "Bearer right"}, 200),
            ({own: "right"}, 200),
            ({own: "right", bearer: "Bearer wrong"}, 200),
            ({own: "wrong", bearer: "Bearer right"}, 200),
            ({own: "wrong"}, 401),
            ({}, 401),
        ):
            for path in (MESSAGES, COUNT):
                given = body() if path == MESSAGES else {**body(), "max_tokens": None}
                async with client.post(path, json=given, headers=headers) as response:
                    assert response.status == status
                    found = await response.json()
                if status == 401:
                    assert found["error"]["type"] == "authentication_error"
            async with client.get("/v1/models", headers=headers) as response:
                assert response.status == status


async def test_threads_are_refused_so_that_clients_go_on(client: aiohttp.ClientSession) -> None:
    create, go_on, *_ = [each["body"] for each in captured(17)]
    assert (create["thread"], go_on["thread"]["type"]) == ({"type": "create"}, "continue")
    for given in (create, go_on):
        async with client.post(MESSAGES, json={**given, "model": "demo"}) as response:
            assert response.status == 400
            assert (await response.json())["error"]["details"] == {
                "error_code": "thread_unsupported_request",
                "unsupported": ["thread"],
            }


async def test_what_has_no_effect_is_a_warning(client: aiohttp.ClientSession) -> None:
    assert await warnings(client) == []
    assert await warnings(client, metadata={"user_id": "x"}, service_tier="auto") == []
    found = await warnings(client, mcp_servers=[], more=1, thinking={"type": "adaptive"})
    assert found == [
        "`mcp_servers` has no effect here.",
        "`more` is not a known parameter and was ignored.",
    ]
    # They name what was sent, not what it becomes.
    past = {"role": "user", "content": "Hi", "output_config": {"effort": "low"}}
    for fields, name in (
        ({"thinking": {"type": "enabled", "budget_tokens": 2**64}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled"}}, "thinking.type"),
        ({"output_config": {"effort": "low"}}, "output_config.effort"),
        ({"messages": [past]}, "messages[0].output_config.effort"),
    ):
        found = await warnings(client, **fields)
        assert found and found[-1].startswith(f"{name} has no effect"), found
    [found] = await warnings(client, tools=[{"type": "web_search_20250305", "name": "web_search"}])
    assert found.startswith("tools.0 was left out")


@pytest.mark.parametrize("number", [4, 8, 12, 16, 17, 18, 19])
async def test_captured_requests_are_answered(client: aiohttp.ClientSession, number: int) -> None:
    for request in captured(number):
        given = request["body"]
        if not re.fullmatch(r"/v1/messages(\?.*)?", request["path"]):
            continue
        if "thread" in given or _shows_picture(given):
            continue
        fields = {"model": "demo", "max_tokens": 2}
        async with client.post(
            request["path"], json={**given, **fields}, headers=_beta(request)
        ) as response:
            data = await response.read()
            assert response.status == 200, data
        last = events_of(data)[-1]["event"] if given.get("stream") else json.loads(data)["type"]
        assert last in ("message_stop", "message")


def _shows_picture(given: dict[str, Any]) -> bool:
    """Whether a user's message shows a picture, which this model refuses."""
    blocks = [each for message in given["messages"] for each in message["content"]]
    return any(isinstance(each, dict) and each.get("type") == "image" for each in blocks)


def _beta(request: dict[str, Any]) -> dict[str, str]:
    return {k: v for k, v in request["headers"].items() if k.startswith(("anthropic-", "x-stain"))}


async def test_lists_of_models_have_pages(client: aiohttp.ClientSession) -> None:
    async def listed(query: str) -> tuple[list[str], bool, str | None, str | None]:
        async with client.get(f"/v1/models?{query}") as response:
            assert response.status == 200
            found = await response.json()
        ids = [model["id"] for model in found["data"]]
        return ids, found["has_more"], found["first_id"], found["last_id"]

    names, *_ = await listed("")
    first, second, third = names
    assert await listed("limit=1000") == (names, False, first, third)
    assert await listed("limit=2") == ([first, second], True, first, second)
    assert await listed(f"limit=2&after_id={second}") == ([third], False, third, third)
    assert await listed(f"limit=1&before_id={quote(third)}") == ([second], True, second, second)
    assert await listed(f"after_id={quote(third)}") == ([], False, None, None)
    async with client.get("/v1/models?limit=none") as response:
        assert response.status == 400 and (await response.json())["error"]["param"] == "limit"
