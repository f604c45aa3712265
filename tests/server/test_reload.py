"""`POST /v1/reload`: what a running server takes of a changed configuration."""

from __future__ import annotations

import json
import logging
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from budmlx.config.key_file import add_record, new_key
from budmlx.config.keys import ApiKey, digest_of
from budmlx.config.sources import load_config
from budmlx.engine.models.models import Models
from budmlx.server.app import HttpServer
from tests.models import tiny_model_dir
from tests.server.conftest import Start
from tests.server.tools import Answer, body, check_error, exchange, get, post
from tests.server_process import started

COMMON = """
host = "127.0.0.1"
port = 0
drain_seconds = 0
warmup = "off"
engine_host = "thread"
"""

Change = Callable[[str], Awaitable[Answer]]


@pytest.fixture
def library(tmp_path: Path) -> Path:
    for seed, name in enumerate(("one", "two")):
        shutil.copytree(tiny_model_dir(scale=2.0, seed=seed), tmp_path / "models" / "org" / name)
    return tmp_path / "models"


@pytest.fixture
def file(tmp_path: Path, library: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(text(library))
    return path


def text(library: Path, more: str = "") -> str:
    return f'{COMMON}models_dir = ["{library}"]\n{more}'


@pytest.fixture
async def server(file: Path) -> AsyncIterator[HttpServer]:
    def read() -> Any:
        return load_config({}, file).config

    config = read()
    with Models(config) as models:
        server = await HttpServer.start(models, config, read=read)
        yield server
        await server.drain()


async def reloaded(server: HttpServer, key: str = "") -> Answer:
    return await exchange(server, post(b"{}", "/v1/reload", X_Api_Key=key))


async def ask(server: HttpServer, model: str = "org/one", key: str = "") -> Answer:
    raw = json.dumps(body(model=model, max_tokens=1)).encode()
    return await exchange(server, post(raw, X_Api_Key=key))


async def test_nothing_new(server: HttpServer) -> None:
    answer = await reloaded(server)
    assert answer.status == 200 and answer.json == {"taken": [], "restart": [], "models": []}


async def test_aliases_and_tables(server: HttpServer, file: Path, library: Path) -> None:
    assert (await ask(server)).status == 200
    before = {each.name: each for each in server.models.residents}
    assert (await ask(server, "gpt-4")).status == 404
    tables = '[aliases]\n"gpt-*" = "org/one"\n'
    tables += '[models."org/one"]\nalias = ["first"]\ncontext_limit = 100\n'
    tables += '[models."org/two"]\nalias = ["second"]\ncontext_limit = 64\n'
    file.write_text(text(library, tables))
    answer = await reloaded(server)
    assert answer.json == {"taken": ["aliases", "models"], "restart": [], "models": ["org/one"]}
    for name in ("gpt-4", "first", "second", "org/one", "org/two"):
        assert (await ask(server, name)).status == 200, name
    # Those that were loaded are the same ones, with the settings that they had.
    after = {each.name: each for each in server.models.residents}
    assert after == before and after["org/one"].loads == 1
    limits = {}
    for name in after:
        entry = (await exchange(server, get(f"/v1/models/{name}"))).json
        limits[name] = entry["max_model_len"]
    assert limits["org/one"] > 100 and limits["org/two"] == 64
    raw = post(b'{"model": "org/one"}', "/v1/models/unload")
    assert (await exchange(server, raw)).status == 200
    assert (await ask(server)).status == 200
    assert (await exchange(server, get("/v1/models/org/one"))).json["max_model_len"] == 100
    file.write_text(text(library))
    assert (await reloaded(server)).json["models"] == ["org/one", "org/two"]
    assert [(await ask(server, name)).status for name in ("first", "gpt-4", "org/two")] == [
        404,
        404,
        200,
    ]


async def test_keys_and_rates(server: HttpServer, file: Path, library: Path) -> None:
    key, admin = new_key(), new_key()
    keys = file.with_name("keys")
    add_record(keys, ApiKey("alice", digest_of(key).hex()))
    add_record(keys, ApiKey("root", digest_of(admin).hex(), admin=True))
    file.write_text(text(library, f'api_key_file = "{keys}"\nrequests_per_minute = 2\n'))
    answer = await reloaded(server)
    assert answer.json["taken"] == ["api_key_file", "requests_per_minute"]
    check_error(await ask(server), 401)
    statuses = [(await ask(server, key=key)).status for _ in range(3)]
    assert statuses == [200, 200, 429]
    check_error(await reloaded(server, key), 429)
    file.write_text(text(library, f'api_key_file = "{keys}"\nrequests_per_minute = 4\n'))
    assert (await reloaded(server, admin)).json["taken"] == ["requests_per_minute"]
    check_error(await reloaded(server, key), 403, code="admin_only")
    file.write_text(text(library))
    assert (await reloaded(server, admin)).status == 200
    assert (await ask(server)).status == 200


async def test_what_needs_a_restart_is_named(
    server: HttpServer, file: Path, library: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changed = text(library, 'log_level = "error"\nmax_queue = 5\nkv_store = "auto"\n')
    file.write_text(changed.replace("port = 0", "port = 8099"))
    level = logging.getLogger().level
    try:
        with caplog.at_level(logging.INFO, "budmlx.server.reload"):
            answer = await reloaded(server)
        assert logging.getLogger().level == logging.ERROR
    finally:
        logging.getLogger().setLevel(level)
    restart = ["kv_store", "max_queue", "port"]
    assert answer.json == {"taken": ["log_level"], "restart": restart, "models": []}
    assert "After a restart: kv_store, max_queue, port." in caplog.text
    # They are named as long as they differ.
    assert (await reloaded(server)).json == {"taken": [], "restart": restart, "models": []}
    assert server.models.resident("org/one").spec.config.kv_store is None


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ("nonsense = 1\n", "nonsense"),
        ("requests_per_minute = 0\n", "requests_per_minute"),
        ("= 1\n", "is not TOML"),
        ('api_key_file = "/nowhere"\naliases = { a = "org/one" }\n', "No such file"),
    ],
)
async def test_a_wrong_file_changes_nothing(
    server: HttpServer, file: Path, library: Path, more: str, reason: str
) -> None:
    file.write_text(text(library, f"{more}"))
    error = check_error(await reloaded(server), 400, code="config_error")
    assert reason in error["message"]
    assert [(await ask(server, name)).status for name in ("org/one", "a")] == [200, 404]


async def test_a_body_with_fields_is_refused(server: HttpServer) -> None:
    check_error(await exchange(server, post(b'{"port": 1}', "/v1/reload")), 400, param="port")


async def test_without_a_configuration(start: Start) -> None:
    check_error(await reloaded(await start()), 400, code="no_configuration")


async def test_a_served_process_reloads_and_a_hangup_still_drains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config.toml"
    file.write_text(COMMON)
    environment = {"BUDMLX_DEVICE": "cpu", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    with started("--demo", "--config", str(file), environment=environment) as (url, process):
        async with aiohttp.ClientSession(url) as session:
            file.write_text(f"{COMMON}requests_per_minute = 1\ndemo = false\n")
            async with session.post("/v1/reload", json={}) as answer:
                found = await answer.json()
            assert found == {"taken": ["requests_per_minute"], "restart": [], "models": []}
            for status in (200, 429):
                async with session.post("/v1/reload", json={}) as answer:
                    assert answer.status == status
        process.send_signal(signal.SIGHUP)
        assert process.wait(30) == 0
