"""What each documented client sends, byte for byte, and what it needs in the answer.

The clients that have no test with the real package (they are in no package index) are here: their
requests were read from their sources. The others run in `tests/clients`.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from budmlx.server.app import HttpServer
from budmlx.server.dialects.openai.chat import ChatRequest
from tests.server.tools import body, check_error, events, exchange, post

BEEZY = {"User-Agent": "speakeasy-sdk/python 0.5.5-alpha.2 2.361.10 0.0.2 beezy-ai"}
WEATHER = {
    "name": "get_current_weather",
    "description": "Get the current weather in a location",
    "parameters": {
        "type": "object",
        "properties": {
            "location": {"type": "string", "description": "The location to get the weather for"}
        },
        "required": ["location"],
    },
}
# The whole example of atoma's documentation; the package that takes it is not to be had.
ATOMA: dict[str, Any] = {
    "messages": [
        {"content": "You are a helpful AI assistant", "name": "AI expert", "role": "system"},
        {"content": "Hello!", "name": "John Doe", "role": "user"},
        {
            "content": "I'm here to help you with any questions you have. How can I assist you "
            "today?",
            "name": "AI",
            "role": "assistant",
        },
    ],
    "model": "demo",
    "frequency_penalty": 0,
    "functions": [WEATHER],
    "logit_bias": {"1234567890": 0.5, "1234567891": -0.5},
    "max_completion_tokens": 4096,
    "n": 1,
    "parallel_tool_calls": True,
    "presence_penalty": 0,
    "seed": 123,
    "service_tier": "auto",
    "stop": ['json(["stop", "halt"])'],
    "temperature": 0.7,
    "tools": [{"type": "function", "function": WEATHER}],
    "top_logprobs": 1,
    "top_p": 1,
    "user": "user-1234",
}
ATOMA_NULLS = dict.fromkeys(
    ["function_call", "max_tokens", "response_format", "stream", "stream_options", "tool_choice"]
)
# beezy sends nulls for what is not given, its own defaults, and no schema of a tool.
BEEZY_CREATE: dict[str, Any] = {
    "model": "demo",
    "messages": [{"role": "user", "content": "What is the weather like in Paris?"}],
    "temperature": 0.7,
    "top_p": 1.0,
    "max_tokens": 64,
    "safe_prompt": False,
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "get_weather",
                "description": "Get the current weather in a given location.",
                "parameters": {},
            },
        }
    ],
    "tool_choice": "auto",
    "random_seed": 1337,
}
BEEZY_STREAM: dict[str, Any] = {
    "model": "demo",
    "messages": [{"role": "user", "content": "Who is the best French painter? In JSON."}],
    "response_format": {"type": "json_object"},
    "temperature": 0.7,
    "top_p": 1.0,
    "max_tokens": None,
    "random_seed": None,
}


def check_common(reply: dict[str, Any]) -> None:
    """What some client requires of every reply and chunk."""
    assert isinstance(reply["id"], str) and isinstance(reply["model"], str)
    assert type(reply["created"]) is int and isinstance(reply["system_fingerprint"], str)
    for choice in reply["choices"]:
        assert type(choice["index"]) is int and "finish_reason" in choice
        for logprobs in (choice["logprobs"] or {}).get("content", ()):
            assert "top_logprobs" in logprobs


async def test_atoma_create(server: HttpServer) -> None:
    for request in (ATOMA, ATOMA | ATOMA_NULLS):
        answer = await exchange(
            server, post(json.dumps(request | {"max_completion_tokens": 20}).encode())
        )
        assert answer.status == 200, answer.content
        reply = answer.json
        check_common(reply)
        assert reply["object"] == "chat.completion" and reply["service_tier"] == "default"
        (choice,) = reply["choices"]
        assert isinstance(choice["message"]["content"], str)
        assert choice["logprobs"]["content"][0]["top_logprobs"]
        assert any("logit_bias" in warning for warning in reply["warnings"])
        details = reply["usage"]["prompt_tokens_details"]
        assert details.keys() == {"cached_tokens", "audio_tokens"}


async def test_atoma_stream(server: HttpServer) -> None:
    request = ATOMA | ATOMA_NULLS | {"stream": True, "max_completion_tokens": 20}
    answer = await exchange(server, post(json.dumps(request).encode(), Accept="text/event-stream"))
    *chunks, done = events(answer.content)
    assert done == "[DONE]"
    for chunk in chunks:
        check_common(chunk)
        assert chunk["object"] == "chat.completion.chunk" and len(chunk["choices"]) == 1


async def test_beezy_create(server: HttpServer) -> None:
    raw = json.dumps(BEEZY_CREATE).encode()
    answer = await exchange(server, post(raw, "/v1/chat/completions", **BEEZY))
    assert answer.status == 200
    check_common(answer.json)
    forced = BEEZY_CREATE | {"tool_choice": "any", "max_tokens": 300}
    reply = (await exchange(server, post(json.dumps(forced).encode(), **BEEZY))).json
    check_common(reply)
    (choice,) = reply["choices"]
    assert choice["finish_reason"] in ("tool_calls", "length")
    for call in choice["message"].get("tool_calls", ()):
        assert call["id"] and isinstance(json.loads(call["function"]["arguments"]), dict)


@pytest.mark.parametrize("stream", [{"stream": True}, {}])
async def test_beezy_stream(server: HttpServer, stream: dict[str, bool]) -> None:
    """Newer versions of pydantic make it leave `stream` out; the Accept header says it."""
    request = BEEZY_STREAM | {"max_tokens": 40, "random_seed": 1337} | stream
    headers = BEEZY | {"Accept": "text/event-stream"}
    answer = await exchange(server, post(json.dumps(request).encode(), **headers))
    assert answer.headers["Content-Type"] == "text/event-stream"
    *chunks, done = events(answer.content)
    assert done == "[DONE]"
    for chunk in chunks:
        check_common(chunk)


async def test_beezy_errors(server: HttpServer) -> None:
    """Its errors need `extras` and `description`, which `check_error` looks for."""
    wrong = json.dumps(BEEZY_STREAM | {"temperature": 9}).encode()
    check_error(await exchange(server, post(wrong, **BEEZY)), 400)
    unknown = json.dumps(BEEZY_STREAM | {"model": "nope"}).encode()
    check_error(await exchange(server, post(unknown, **BEEZY)), 404)


async def test_every_null_is_absent(server: HttpServer) -> None:
    optional = [n for n, f in ChatRequest.model_fields.items() if not f.is_required()]
    request = body() | dict.fromkeys(set(optional) - {"max_tokens", "temperature"})
    request |= dict.fromkeys(["user", "store", "metadata", "prediction", "safe_prompt", "suffix"])
    message = {"role": "user", "content": "Hello", "name": None, "tool_calls": None}
    request["messages"] = [message | dict.fromkeys(["tool_call_id", "function_call", "reasoning"])]
    reply = (await exchange(server, post(json.dumps(request).encode()))).json
    plain = (await exchange(server, post(json.dumps(body()).encode()))).json
    assert reply["choices"] == plain["choices"] and "warnings" not in reply


async def test_bud_round_trips_its_own_messages(server: HttpServer) -> None:
    """bud-sdk dumps messages with their nulls, and its tool calls are dicts."""
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    nulls = {"name": None, "tool_calls": None, "tool_call_id": None}
    messages = [
        {**nulls, "role": "user", "content": "Hello"},
        {**nulls, "role": "assistant", "content": "", "tool_calls": [{**call, "index": 0}]},
        {**nulls, "role": "tool", "content": "sunny", "tool_call_id": "c1"},
        {**nulls, "role": "assistant", "content": "It is sunny."},
        {"role": "user", "content": "Thanks"},
    ]
    request = {"model": "demo", "messages": messages, "stream": False, "max_tokens": 2}
    answer = await exchange(server, post(json.dumps(request).encode()))
    assert answer.status == 200 and "warnings" not in answer.json
    # beezy has no field for the id of the call that a result is of.
    del messages[2]["tool_call_id"]
    assert (await exchange(server, post(json.dumps(request).encode()))).status == 200


@pytest.mark.parametrize(
    "fields",
    [
        {"reasoning_effort": "none", "clear_thinking": True, "disable_reasoning": True},
        {"reasoning_format": "none"},
        {"reasoning_format": "text_parsed"},
        {"service_tier": "flex"},
        {"service_tier": "priority"},
        {"prediction": {"type": "content", "content": "x"}, "prompt_cache_key": "k"},
        {"model_parameters": {"x": 1}},
        {"min_tokens": 2, "min_completion_tokens": 3},
        {"stop": None, "seed": 0, "n": 1, "logit_bias": {"2435": -10, "1234": 5}},
        {"max_completion_tokens": 10**9, "max_tokens": 4},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
    ],
)
async def test_fields_of_cerebras(server: HttpServer, fields: dict[str, Any]) -> None:
    request = {**body(**fields), "messages": [{"role": "developer", "content": "Hi"}]}
    request["messages"].append({"role": "assistant", "content": "a", "reasoning": "b"})
    request["messages"].append({"role": "user", "content": "c"})
    if "max_completion_tokens" in fields:  # It wins and is clamped; a stop ends the reply.
        request |= {"stop": list("aeiou "), "seed": 1}
    answer = await exchange(server, post(json.dumps(request).encode()))
    assert answer.status == 200, answer.content
