"""`cache` over HTTP: who is served from it, and how the reply says so."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest
from pydantic import SecretStr

from tests.server.conftest import Start
from tests.server.tools import CHAT, body, check_error, events, exchange, post

KEYS = (SecretStr("first-key"), SecretStr("second-key"))


async def test_the_documented_behaviour(client: aiohttp.ClientSession) -> None:
    ask = body("What is cached?", cache=True, temperature=1)
    replies = []
    for _ in range(2):
        async with client.post(CHAT, json=ask) as response:
            replies.append(await response.json())
    first, second = replies
    assert (first["cached"], second["cached"]) == (False, True)
    assert second["choices"] == first["choices"]
    assert second["id"] != first["id"]
    assert second["usage"]["total_tokens"] == first["usage"]["total_tokens"]
    details = second["usage"]["prompt_tokens_details"]
    assert details["cached_tokens"] == first["usage"]["prompt_tokens"]
    assert "warnings" not in second


@pytest.mark.parametrize("include_usage", [False, True])
async def test_a_hit_is_replayed_as_a_stream(
    client: aiohttp.ClientSession, include_usage: bool
) -> None:
    ask = body("And streamed?", cache=True, temperature=1)
    async with client.post(CHAT, json=ask) as response:
        text = (await response.json())["choices"][0]["message"]["content"]
    options = {"stream": True, "stream_options": {"include_usage": include_usage}}
    async with client.post(CHAT, json={**ask, **options}) as response:
        *chunks, done = events(await response.read())
    assert done == "[DONE]"
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert "".join(choice["delta"].get("content", "") for choice in choices) == text
    (ended,) = [c for c in chunks if c["choices"] and c["choices"][0]["finish_reason"]]
    assert ended["cached"] is True
    assert all("cached" not in chunk for chunk in chunks if chunk is not ended)


async def test_who_does_not_ask_is_not_told(client: aiohttp.ClientSession) -> None:
    async with client.post(CHAT, json=body("Not cached")) as response:
        assert "cached" not in await response.json()


async def test_keys_do_not_share_replies(start: Start) -> None:  # LIMITS 116
    server = await start(api_keys=KEYS)
    cached = []
    for key in ("first-key", "second-key", "first-key", "second-key"):
        data = json.dumps(body("Whose is it?", cache=True)).encode()
        answer = await exchange(server, post(data, Authorization=f"Bearer {key}"))
        cached.append(answer.json["cached"])
    assert cached == [False, False, True, True]


@pytest.mark.parametrize("value", ["yes", 1, {"ttl": -1}, {"ttl": "5"}, {"ttl": 1e300}, [], {}])
async def test_other_values_are_refused(start: Start, value: Any) -> None:
    server = await start()
    answer = await exchange(server, post(json.dumps(body(cache=value)).encode()))
    check_error(answer, 400, param="cache")
