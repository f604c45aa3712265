"""Reused KV over HTTP: who finds what, and how the reply counts it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr

from budmlx import Engine
from budmlx.config import Config
from budmlx.engine.models import ModelSet
from budmlx.server.app import HttpServer
from tests.models import tiny_model_dir
from tests.server.tools import body, exchange, post


@pytest.fixture
async def server() -> AsyncIterator[HttpServer]:
    keys = (SecretStr("first-key"), SecretStr("second-key"))
    with Engine.load(tiny_model_dir(scale=2.0), engine_host="thread") as engine:
        config = Config(port=0, drain_seconds=0, api_keys=keys)
        server = await HttpServer.start(ModelSet(engine, ("demo",)), config)
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
