"""Requests that ask for the background let others pass, in every dialect."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from budmlx import Engine
from budmlx.config import Config
from budmlx.config.key_file import add_record, new_key
from budmlx.config.keys import ApiKey, digest_of
from budmlx.engine.models.models import Models
from budmlx.errors import InvalidRequestError
from budmlx.server.app import HttpServer
from tests.models import tiny_model_dir
from tests.server.tools import until

MESSAGES = {"messages": [{"role": "user", "content": "hi"}]}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {**MESSAGES, "max_tokens": 120},
    "/v1/completions": {"prompt": "hi", "max_tokens": 120},
    "/v1/responses": {"input": "hi", "max_output_tokens": 120},
    "/v1/messages": {**MESSAGES, "max_tokens": 120},
    "/api/chat": {**MESSAGES, "stream": False, "options": {"num_predict": 120}},
}
WITHOUT_TEXT: dict[str, dict[str, Any]] = {
    "/v1/decisions": {"input": "Is it?", "yes_no": True},
    "/v1/rerank": {"query": "a", "documents": ["b", "c"]},
    "/v1/embeddings": {"input": ["hi"] * 2},
    "/api/embed": {"input": "hi"},
    "/api/embeddings": {"prompt": "hi"},
}


@pytest.fixture(scope="module")
def engine() -> Any:
    path = tiny_model_dir(scale=2.0)
    with Engine.load(path, engine_host="thread", max_rows=1, embed_any=True) as engine:
        yield engine


@pytest.fixture
async def server(engine: Engine) -> AsyncIterator[HttpServer]:
    models = Models.of(engine, any_name=True)
    server = await HttpServer.start(models, Config(port=0, drain_seconds=0))
    yield server
    await server.drain()


@pytest.fixture
async def session(server: HttpServer) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(server.url) as session:
        yield session


async def ask(session: aiohttp.ClientSession, path: str, **body: Any) -> tuple[int, Any]:
    async with session.post(path, json={"model": "x", **body}) as response:
        return response.status, await response.json()


async def overtaken(server: HttpServer, path: str, **body: Any) -> bool:
    """Whether a chat that comes later, to a model that runs one row, ends earlier."""
    async with aiohttp.ClientSession(server.url) as session:
        return await _overtaken(server, session, path, **body)


async def _overtaken(
    server: HttpServer, session: aiohttp.ClientSession, path: str, **body: Any
) -> bool:
    return await _passed(server, session, session, path, **body)


async def _passed(
    server: HttpServer,
    early: aiohttp.ClientSession,
    late: aiohttp.ClientSession,
    path: str,
    **body: Any,
) -> bool:
    first = asyncio.create_task(ask(early, path, ignore_eos=True, **body))
    await until(lambda: server.in_flight.count == 1)
    status, _ = await ask(late, "/v1/chat/completions", **MESSAGES, max_tokens=3)
    before = not first.done()
    assert (status, (await first)[0]) == (200, 200)
    return before


@pytest.mark.parametrize("path", BODIES)
async def test_the_background_lets_others_pass(server: HttpServer, path: str) -> None:
    assert await overtaken(server, path, **BODIES[path], priority="background")


CLASSES = pytest.mark.parametrize("given", [{"priority": "background"}, {}], ids=str)


@CLASSES
@pytest.mark.parametrize("path", ["/v1/decisions", "/v1/rerank"])
async def test_questions_let_others_pass(
    server: HttpServer, session: aiohttp.ClientSession, path: str, given: dict[str, str]
) -> None:
    async def chats() -> None:
        for _ in range(12):
            await ask(session, "/v1/chat/completions", **MESSAGES, max_tokens=8, ignore_eos=True)

    # One of them runs, and another one waits.
    others = [asyncio.create_task(chats()) for _ in range(3)]
    await until(lambda: server.in_flight.count == 3)
    own = asyncio.create_task(ask(session, path, **WITHOUT_TEXT[path], **given))
    await asyncio.wait(others, return_when=asyncio.FIRST_COMPLETED)
    assert own.done() != bool(given)
    await asyncio.gather(*others)
    assert (await own)[0] == 200


@pytest.mark.parametrize("path", ["/v1/embeddings", "/api/embed"])
async def test_vectors_let_others_pass(
    server: HttpServer, session: aiohttp.ClientSession, path: str
) -> None:
    many = [f"{n} {'word ' * 60}" for n in range(40)]
    own = asyncio.create_task(ask(session, path, input=many, priority="background"))
    await until(lambda: server.in_flight.count == 1 or own.done())
    assert (await ask(session, "/v1/embeddings", input="hi"))[0] == 200
    assert not own.done()
    assert (await own)[0] == 200


async def test_flex_is_the_background(server: HttpServer, session: aiohttp.ClientSession) -> None:
    chat = BODIES["/v1/chat/completions"]
    assert await overtaken(server, "/v1/chat/completions", **chat, service_tier="flex")
    _, reply = await ask(session, "/v1/chat/completions", **MESSAGES, service_tier="flex")
    assert reply["service_tier"] == "flex"


async def test_other_classes_are_refused(session: aiohttp.ClientSession, engine: Engine) -> None:
    for path, body in {**BODIES, **WITHOUT_TEXT}.items():
        status, reply = await ask(session, path, **body, priority="urgent")
        assert status == 400 and "priority" in str(reply)
    for call in (
        lambda: engine.chat("hi", priority="urgent"),
        lambda: engine.rerank("a", ["b"], priority="urgent"),
        lambda: engine.embed("a", priority="urgent"),
    ):
        with pytest.raises(InvalidRequestError) as wrong:
            call()
        assert wrong.value.param == "priority"


async def test_a_key_of_the_background_stays_there(engine: Engine, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    keys = {name: new_key() for name in ("low", "high")}
    for name, key in keys.items():
        digest = digest_of(key).hex()
        add_record(file, ApiKey(name, digest, background=name == "low"))
    config = Config(port=0, drain_seconds=0, api_key_file=file)
    server = await HttpServer.start(Models.of(engine, any_name=True), config)
    low, high = (
        aiohttp.ClientSession(server.url, headers={"Authorization": f"Bearer {key}"})
        for key in keys.values()
    )
    async with low, high:
        for path, body in BODIES.items():
            assert await _passed(server, low, high, path, **body)
            status, reply = await ask(low, path, **body, priority="interactive")
            assert status == 400 and "priority" in str(reply)
        assert not await _passed(server, high, low, path, **body)
    await server.drain()
