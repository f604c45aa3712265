"""A file that an earlier version wrote: its replies are there, or it is set aside."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from budmlx_cache_sqlite import ROW_BYTES, SqliteCache

from budmlx import Engine

RECORDED = Path(__file__).parent / "recorded"
VALUES = {
    key: bytes.fromhex(value)
    for key, value in json.loads((RECORDED / "values.json").read_text("utf-8")).items()
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return Path(shutil.copyfile(RECORDED / "responses.sqlite", tmp_path / "responses.sqlite"))


def test_recorded_replies_are_there(path: Path) -> None:
    assert len(VALUES) == 6
    cache = SqliteCache(path, 2**20)
    assert {key: cache.get(key) for key in VALUES} == VALUES
    stats = cache.stats()
    assert stats.entries == len(VALUES)
    assert stats.bytes == sum(len(value) + ROW_BYTES for value in VALUES.values())
    cache.set("new", b"value", None)
    cache.delete("a")
    cache.close()
    again = SqliteCache(path, 2**20)
    assert (again.get("new"), again.get("a"), again.get("empty")) == (b"value", None, b"")
    again.close()
    assert not list(path.parent.glob("*.corrupt-*"))


def test_an_engine_goes_on_with_the_recorded_file(
    open_engine: Callable[..., Engine], path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    option = (f"cache-sqlite.path={path}",)
    for cached in (False, True):
        with open_engine(plugin=("cache-sqlite",), plugin_option=option) as engine:
            reply = engine.chat("Another question", max_tokens=5, temperature=0, cache=True)
            assert reply.usage.completion_tokens == 5 and reply.cached == cached
    assert "failed" not in caplog.text
