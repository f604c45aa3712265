"""Adapters over HTTP: listed as models, chosen by model name or by field, in one batch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import openai
import pytest

from budmlx import Engine
from budmlx.config import Config
from budmlx.engine.models.models import Models
from budmlx.server.app import HttpServer
from tests.adapters import write_mlx
from tests.models import tiny_model_dir

MESSAGES = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def path() -> Path:
    return tiny_model_dir(scale=4.0)


@pytest.fixture
async def server(path: Path, tmp_path: Path) -> AsyncIterator[HttpServer]:
    found = [
        f"{name}={write_mlx(tmp_path / name, path, rank=4, seed=seed)}"
        for seed, name in enumerate("ab")
    ]
    with Engine.load(path, adapter=found, prefix_cache="0", warmup="off") as engine:
        server = await HttpServer.start(Models.of(engine, ("demo",)), Config(port=0))
        yield server
        await server.drain()


async def test_rows_of_several_adapters_over_http(server: HttpServer) -> None:
    (engine,) = server.models.loaded
    base = engine.info.name
    sdk = openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    listed = {model.id: model async for model in sdk.models.list()}
    assert list(listed) == [base, "demo", f"{base}:a", f"{base}:b"]
    for name, model in listed.items():
        extra = model.model_extra or {}
        assert extra["root"] == base and extra.get("parent") == (base if ":" in name else None)

    async def said(model: str, **extra: str) -> str | None:
        reply = await sdk.chat.completions.create(
            model=model,
            messages=MESSAGES,  # type: ignore[arg-type]
            temperature=0,
            max_tokens=12,
            extra_body={"ignore_eos": True, **extra},
        )
        return reply.choices[0].message.content

    names = [base, f"{base}:a", "demo:b"]
    texts = await asyncio.gather(*map(said, names))
    expected = [
        engine.chat("Hi", temperature=0, max_tokens=12, ignore_eos=True, adapter=name).text
        for name in ("", "a", "b")
    ]
    assert texts == expected and len(set(texts)) == 3
    assert await said("demo", adapter="b") == await said("demo:b", adapter="b") == texts[2]
    with pytest.raises(openai.BadRequestError, match="adapter"):
        await said("demo:a", adapter="b")
    for name, extra, words in (
        ("demo:c", {}, r"demo has no adapter 'c'\. Its adapters: a, b\."),
        ("demo", {"adapter": "c"}, r"no adapter 'c'\. Loaded: a, b\."),
        ("nope:a", {}, r"No model named 'nope:a'"),
    ):
        with pytest.raises(openai.NotFoundError, match=words):
            await said(name, **extra)
    raw = await sdk.completions.create(model="demo:a", prompt="Hi", max_tokens=4, temperature=0)
    assert (
        raw.choices[0].text == engine.complete("Hi", max_tokens=4, temperature=0, adapter="a").text
    )
    engine.remove_adapter("a")
    assert f"{base}:a" not in server.models.names
    with pytest.raises(openai.NotFoundError):
        await said("demo:a")
