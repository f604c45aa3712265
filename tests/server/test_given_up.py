"""Clients that give up during a long prefill, over HTTP: a repeat goes on where they left."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest

from budmlx import Engine
from budmlx.config import Config
from budmlx.engine.models.models import Models
from budmlx.engine.reply.generation import Generation
from budmlx.server.app import HttpServer
from tests.models import tiny_model_dir
from tests.server.tools import CHAT, body

PROGRESS = re.compile(rb": prefilled (\d+)/(\d+) tokens\n\n")
BLOCK = 64


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """It computes prompts in many steps."""
    path = tiny_model_dir(scale=2.0)
    with Engine.load(path, engine_host="process", prefill_chunk=16, warmup="off") as engine:
        yield engine


@pytest.fixture
async def session(engine: Engine) -> AsyncIterator[aiohttp.ClientSession]:
    """To a server that says at once how far prompts are."""
    config = Config(port=0, drain_seconds=0, hold_seconds=0, keepalive_seconds=0.001)
    server = await HttpServer.start(Models.of(engine, ["demo"]), config)
    async with aiohttp.ClientSession(server.url) as client:
        yield client
    await server.drain()


def asking(**fields: object) -> dict[str, object]:
    return body("A long story of a fox and a dog, told slowly. " * 45, max_tokens=1, **fields)


async def progress(response: aiohttp.ClientResponse, least: int) -> tuple[int, int]:
    """What a stream says as soon as so many tokens are computed."""
    said = b""
    async for piece in response.content.iter_any():
        said += piece
        found = PROGRESS.findall(said)
        if found and int(found[-1][0]) >= least:
            return int(found[-1][0]), int(found[-1][1])
    raise AssertionError(f"the stream ended: {said!r}")


async def test_a_repeat_goes_on_where_a_stream_was_given_up(
    session: aiohttp.ClientSession,
) -> None:
    async with session.post(CHAT, json=asking(stream=True)) as response:
        done, total = await progress(response, 200)
        response.close()
    assert done < total - 1
    async with session.post(CHAT, json=asking()) as response:
        usage = (await response.json())["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    assert usage["prompt_tokens"] == total and done - BLOCK <= cached < total - 1


async def test_one_that_waits_for_the_whole_reply_may_give_up_too(
    session: aiohttp.ClientSession, engine: Engine
) -> None:
    whole = asyncio.ensure_future(answered(session))
    running = engine._pipeline.dispatcher._jobs
    left = None
    while left is None or left > 1500:
        await asyncio.sleep(0.001)
        jobs = [job for job in running.values() if isinstance(job, Generation)]
        left = jobs[0].left if jobs else None
    whole.cancel()
    usage = await answered(session)
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    assert usage["prompt_tokens"] - left - BLOCK <= cached < usage["prompt_tokens"] - 1


async def answered(session: aiohttp.ClientSession) -> Any:
    async with session.post(CHAT, json=asking(cache_salt="other")) as response:
        return (await response.json())["usage"]
