"""Reused KV over HTTP: who finds what, and how the reply counts it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr

from budmlx import Engine
from budmlx.config import Config
from budmlx.engine.models.models import Models
from budmlx.server.app import HttpServer
from tests.models import tiny_model_dir
from tests.server.tools import body, exchange, post


@pytest.fixture
async def server() -> AsyncIterator[HttpServer]:
    keys = (SecretStr("first-key"), SecretStr("second-key"))
    with Engine.load(tiny_model_dir(scale=2.0), engine_host="thread") as engine:
        config = Config(port=0, drain_seconds=0, api_keys=keys)
        server = await HttpServer.start(Models.of(engine, ("demo",)), config)
        yield server
        await server.drain()


async def test_keys_share_nothing_and_hits_are_counted(server: HttpServer) -> None:
    """LIMITS 116."""
    data = json.dumps(body("A secret that only one key knows. " * 10)).encode()
    usages, texts = [], []
    for key in ("first-key", "second-key", "first-key", "second-key"):
        answer = await exchange(server, post(data, Authorization=f"Bearer {key}"))
        usages.append(answer.json["usage"])
        texts.append(answer.json["choices"][0]["message"]["content"])
    prompt = usages[0]["prompt_tokens"]
    hits = [usage["prompt_tokens_details"]["cached_tokens"] for usage in usages]
    assert hits == [0, 0, prompt - 1, prompt - 1]
    assert len(set(texts)) == 1


async def test_the_reply_explains_what_was_reused(server: HttpServer) -> None:
    key = {"Authorization": "Bearer first-key"}
    sent = json.dumps(body("A story of a fox. " * 8, explain_cache=True, max_tokens=2)).encode()
    told = (await exchange(server, post(sent, **key))).json["cache_explanation"]
    assert (told["matched_tokens"], told["tier"], told["reason"]) == (0, "none", "never_seen")
    told = (await exchange(server, post(sent, **key))).json["cache_explanation"]
    assert (told["tier"], told["reason"]) == ("memory", "complete")
    assert told["matched_tokens"] == told["prompt_tokens"] - 1
    plain = json.dumps(body(max_tokens=2)).encode()
    assert "cache_explanation" not in (await exchange(server, post(plain, **key))).json
    streamed = json.dumps(body(explain_cache=True, max_tokens=2, stream=True)).encode()
    answer = await exchange(server, post(streamed, **key))
    assert answer.content.decode().count('"cache_explanation":{') == 1
