"""Files, batches and keys that an earlier version wrote are read."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import aiohttp
import pytest

from budmlx import Engine
from budmlx.config import Config
from budmlx.config.keys import parsed
from budmlx.engine.models.models import Models
from budmlx.engine.store.files import INDEX
from budmlx.server.app import HttpServer
from tests.models import tiny_model_dir
from tests.recorded.stores import FILES, KEYS
from tests.recorded.write_files import ALICE, ANSWERED, BOB, HALF, LINES, OVER
from tests.server.tools import until


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.load(tiny_model_dir(scale=2.0), engine_host="thread") as engine:
        yield engine


# LIMITS 140
@pytest.mark.parametrize("broken", [False, True])
async def test_recorded_files_and_batches_are_gone_on_with(
    engine: Engine, tmp_path: Path, broken: bool, caplog: pytest.LogCaptureFixture
) -> None:
    directory = Path(shutil.copytree(FILES, tmp_path / "files"))
    if broken:  # One record of another form keeps from nothing else.
        with closing(sqlite3.connect(directory / INDEX)) as database:
            wrong = [("batch_0", 0, b"{}"), ("batch_1", 0, b"\xff"), ("batch_2", 1, b"[")]
            database.executemany("INSERT INTO batches VALUES (?, '', ?, ?)", wrong)
            database.commit()
    config = Config(port=0, drain_seconds=0, files_dir=str(directory))
    server = await HttpServer.start(Models.of(engine, ("demo",)), config)
    async with aiohttp.ClientSession(f"{server.url}/v1/") as client:

        async def get(path: str) -> bytes:
            async with client.get(path) as response:
                return await response.read() if response.status == 200 else b""

        listed = json.loads(await get("batches"))["data"]
        assert [each["id"] for each in listed] == [HALF.id, OVER.id]
        over = json.loads(await get(f"batches/{OVER.id}"))
        assert over["status"] == "completed" and over["metadata"] == {"a": "b"}
        assert json.loads(await get(f"files/{over['output_file_id']}/content")) == ANSWERED
        lines = (await get("files/file-input/content")).splitlines()
        assert list(map(json.loads, lines)) == LINES
        half = {"status": ""}
        while half["status"] != "completed":
            await asyncio.sleep(0.02)
            half = json.loads(await get(f"batches/{HALF.id}"))
        replies = (await get(f"files/{half['output_file_id']}/content")).splitlines()
        first, second = map(json.loads, replies)
        assert first == ANSWERED and second["custom_id"] == "id 1"
        assert second["response"]["status_code"] == 200
        assert not await get("batches/batch_0") and not await get("batches/batch_2")
    told = [each for each in caplog.messages if "cannot be read" in each]
    assert len(told) == (2 if broken else 0)
    await until(lambda: server.in_flight.count == 0)
    await server.drain()
    assert not list(directory.glob("*.set-aside-*"))


def test_recorded_keys_mean_the_same() -> None:
    found = parsed(KEYS.read_text("utf-8"))
    assert [key for key, _ in found.plain] == ["a-whole-key"]
    assert found.records == (ALICE, BOB)
