"""Models that are not loaded: what is told of them, and what does and does not load one."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from budmlx.config import Config, ModelConfig
from budmlx.engine.models.models import Models
from budmlx.server.app import HttpServer
from tests.models import tiny_model_dir
from tests.server.tools import body, check_error, exchange, get, post, until

MIB = 2**20


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[HttpServer]:
    for seed, name in enumerate(("one", "two")):
        shutil.copytree(tiny_model_dir(seed=seed), tmp_path / name)
    config = Config(
        models_dir=(str(tmp_path),),
        memory_budget=36 * MIB,  # 32 MiB are for what is computed
        min_stay=0,
        load_wait=0,
        idle_unload=0.3,
        port=0,
        engine_host="thread",
        warmup="off",
        models={"two": ModelConfig(context_limit=100)},
    )
    with Models(config) as models:
        server = await HttpServer.start(models, config)
        yield server
        await server.drain()


async def listed(server: HttpServer) -> dict[str, dict[str, Any]]:
    answer = await exchange(server, get("/v1/models"))
    return {each["id"]: each for each in answer.json["data"]}


async def test_what_would_be_honoured_is_told(server: HttpServer) -> None:
    found = await listed(server)
    assert {each["state"] for each in found.values()} == {"unloaded"}
    # Memory has room for less than its context; a setting is smaller still.
    assert 1000 < found["one"]["max_model_len"] < 8192
    assert found["two"]["max_model_len"] == 100


async def test_who_does_not_wait_gets_503_and_finds_it_loaded_later(server: HttpServer) -> None:
    message = json.dumps(body(model="one", max_tokens=2)).encode()
    answer = await exchange(server, post(message))
    check_error(answer, 503)
    assert int(answer.headers["Retry-After"]) > 0
    one = server.models.resident("one")
    await until(lambda: one.state == "loaded")
    assert (await exchange(server, post(message))).status == 200
    assert one.loads == 1


async def test_signs_of_life_neither_keep_nor_load_a_model(server: HttpServer) -> None:
    one = server.models.resident("one")
    async with server.models.find("one").aengine(patient=True):
        pass
    while one.state != "unloaded":
        await _ask(server)
    await _ask(server)
    assert (one.state, one.loads) == ("unloaded", 1)


async def _ask(server: HttpServer) -> None:
    for path in ("/health", "/ready", "/metrics", "/v1/models", "/v1/models/one"):
        assert (await exchange(server, get(path))).status == 200, path
