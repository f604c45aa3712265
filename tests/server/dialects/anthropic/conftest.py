"""Servers of a model that says what scripts say, for whole conversations of agents."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest

from budmlx import Engine
from budmlx.config import Config
from budmlx.engine.models.models import Models
from budmlx.server.app import HttpServer
from tests.agent_model import agent_model, calling, thinking

TURNS = 40
LOOK = thinking("I will look.", calling("Bash", {"command": "ls"}, before="Looking."))
SCRIPTS = {
    "look": [LOOK, "There is a cat."],
    "two": [
        f"{calling('Bash', {'command': 'pwd'})}\n{calling('Read', {'file_path': '/pic.png'})}",
        "Seen.",
    ],
    "search": [calling("ToolSearch", {"query": "select:WebFetch"}), "Found."],
    "long": [
        thinking(f"Step {turn} of many.", calling("Bash", {"command": f"step {turn}"}))
        for turn in range(TURNS)
    ],
}


@pytest.fixture(scope="package")
def agent() -> Iterator[Engine]:
    with Engine.load(agent_model(SCRIPTS), engine_host="thread", warmup="off") as engine:
        yield engine


@pytest.fixture
async def agent_client(agent: Engine) -> AsyncIterator[aiohttp.ClientSession]:
    config = Config(port=0, drain_seconds=0)
    server = await HttpServer.start(Models.of(agent, ("local-model", "small-model")), config)
    async with aiohttp.ClientSession(server.url) as session:
        yield session
    await server.drain()
