"""A real engine for all tests of the server, and a bound server for each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import aiohttp
import pytest

from budmlx import Engine
from budmlx.config import Config
from budmlx.engine.models.models import Models
from budmlx.server.app import HttpServer
from budmlx.server.limits import DEFAULTS, Limits
from tests.models import tiny_model_dir

ALIASES = ("demo", "org/name")

Start = Callable[..., Awaitable[HttpServer]]


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    # Without reuse, so that no test finds what another one computed.
    path = tiny_model_dir(scale=2.0)
    with Engine.load(path, engine_host="thread", prefix_cache="0") as engine:
        yield engine


@pytest.fixture
async def start(engine: Engine) -> AsyncIterator[Start]:
    """Starts servers with given settings; all are drained at the end."""
    servers: list[HttpServer] = []

    async def start(limits: Limits = DEFAULTS, **settings: Any) -> HttpServer:
        config = Config(**{"port": 0, "drain_seconds": 0, **settings})
        server = await HttpServer.start(Models.of(engine, ALIASES), config, limits=limits)
        servers.append(server)
        return server

    yield start
    for server in servers:
        await server.drain()


@pytest.fixture
async def own_server() -> AsyncIterator[HttpServer]:
    """A server with an engine of its own, which a test may break."""
    with Engine.load(tiny_model_dir(scale=2.0), engine_host="thread") as engine:
        config = Config(port=0, drain_seconds=0)
        server = await HttpServer.start(Models.of(engine, ALIASES), config)
        yield server
        await server.drain()


@pytest.fixture
async def server(start: Start) -> HttpServer:
    return await start()


@pytest.fixture
async def client(server: HttpServer) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(server.url) as session:
        yield session
