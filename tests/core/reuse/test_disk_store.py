"""Blocks on disk: what is read is what was written, whatever happens to processes and files."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import random
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import mlx.core as mx
import pytest

from budmlx.core.reuse.disk.store import BOUNDS, Bounds, KVStore, chain, chains
from budmlx.core.reuse.disk.sweep import sweep
from tests.core.reuse.kv_writer import (
    BLOCK,
    CONVERSATIONS,
    LAYOUT,
    content,
    conversation,
    fill,
    settle,
)
from tests.core.reuse.kv_writer import open_store as opened
from tests.measured import Measured

NEWS = 16 * 2**10


@contextmanager
def open_store(
    directory: Path, limit: int = 2**30, identity: str = "a", bounds: Bounds = BOUNDS
) -> Iterator[KVStore]:
    store = opened(directory, limit, identity, bounds)
    yield store
    store.close(20)


def written(directory: Path, numbers: range = range(3)) -> None:
    with open_store(directory) as store:
        fill(store, list(numbers))


def check(store: KVStore, numbers: range = range(CONVERSATIONS)) -> int:
    """Read everything; how many blocks were there. None may be wrong."""
    found = 0
    for number in numbers:
        for path, tokens in conversation(store, number):
            if path[-1] in store:
                arrays = store.load(path[-1], tokens)
                assert arrays is None or list(map(bytes, arrays)) == content(path[-1], tokens)
                found += arrays is not None
    return found


def files(directory: Path, pattern: str = "*.safetensors") -> list[Path]:
    return sorted(directory.glob(f"*/{pattern}"))


def test_blocks_come_back_after_a_restart(tmp_path: Path) -> None:
    written(tmp_path / "kv")
    with open_store(tmp_path / "kv") as store:
        assert check(store) == store.counters.hits == 12
        assert (store.counters.misses, store.counters.quarantined) == (0, 0)
    assert stat.S_IMODE((tmp_path / "kv").stat().st_mode) == 0o700
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files(tmp_path / "kv"))


def test_files_are_safetensors_whose_names_tell_nothing(tmp_path: Path) -> None:
    written(tmp_path, range(1))
    with open_store(tmp_path) as store:
        for path, tokens in conversation(store, 0):
            [file] = files(tmp_path, f"{path[-1].hex()}.safetensors")
            tensors = mx.load(str(file))
            assert tensors["0"].dtype == mx.float32 and tensors["0"].shape == (1, 2, tokens, 48)
            assert tensors["1"].dtype == mx.bfloat16
            assert [bytes(memoryview(tensors[name])) for name in "01"] == content(path[-1], tokens)
            assert b"somebody" not in file.read_bytes()


def test_keys_depend_on_everything_before() -> None:
    keys = {chain(b"", (1, 2)), chain(b"", (1,)), chain(chain(b"", (1,)), (2,)), chain(b"a", (1,))}
    assert len(keys) == 4
    assert dict(chains(b"p", (5, -7, 9))) == {
        chain(b"p", (5, -7, 9)[:length]): length for length in (1, 2, 3)
    }


def test_models_and_namespaces_share_nothing(tmp_path: Path) -> None:
    written(tmp_path)
    with open_store(tmp_path, identity="b") as store:
        assert check(store) == 0
        assert store.root("x") != store.root("y")
        fill(store, [0])
    with open_store(tmp_path, identity="b") as store:
        assert check(store) == 4


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def flip(place: float) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[int(place * (len(data) - 1))] ^= 4
        path.write_bytes(data)

    return damage


def swapped(path: Path) -> None:
    same = [
        each for each in files(path.parent.parent) if each.stat().st_size == path.stat().st_size
    ]
    path.write_bytes(next(each for each in same if each != path).read_bytes())


def of_another_model(path: Path) -> None:
    with open_store(path.parent.parent / "other", identity="b") as store:
        fill(store, [0])
    path.write_bytes(max(files(path.parent.parent / "other")).read_bytes())


def of_the_future(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"version":"1"', b'"version":"2"'))


def huge(path: Path) -> None:
    os.truncate(path, 10 * 2**30)


def huge_header(path: Path) -> None:
    path.write_bytes((10 * 2**30).to_bytes(8, "little") + path.read_bytes()[8:])


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def linked(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def piped(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replaced_by_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = [
    *(flip(place) for place in (0, 0.002, 0.01, 0.02, 0.03, 0.5, 1)),
    *(
        truncate,
        swapped,
        of_another_model,
        of_the_future,
        huge,
        huge_header,
        emptied,
        linked,
        piped,
    ),
    replaced_by_a_folder,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__qualname__)
def test_a_damaged_file_is_a_counted_miss(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """LIMITS 112."""
    written(tmp_path)
    with open_store(tmp_path) as store:
        fill(store, [0])
        settle(store)  # The sweep with which a store begins would see the damage.
        path, tokens = conversation(store, 0)[0]
        [file] = files(tmp_path, f"{path[-1].hex()}.safetensors")
        damage(file)
        assert store.load(path[-1], tokens) is None and path[-1] not in store
        assert (store.counters.misses, store.counters.quarantined) == (1, 1)
        assert not os.path.lexists(file) and os.path.lexists(file.with_suffix(".bad"))
        assert check(store) == 11
        fill(store, [0])
    with open_store(tmp_path) as store:
        assert check(store) == 12


def test_a_file_that_somebody_removed_is_a_miss(tmp_path: Path) -> None:
    written(tmp_path)
    with open_store(tmp_path) as store:
        fill_once(store)
        for file in files(tmp_path):
            file.unlink()
        assert check(store) == 0
        assert (store.counters.misses, store.counters.quarantined) == (12, 0)
        store._folder.rmdir()
        fill(store, [0])
    with open_store(tmp_path) as store:
        assert check(store) == 4


def test_the_least_recently_used_conversations_go_first(tmp_path: Path) -> None:
    written(tmp_path, range(10))
    size = sum(file.stat().st_size for file in files(tmp_path))
    with open_store(tmp_path, size) as store:
        for number in (0, 1):
            store.use(conversation(store, number)[-1][0])
        fill(store, [20])
    left = sum(file.stat().st_size for file in files(tmp_path))
    assert 0.7 * size < left <= size
    with open_store(tmp_path, size) as store:
        counts = [check(store, range(number, number + 1)) for number in (*range(10), 20)]
        assert counts[0] == counts[1] == counts[-1] == 4 and sum(counts[2:6]) < 16
        for number in range(10):
            held = [path[-1] in store for path, _ in conversation(store, number)]
            assert held == sorted(held, reverse=True), "a beginning went before what follows it"


def test_the_limit_is_that_of_all_models_and_nothing_else_is_touched(tmp_path: Path) -> None:
    written(tmp_path)
    mine = [tmp_path / "notes.txt", tmp_path / "photos-0123456789abcdef" / "me.jpg"]
    mine[1].parent.mkdir()
    for path in mine:
        path.write_bytes(bytes(NEWS))
    with open_store(tmp_path, 2 * NEWS, identity="b") as store:
        fill(store, [1])
    assert sum(file.stat().st_size for file in files(tmp_path)) <= 2 * NEWS
    assert all(path.exists() for path in mine)


def test_debris_is_removed_and_living_writers_are_left_alone(tmp_path: Path) -> None:
    written(tmp_path)
    name = files(tmp_path)[0].with_suffix("")
    debris = [name.with_suffix(f".{i:08x}.tmp") for i in range(2)]
    for path in debris:
        path.write_bytes(b"half")
    with open(debris[1], "rb") as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)
        sweep(tmp_path, 2**30)
        assert [path.exists() for path in debris] == [False, True]
        os.utime(debris[1], (1, 1))
        sweep(tmp_path, 2**30)
    assert not debris[1].exists()


def test_a_queue_that_is_full_drops(tmp_path: Path) -> None:
    with (
        open_store(tmp_path, bounds=Bounds(jobs=5)) as store,
        store._wake,
    ):  # the writer waits for this lock
        for path, tokens in (each for number in range(9) for each in conversation(store, number)):
            store.save(path, tokens, content(path[-1], tokens))
        assert not store.accepts and 30 <= store.counters.dropped <= 31
    with open_store(tmp_path) as store:
        assert 5 <= check(store) <= 6


def test_nothing_that_waits_is_written_once_it_is_forgotten(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        with store._wake:
            for path, tokens in conversation(store, 1):
                store.save(path, tokens, content(path[-1], tokens))
            store.forget()
        fill(store, [2])
    with open_store(tmp_path) as store:
        assert [check(store, range(n, n + 1)) for n in (1, 2)] == [0, 4]


def test_a_directory_that_cannot_be_made_is_warned_of_once_a_minute(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """LIMITS 113."""
    (tmp_path / "file").write_bytes(b"")
    with caplog.at_level(logging.WARNING), open_store(tmp_path / "file" / "kv") as store:
        fill_once(store)
        assert not store.accepts and store.counters.dropped >= 1
        store._resume = 0.0
        fill_once(store)
        assert len(caplog.records) == 1 and "Not a directory" in caplog.text
        (tmp_path / "file").unlink()
        assert check(store) == 0
        store._resume = 0.0
        fill(store, [0])
    with open_store(tmp_path / "file" / "kv") as store:
        assert check(store) == 4


def fill_once(store: KVStore) -> None:
    path, tokens = conversation(store, 0)[0]
    store.save(path, tokens, content(path[-1], tokens))
    settle(store)


FULL_DISK = """
import resource, sys
from pathlib import Path
from tests.core.reuse.kv_writer import conversation, content, open_store
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
store = open_store(Path(sys.argv[1]))
for path, tokens in reversed(conversation(store, 0)):
    store.save(path, tokens, content(path[-1], tokens))
