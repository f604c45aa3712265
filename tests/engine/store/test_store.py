"""The store keeps what it may, for its owners alone, and outlives its process."""

from __future__ import annotations

import math
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest

from budmlx.engine.store.store import Limits, Shelf, Store
from budmlx.errors import ConfigError
from tests.docs.pages import ROOT

RECORDED = ROOT / "tests" / "recorded" / "store"
MANY = Limits(count=100, size=10_000, seconds=3600)


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "a" / "store" if request.param == "file" else None)
    yield store
    store.close()


def test_records(store: Store) -> None:
    shelf = Shelf(store, "thing", MANY)
    assert shelf.get("me", "1") is None
    assert shelf.put("me", "1", b"one", names=["uno", "eins"])
    assert shelf.get("me", "1") == b"one"
    assert shelf.get("you", "1") is None and Shelf(store, "other", MANY).get("me", "1") is None
    assert shelf.find("me", "eins") == "1" and shelf.find("you", "eins") is None
    shelf.put("me", "1", b"two", names=["uno"])
    assert shelf.get("me", "1") == b"two" and shelf.find("me", "eins") is None
    assert not shelf.delete("you", "1")
    assert shelf.delete("me", "1") and not shelf.delete("me", "1")
    assert shelf.get("me", "1") is None and shelf.find("me", "uno") is None


def test_limits(store: Store) -> None:
    few = Shelf(store, "few", Limits(count=3, size=10_000, seconds=3600))
    for id in "abc":
        few.put("me", id, b"x")
    few.put("you", "a", b"x")
    few.get("me", "a")  # The others were not used for longer.
    few.put("me", "d", b"x")
    assert [few.get("me", id) is not None for id in "abcd"] == [True, False, True, True]
    assert few.get("you", "a") is not None
    small = Shelf(store, "small", Limits(count=100, size=10, seconds=3600))
    for id in "abc":
        assert small.put("me", id, b"1234")
    assert [small.get("me", id) is not None for id in "abc"] == [False, True, True]
    assert not small.put("me", "large", b"12345678901")
    assert small.get("me", "b") is not None


def test_age(store: Store) -> None:
    old = Shelf(store, "old", Limits(count=100, size=100, seconds=0))
    old.put("me", "a", b"x", names=["n"])
    assert old.get("me", "a") is None
    old.put("you", "b", b"x")
    assert old.find("me", "n") is None


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "state" / "store"
    first = Store(path)
    Shelf(first, "thing", MANY).put("me", "1", b"secret", names=["n"])
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert set(modes.values()) == {0o600} and "store" in modes
    second = Store(path)  # Of another server.
    Shelf(second, "thing", MANY).put("me", "2", b"more")
    first.close()
    second.close()
    again = Store(path)
    shelf = Shelf(again, "thing", MANY)
    assert (shelf.get("me", "1"), shelf.get("me", "2")) == (b"secret", b"more")
    shelf.delete("me", "1")
    again.close()
    assert b"secret" not in path.read_bytes()


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    # LIMITS 134
    other = tmp_path / "text"
    other.write_text("This is no database. " * 100)
    later = tmp_path / "later"
    with sqlite3.connect(later) as database:
        database.execute("PRAGMA user_version = 99")
    for path in (other, later, tmp_path, other / "below"):
        with pytest.raises(ConfigError, match=r"store: .* cannot be used: .* can write, or leave"):
            Store(path)


def _later(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 99")


def _damaged(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 3000)


@pytest.mark.parametrize("spoil", [_later, _damaged])
def test_a_spoilt_file_of_ours_is_set_aside_with_a_line(
    tmp_path: Path, spoil: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "store"
    first = Store(path)
    Shelf(first, "thing", MANY).put("me", "1", b"x")
    first.close()
    spoil(path)
    before = path.read_bytes()
    again = Store(path)
    shelf = Shelf(again, "thing", MANY)
    assert shelf.get("me", "1") is None and shelf.put("me", "1", b"y")
    again.close()
    (aside,) = tmp_path.glob("store.set-aside-*")
    assert aside.read_bytes() == before
    (line,) = caplog.messages
    assert f"it is now {aside.name}, and a new one begins" in line


# What this version writes, as it was when it was recorded: later ones must read it.
def test_a_recorded_file_is_read(tmp_path: Path) -> None:
    path = Path(shutil.copy(RECORDED, tmp_path / "store"))
    store = Store(path)
    shelf = Shelf(store, "thing", replace(MANY, seconds=math.inf))
    assert shelf.get("me", "1") == b"secret" and shelf.find("me", "n") == "1"
    assert shelf.get("you", "1") is None
    store.close()
    assert not list(tmp_path.glob("*.set-aside-*"))


def test_a_store_that_fails_loses_records_and_nothing_else(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    shelf = Shelf(store, "thing", MANY)
    store.close()
    assert not shelf.put("me", "1", b"x")
    assert shelf.get("me", "1") is None
    assert "failed" in caplog.text


def test_threads(store: Store) -> None:
    shelf = Shelf(store, "thing", MANY)

    def work(owner: str) -> None:
        for n in range(20):
            shelf.put(owner, str(n), owner.encode())
            assert shelf.get(owner, str(n)) == owner.encode()

    threads = [threading.Thread(target=work, args=(f"owner {n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(shelf.get(f"owner {n}", "19") for n in range(4))


def test_names_of_several_records(store: Store) -> None:
    shelf = Shelf(store, "thing", MANY)
    shelf.put("me", "1", b"one", names=["n", "n"])
    shelf.put("me", "2", b"two", names=["n"])
    assert shelf.find("me", "n") == "2"
    shelf.delete("me", "2")
    assert shelf.find("me", "n") == "1"


OPENING = """
import sys
from pathlib import Path
from budmlx.engine.store.store import Limits, Shelf, Store
print("ready", flush=True)
sys.stdin.readline()
for place in sys.argv[2:]:
    store = Store(Path(place))
    assert Shelf(store, "thing", Limits(100, 1000, 3600)).put("me", sys.argv[1], b"x")
    store.close()
"""


def test_many_open_a_new_file_at_the_same_time(tmp_path: Path) -> None:
    paths = [str(tmp_path / str(n)) for n in range(30)]
    for path in paths[:10]:  # They have to make a new one.
        Store(Path(path)).close()
        _damaged(Path(path))
    with ExitStack() as stack:
        openers = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", OPENING, str(n), *paths],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for n in range(4)
        ]
        for each in openers:
            assert each.stdout is not None and each.stdout.readline() == "ready\n"
        for each in openers:
            assert each.stdin is not None
            each.stdin.close()
        assert [each.wait(60) for each in openers] == [0] * 4
    for path in paths:
        store = Store(Path(path))
        assert all(Shelf(store, "thing", MANY).get("me", str(n)) == b"x" for n in range(4))
        store.close()
    assert len(list(tmp_path.glob("*.set-aside-*[0-9]"))) == 10
