"""Replies on disk: what survives, what is shared, what happens to damage and full disks."""

from __future__ import annotations

import logging
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from budmlx_cache_sqlite import ROW_BYTES, SqliteCache

from budmlx import Engine
from budmlx.testing import check_response_cache

Open = Callable[..., Engine]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "replies.sqlite3"


def test_contract(path: Path) -> None:
    check_response_cache(SqliteCache(path, 2**20))


def test_an_installed_engine_uses_it_and_it_survives_a_restart(
    open_engine: Open, path: Path
) -> None:
    option = (f"cache-sqlite.path={path}",)
    texts = []
    for _ in range(2):
        with open_engine(plugin=("cache-sqlite",), plugin_option=option) as engine:
            reply = engine.chat("Hello", max_tokens=5, cache=True)
            texts.append((reply.text, reply.cached))
    (first, cold), (second, warm) = texts
    assert first == second
    assert (cold, warm) == (False, True)
    assert path.stat().st_mode & 0o077 == 0


def test_it_stays_below_its_size_and_drops_the_oldest(path: Path) -> None:
    size = 20 * (1000 + ROW_BYTES)
    cache = SqliteCache(path, size)
    for number in range(200):
        cache.set(f"key-{number}", bytes(1000), None)
        assert cache.stats().bytes <= size
    assert cache.get("key-199") == bytes(1000) and cache.get("key-0") is None
    cache.set("huge", bytes(size), None)
    assert cache.get("huge") is None and cache.get("key-199") is not None
    cache.close()
    files = path.parent.glob("*")
    assert sum(file.stat().st_size for file in files) < 2**22 + 4 * size


WRITER = """
import sys
from pathlib import Path
from budmlx_cache_sqlite import SqliteCache
cache = SqliteCache(Path(sys.argv[1]), 2**24)
print("ready", flush=True)
for number in range(int(sys.argv[2])):
    cache.set(f"{sys.argv[3]}-{number}", str(number).encode() * 100, None)
"""


def writer(path: Path, count: int, name: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), str(count), name]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_several_processes_share_it(path: Path) -> None:
    processes = [writer(path, 50, name) for name in "abc"]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    cache = SqliteCache(path, 2**24)
    for name in "abc":
        for number in range(50):
            assert cache.get(f"{name}-{number}") == str(number).encode() * 100
    for process in processes:
        process.communicate()


def test_a_kill_while_writing_leaves_whole_entries(path: Path) -> None:
    for turn in range(3):
        process = writer(path, 10**9, "k")
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        cache = SqliteCache(path, 2**24)
        while cache.get(f"k-{20 + turn}") is None:
            assert process.poll() is None, "the writer ended"
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for number in range(cache.stats().entries):
            assert cache.get(f"k-{number}") in (None, str(number).encode() * 100)
        cache.clear()
        cache.close()


@pytest.mark.parametrize("damage", ["no database", "truncated", "flipped", "empty"])
def test_a_damaged_file_is_a_miss_and_put_aside(
    path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache = SqliteCache(path, 2**24)
    for number in range(100):
        cache.set(f"key-{number}", str(number).encode() * 500, None)
    cache.close()
    raw = bytearray(path.read_bytes())
    if damage == "no database":
        raw[:16] = b"<html>not found<"
    elif damage == "truncated":
        del raw[len(raw) // 2 :]
    elif damage == "flipped":
        for place in range(8192, len(raw), 512):
            raw[place] ^= 0xFF
    else:
        raw.clear()
    path.write_bytes(raw)
    cache = SqliteCache(path, 2**24)
    for number in range(100):
        assert cache.get(f"key-{number}") in (None, str(number).encode() * 500)
    cache.set("new", b"value", None)
    assert cache.get("new") == b"value"
    if damage == "no database":
        assert list(path.parent.glob("*.corrupt-*"))
        assert "put aside" in caplog.text


def test_swapped_values_are_misses(path: Path) -> None:
    cache = SqliteCache(path, 2**20)
    cache.set("a", b"one", None)
    cache.set("b", b"two", None)
    with sqlite3.connect(path) as db:
        db.execute("UPDATE replies SET value = x'74776f' WHERE key = 'a'")
    db.close()
    assert cache.get("a") is None and cache.get("b") == b"two"
    assert cache.stats().entries == 1


def test_a_newer_version_is_left_alone(path: Path) -> None:
    cache = SqliteCache(path, 2**20)
    cache.set("a", b"one", None)
    cache.close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(sqlite3.OperationalError, match="another version"):
        cache.get("a")
    assert not list(path.parent.glob("*.corrupt-*"))


def test_a_full_disk_costs_only_the_caching(
    open_engine: Open, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    option = (f"cache-sqlite.path={path}",)
    with open_engine(plugin=("cache-sqlite",), plugin_option=option) as engine:
        kept = engine.chat("Hello", max_tokens=5, cache=True)
        assert engine.chat("Hello", max_tokens=5, cache=True).cached
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, before[1]))
        try:
            with caplog.at_level(logging.WARNING):
                for prompt in ("one", "two", "three"):
                    reply = engine.chat(prompt, max_tokens=5, cache=True)
                    assert reply.usage.completion_tokens == 5 and not reply.cached
            again = engine.chat("Hello", max_tokens=5, cache=True)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)
    assert (again.text, again.cached) == (kept.text, True)
    assert caplog.text.count("The response cache of plugin cache-sqlite failed") == 1
