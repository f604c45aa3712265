"""Whole replies, the model list and health, through the openai SDK and plain HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import aiohttp
import openai
import pytest

from budmlx import Engine
from budmlx.server.app import HttpServer
from tests.server.conftest import Start
from tests.server.tools import CHAT, body, check_error, events, exchange, get, post

MESSAGES = [{"role": "user", "content": "Hello"}]


@pytest.fixture
async def sdk(server: HttpServer) -> AsyncIterator[openai.AsyncOpenAI]:
    base_url = f"{server.url}/v1"
    async with openai.AsyncOpenAI(base_url=base_url, api_key="x", max_retries=0) as sdk:
        yield sdk


async def test_whole_reply(engine: Engine, client: aiohttp.ClientSession) -> None:
    async with client.post(CHAT, json=body(model="org/name")) as response:
        assert response.status == 200
        assert response.content_type == "application/json"
        assert response.headers["X-Request-Id"]
        reply = await response.json()
    assert reply["id"].startswith("chatcmpl-")
    assert reply["object"] == "chat.completion"
    assert type(reply["created"]) is int
    assert reply["model"] == "org/name"
    assert reply["system_fingerprint"] == engine.info.fingerprint
    (choice,) = reply["choices"]
    expected = engine.chat("Hello", temperature=0, max_tokens=8)
    assert choice == {
        "index": 0,
        "message": {"role": "assistant", "content": expected.text},
        "finish_reason": expected.finish_reason,
        "logprobs": None,
    }
    assert reply["usage"] == {
        "prompt_tokens": expected.usage.prompt_tokens,
        "completion_tokens": expected.usage.completion_tokens,
        "total_tokens": expected.usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
    times = reply["time_info"]
    assert times.keys() == {
        "queue_time", "prompt_time", "completion_time", "total_time", "created",
    }  # fmt: skip
    parts = times["queue_time"] + times["prompt_time"] + times["completion_time"]
    assert times["total_time"] == pytest.approx(parts)
    assert "warnings" not in reply


async def test_async_sdk(engine: Engine, sdk: openai.AsyncOpenAI) -> None:
    request = {"model": "demo", "messages": MESSAGES, "temperature": 0, "max_tokens": 20}
    whole = await sdk.chat.completions.create(**request)
    assert (
        whole.choices[0].message.content == engine.chat("Hello", temperature=0, max_tokens=20).text
    )
    assert whole._request_id
    stream = await sdk.chat.completions.create(**request, stream=True)
    text = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "".join(text) == whole.choices[0].message.content


async def test_sync_sdk(server: HttpServer) -> None:
    request = {"model": "demo", "messages": MESSAGES, "seed": 11, "max_tokens": 20}

    def talk() -> tuple[str | None, str, int]:
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused") as sdk:
            whole = sdk.chat.completions.create(**request)
            stream = sdk.chat.completions.create(
                **request, stream=True, stream_options={"include_usage": True}
            )
            *chunks, last = stream
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
            return whole.choices[0].message.content, text, last.usage.total_tokens

    whole, streamed, tokens = await asyncio.to_thread(talk)
    assert whole == streamed
    assert tokens > 20


async def test_sdk_errors(start: Start) -> None:
    server = await start(api_keys=("the-key",))
    base_url = f"{server.url}/v1"
    async with openai.AsyncOpenAI(base_url=base_url, api_key="the-key", max_retries=0) as sdk:
        with pytest.raises(openai.BadRequestError) as bad:
            await sdk.chat.completions.create(model="demo", messages=MESSAGES, temperature=9)
        with pytest.raises(openai.NotFoundError) as missing:
            await sdk.chat.completions.create(model="gpt-9", messages=MESSAGES)
    async with openai.AsyncOpenAI(base_url=base_url, api_key="other", max_retries=0) as sdk:
        with pytest.raises(openai.AuthenticationError):
            await sdk.models.list()
    assert (bad.value.param, bad.value.type) == ("temperature", "invalid_request_error")
    assert missing.value.code == "model_not_found"
    assert "org/name" in missing.value.message


# LIMITS 64
async def test_models(engine: Engine, server: HttpServer, sdk: openai.AsyncOpenAI) -> None:
    listed = [model.id async for model in sdk.models.list()]
    assert listed == [engine.info.name, "demo", "org/name"]
    for path in ("/v1/models/org%2Fname", "/v1/models/org/name"):
        found = (await exchange(server, get(path))).json
        residence = found.pop("residence")
        assert residence.keys() == {"pinned", "requests", "limit", "weights", "active"}
        assert residence["weights"] > 0 and residence["pinned"] is True
        assert found == {
            "id": "org/name",
            "object": "model",
            "created": engine.info.created,
            "owned_by": "budmlx",
            "root": engine.info.name,
            "state": "loaded",
            "max_model_len": engine.info.context_length,
            "type": "model",
            "display_name": "org/name",
            "created_at": f"{datetime.fromtimestamp(engine.info.created, UTC):%Y-%m-%dT%H:%M:%SZ}",
            "max_input_tokens": engine.info.context_length,
            "max_tokens": engine.info.context_length,
            "speculation": engine.info.speculation,
        }
    for path in ("/v1/models/nope", "/v1/models/org", "/v1/models/../../etc/passwd"):
        check_error(await exchange(server, get(path)), 404, code="model_not_found")


async def test_health(server: HttpServer, engine: Engine) -> None:
    answer = await exchange(server, get("/health"))
    assert (answer.status, answer.json) == (200, {"message": "ok", "status": "ok"})
    answer = await exchange(server, get("/ready"))
    assert (answer.status, answer.json["status"]) == (200, "ready")
    (memory,) = answer.json["memory"]
    assert 0 < memory["weights"] < memory["limit"]
    assert memory["active"] <= memory["peak"]
    assert answer.json["numbers"] == {engine.info.name: engine.info.numbers}
    assert engine.info.numbers["prefill_chunk"] > 0


async def test_not_ready_says_why(own_server: HttpServer) -> None:
    own_server.models.loaded[0].close()
    answer = await exchange(own_server, get("/ready"))
    error = check_error(answer, 503)
    assert len(error["message"]) > 10
    assert answer.headers["Retry-After"].isdigit()
    assert (await exchange(own_server, get("/health"))).status == 200
    answer = await exchange(own_server, post(json.dumps(body()).encode()))
    check_error(answer, 503, code="engine_closed")


async def test_content_parts_equal_a_string(client: aiohttp.ClientSession) -> None:
    parts = [{"type": "text", "text": "He"}, {"type": "text", "text": "llo"}]
    replies = []
    for content in ("Hello", parts):
        request = body() | {"messages": [{"role": "user", "content": content}]}
        async with client.post(CHAT, json=request) as response:
            replies.append(await response.json())
    assert replies[0]["choices"] == replies[1]["choices"]
    assert replies[0]["usage"] == replies[1]["usage"]


async def test_odd_text_is_accepted(client: aiohttp.ClientSession) -> None:  # LIMITS 41
    odd = "\N{WOMAN}\u200d\N{PERSONAL COMPUTER} \u05d0 \x00 \ufffe <|im_end|>"
    async with client.post(CHAT, json=body(odd, user=odd)) as response:
        assert response.status == 200


async def test_warnings(server: HttpServer, client: aiohttp.ClientSession) -> None:
    request = body(foo=1, store=True)
    expected = ["`foo` is not a known parameter and was ignored.", "`store` has no effect here."]
    async with client.post(CHAT, json=request) as response:
        assert (await response.json())["warnings"] == expected
    for options in ({}, {"stream_options": {"include_usage": True}}):
        raw = post(json.dumps(request | {"stream": True} | options).encode())
        chunks = events((await exchange(server, raw)).content)
        found = [chunk["warnings"] for chunk in chunks[:-1] if "warnings" in chunk]
        assert found == [expected]


async def test_token_ids_outside_the_vocabulary_are_reported(
    client: aiohttp.ClientSession,
) -> None:
    async with client.post(CHAT, json=body(stop_token_ids=[100_000])) as response:
        assert response.status == 200
        (warning,) = (await response.json())["warnings"]
    assert "stop_token_ids" in warning


async def test_strict(start: Start) -> None:
    server = await start(strict=True)
    answer = await exchange(server, post(json.dumps(body(foo=1)).encode()))
    check_error(answer, 400, param="foo")


@pytest.mark.parametrize(
    ("accept", "fields", "streams"),
    [
        ("text/event-stream", {}, True),
        ("text/event-stream", {"stream": None}, True),
        ("text/event-stream", {"stream": False}, False),
        ("application/json", {}, False),
        ("application/json", {"stream": True}, True),
    ],
)
async def test_accept_asks_for_a_stream(
    server: HttpServer, accept: str, fields: dict[str, object], streams: bool
) -> None:
    raw = post(json.dumps(body(**fields)).encode(), Accept=accept)
    content_type = (await exchange(server, raw)).headers["Content-Type"]
    assert content_type == ("text/event-stream" if streams else "application/json")


async def test_a_large_body_is_parsed_off_the_loop(server: HttpServer) -> None:
    padding = [{"role": "user", "content": ""}] * 4000
    request = body() | {"messages": [*padding[:300], {"role": "user", "content": "x"}]}
    raw = json.dumps(request).encode().ljust(200_000)
    assert (await exchange(server, post(raw))).status == 200
    check_error(await exchange(server, post(raw[:-1] + b"x")), 400, code="invalid_json")


async def test_pipelined_requests_are_answered_in_order(server: HttpServer) -> None:
    raw = get("/health").replace(b"Connection: close\r\n", b"")
    ids = [f"r{i}".encode() for i in range(200)]
    many = b"".join(raw.replace(b"\r\n\r\n", b"\r\nX-Request-Id: %s\r\n\r\n" % i) for i in ids)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(many + get("/health"))  # LIMITS 24
    received = await reader.read()
    writer.close()
    await writer.wait_closed()
    found = [line[14:] for line in received.split(b"\r\n") if line.startswith(b"X-Request-Id: r")]
    assert found[:200] == ids


async def test_a_reply_that_was_begun_goes_on(sdk: openai.AsyncOpenAI, engine: Engine) -> None:
    begun = [*MESSAGES, {"role": "assistant", "content": "One two", "prefix": True}]
    reply = await sdk.chat.completions.create(
        model="demo", messages=begun, max_tokens=8, temperature=0
    )
    expected = engine.chat(begun, temperature=0, max_tokens=8)
    assert reply.choices[0].message.content == expected.text
    assert reply.usage is not None
    assert reply.usage.prompt_tokens == expected.usage.prompt_tokens
    with pytest.raises(openai.BadRequestError) as caught:
        await sdk.chat.completions.create(model="demo", messages=[*begun, *MESSAGES])
    assert caught.value.param == "messages[1].prefix"
