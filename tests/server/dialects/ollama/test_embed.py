"""Vectors in Ollama's protocol."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import numpy as np
import pytest

from budmlx import Engine
from budmlx.config import Config
from budmlx.engine.models.models import Models
from budmlx.server.app import HttpServer
from budmlx.server.warnings_header import NAME as WARNINGS
from tests.models import tiny_model_dir


@pytest.fixture(scope="module")
def embedder() -> Iterator[Engine]:
    with Engine.load(tiny_model_dir(), embed_any=True, context_limit=512) as engine:
        yield engine


@pytest.fixture
async def client(embedder: Engine) -> AsyncIterator[aiohttp.ClientSession]:
    server = await HttpServer.start(Models.of(embedder, ("demo",)), Config(port=0, drain_seconds=0))
    async with aiohttp.ClientSession(server.url) as client:
        yield client
    await server.drain()


async def ask(client: aiohttp.ClientSession, path: str, **fields: Any) -> tuple[Any, str]:
    async with client.post(path, json={"model": "demo:latest", **fields}) as response:
        assert response.status == 200, await response.text()
        return await response.json(), response.headers.get(WARNINGS, "[]")


async def test_vectors(client: aiohttp.ClientSession, embedder: Engine) -> None:
    expected = embedder.embed(["a", "bc"])
    found, warnings = await ask(client, "/api/embed", input=["a", "bc"], options={"top_k": None})
    assert found.pop("model") == "demo:latest" and json.loads(warnings) == []
    np.testing.assert_allclose(found.pop("embeddings"), expected.vectors, rtol=1e-5)
    assert found.pop("prompt_eval_count") == expected.usage.prompt_tokens
    assert found.keys() == {"total_duration", "load_duration"}
    assert all(type(value) is int and value >= 0 for value in found.values())
    one, _ = await ask(client, "/api/embed", input="a", dimensions=4)
    assert np.shape(one["embeddings"]) == (1, 4)
    old, _ = await ask(client, "/api/embeddings", prompt="a")
    np.testing.assert_allclose(old["embedding"], expected.vectors[0], rtol=1e-5)


async def test_without_text_the_model_is_loaded(client: aiohttp.ClientSession) -> None:
    for fields in ({}, {"input": ""}, {"input": []}):
        assert (await ask(client, "/api/embed", **fields))[0]["embeddings"] == []
    assert (await ask(client, "/api/embeddings"))[0] == {"embedding": []}


async def test_what_is_too_long_is_cut_unless_that_is_refused(
    client: aiohttp.ClientSession,
) -> None:
    text = "word " * 9000
    _, warnings = await ask(client, "/api/embed", input=text, options={"num_ctx": 1})
    assert len(json.loads(warnings)) == 2
    body = {"model": "demo", "input": ["a", text], "truncate": False}
    async with client.post("/api/embed", json=body) as response:
        assert response.status == 400 and "input[1]" in (await response.json())["error"]