store.close(20)
print(store.counters.written, store.counters.dropped >= 1, store.accepts)
"""


def test_a_full_disk_leaves_no_debris(tmp_path: Path) -> None:
    """LIMITS 113. The last block of conversation 0 is small enough to fit."""
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "1 True False\n"
    assert os.strerror(errno.EFBIG) in done.stderr
    assert len(files(tmp_path, "*")) == 1
    with open_store(tmp_path) as store:
        assert check(store) == 1


class Writers:
    """Starts processes that write into a directory, and kills them."""

    def __init__(self, directory: Path, limit: int):
        command = [sys.executable, "-m", "tests.core.reuse.kv_writer", str(directory), str(limit)]
        self.parent = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.seed = 0

    def start(self) -> int:
        assert self.parent.stdin is not None and self.parent.stdout is not None
        self.seed += 1
        self.parent.stdin.write(f"{self.seed}\n")
        return int(self.parent.stdout.readline())


@pytest.fixture
def writers(tmp_path: Path) -> Iterator[Writers]:
    # Room for half of all, so that files are removed all the time.
    writers = Writers(tmp_path, CONVERSATIONS * BLOCK * 1000)
    yield writers
    writers.parent.kill()
    writers.parent.communicate()


def kill_at_random(tmp_path: Path, writers: Writers, times: int) -> str:
    """Kill so many writers and read what they left; what was found."""
    rng = random.Random(times)
    found = debris = 0
    for _ in range(times):
        writer = writers.start()
        time.sleep(rng.uniform(0, 0.05))
        os.kill(writer, signal.SIGKILL)
        with suppress(ProcessLookupError):
            while True:
                os.kill(writer, 0)
        debris += len(files(tmp_path, "*.tmp"))
        with open_store(tmp_path) as store:
            found += check(store)
            assert (store.counters.misses, store.counters.quarantined) == (0, 0)
        assert not files(tmp_path, "*.tmp")
    assert found > 5 * times and debris >= times // 20
    return f"{times} kills: {found} blocks read, 0 wrong; debris of {debris} removed"


def test_kill_9_while_writing(tmp_path: Path, writers: Writers) -> None:
    kill_at_random(tmp_path, writers, 20)


@pytest.mark.soak
def test_kill_9_at_200_points_of_writing(
    tmp_path: Path, writers: Writers, measured: Measured
) -> None:
    """LIMITS 111, L7."""
    measured("L7", kill_at_random(tmp_path, writers, 200))


def test_processes_share_a_directory(tmp_path: Path, writers: Writers) -> None:
    """LIMITS 114."""
    started = [writers.start() for _ in range(3)]
    found = 0
    for _ in range(10):
        with open_store(tmp_path, CONVERSATIONS * BLOCK * 1000) as store:
            found += check(store)
            fill(store, list(range(4)))
            assert store.counters.quarantined == 0
    for writer in started:
        os.kill(writer, signal.SIGKILL)
    assert found > 100


def test_blocks_of_other_processes_are_found_after_a_while(tmp_path: Path) -> None:
    with open_store(tmp_path, bounds=Bounds(rescan=0.0)) as store:
        written(tmp_path)
        fill(store, [7])
        settle(store)
        assert check(store, range(3)) == 12


def test_the_layout_of_the_test_is_large_enough_to_be_interrupted() -> None:
    assert sum(spec.nbytes(BLOCK) for spec in LAYOUT) > 100_000
