"""Servers of a model that says what scripts say."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import pytest

from budmlx import Engine
from budmlx.config import Config
from budmlx.engine.models.models import Models
from budmlx.engine.store.store import Limits, Store
from budmlx.server.app import HttpServer
from budmlx.server.dialects.responses.kept import KeptResponses
from tests.agent_model import agent_model, calling, thinking
from tests.server.conftest import Start

SCRIPTS = {
    "look": [
        thinking("I will look.", calling("exec_command", {"cmd": "ls"}, before="Looking.")),
        "There is a cat.",
    ],
    "patch": [calling("apply_patch", {"input": "*** Begin\n+x\n*** End\n"}), "Patched."],
    "agent": [calling("spawn_agent", {"message": "do"}), "It is done."],
    "think": [thinking("A cat, perhaps.", "A dog."), "Or both."],
    "long": [" ".join(map(str, range(300)))],
}


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.load(agent_model(SCRIPTS), engine_host="thread", warmup="off") as engine:
        yield engine


@pytest.fixture
async def start(engine: Engine) -> AsyncIterator[Start]:
    """Starts servers with given settings; all are drained at the end."""
    servers: list[HttpServer] = []

    async def start(**settings: Any) -> HttpServer:
        config = Config(**{"port": 0, "drain_seconds": 0, **settings})
        names = ("local-model", "gpt-5.5", "m", "local")
        server = await HttpServer.start(Models.of(engine, names), config)
        servers.append(server)
        return server

    yield start
    for server in servers:
        await server.drain()


@pytest.fixture
async def server(start: Start) -> HttpServer:
    return await start()


@pytest.fixture
async def sdk(server: HttpServer) -> AsyncIterator[openai.AsyncOpenAI]:
    base = f"{server.url}/v1"
    async with openai.AsyncOpenAI(base_url=base, api_key="none", max_retries=0) as sdk:
        yield sdk


@pytest.fixture
def kept() -> Iterator[KeptResponses]:
    store = Store()
    yield KeptResponses(store, Limits(count=100, size=2**20, seconds=3600))
    store.close()
