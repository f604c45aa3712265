"""`POST /v1/embeddings`: what clients send, and what they get."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import openai
import pytest

from budmlx import Engine
from budmlx.config import Config
from budmlx.engine.models.models import Models
from budmlx.server.app import HttpServer
from budmlx.server.dialects.openai.embeddings import EmbeddingRequest
from tests.models import tiny_model_dir
from tests.server.tools import Answer, check_error, exchange, post

# What openai, litellm, langchain and llm send; `model` is put in.
SENT: list[dict[str, Any]] = [
    {"input": "hi", "encoding_format": "base64"},
    {"input": ["a", "b"], "user": "u", "dimensions": 2, "encoding_format": "float"},
    {"input": [[1, 2], [3]], "encoding_format": "base64"},
    {"input": ["a"]},
    {"input": [1, 2, 3]},
]


@pytest.fixture(scope="module")
def embedder() -> Iterator[Engine]:
    with Engine.load(tiny_model_dir(), embed_any=True) as engine:
        yield engine


@pytest.fixture
async def served(embedder: Engine) -> AsyncIterator[HttpServer]:
    models = Models.of(embedder, ("demo",))
    server = await HttpServer.start(models, Config(port=0, drain_seconds=0))
    yield server
    await server.drain()


async def ask(server: HttpServer, path: str = "/v1/embeddings", **fields: Any) -> Answer:
    return await exchange(server, post(json.dumps({"model": "demo", **fields}).encode(), path))


@pytest.mark.parametrize("body", SENT)
async def test_what_clients_send(
    embedder: Engine, served: HttpServer, body: dict[str, Any]
) -> None:
    found = (await ask(served, **body)).json
    texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
    texts = [texts] if isinstance(texts[0], int) else texts
    expected = embedder.embed(texts, dimensions=body.get("dimensions"))
    assert found["object"] == "list" and found["model"] == embedder.info.name
    tokens = expected.usage.prompt_tokens
    assert found["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    assert [(each["object"], each["index"]) for each in found["data"]] == [
        ("embedding", number) for number in range(len(texts))
    ]
    for each, vector in zip(found["data"], expected.vectors, strict=True):
        own = each["embedding"]
        if body.get("encoding_format") == "base64":
            own = np.frombuffer(base64.b64decode(own), "<f4")
        assert np.allclose(own, vector, atol=1e-6)


async def test_the_official_client(embedder: Engine, served: HttpServer) -> None:
    async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none") as client:
        found = await client.embeddings.create(model="demo", input=["a", "b"])
        assert np.allclose(found.data[1].embedding, embedder.embed("b").vectors[0], atol=1e-6)
        with pytest.raises(openai.BadRequestError) as caught:
            await client.embeddings.create(model="demo", input=["a", ""])
        assert caught.value.param == "input[1]"


async def test_all_spellings(served: HttpServer) -> None:
    for path in ("/v1/embeddings", "/embeddings", "/v1/v1/embeddings"):
        assert (await ask(served, path, input="a")).status == 200


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": 5}, "input"),
        ({"input": ["a", 5]}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": ""}, "input"),
        ({"input": [[99999]]}, "input[0][0]"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "dimensions": 100}, "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "input_type": "query"}, "prompt_name"),
    ],
)
async def test_what_is_refused(served: HttpServer, fields: dict[str, Any], param: str) -> None:
    check_error(await ask(served, **fields), 400, param=param)


async def test_what_is_too_long_is_refused_or_cut(served: HttpServer) -> None:
    long = [5] * 9000
    check_error(await ask(served, input=long), 400, param="input", code="context_length_exceeded")


async def test_warnings(served: HttpServer) -> None:
    found = (await ask(served, input="a", foo=1)).json
    assert found["warnings"] == ["`foo` is not a known parameter and was ignored."]


def test_the_name_of_a_prompt_goes_before_the_type_of_the_input() -> None:
    two = {"model": "m", "input": "a", "prompt_name": "query", "input_type": "passage"}
    [told] = EmbeddingRequest.parse(two).review(strict=False)
    assert told.startswith("`input_type` was ignored")
    assert not EmbeddingRequest.parse({**two, "input_type": "query"}).review(strict=False)


async def test_a_model_that_does_not_embed(server: HttpServer) -> None:
    error = check_error(await ask(server, input="a"), 400, param="model")
    assert "does not support embeddings" in error["message"]
