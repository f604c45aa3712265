"""A disk that is full while a file is uploaded, and while a batch writes.

The limit of sizes of files stands for it; where this is root, a small file system is filled, too.
"""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import openai
import pytest

from budmlx.engine.store.files import FileStore, StoredFile
from budmlx.engine.store.store import Limits
from budmlx.errors import OverloadedError
from tests.server.conftest import Start
from tests.server.test_batches import CHAT, ended, jsonl, line, lines_of, sdk
from tests.server.tools import until


@contextmanager
def full(size: int = 1) -> Iterator[None]:
    """No file of this process grows beyond so many bytes, as if the disk were full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    directory = tmp_path / "disk"
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(directory)]
    if (
        sys.platform != "linux"
        or os.geteuid() != 0
        or subprocess.run(command, check=False).returncode
    ):
        pytest.skip("only root mounts a file system, and not in every container")
    yield directory
    subprocess.run(["umount", "--lazy", str(directory)], check=True)


@contextmanager
def filled(directory: Path) -> Iterator[None]:
    """The file system of a directory has no room."""
    ballast = directory / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    yield
    ballast.unlink()


def contents(directory: Path) -> set[str]:
    return {name for name in os.listdir(directory) if name.startswith("file-")}


async def test_an_upload_is_refused_and_leaves_nothing(start: Start, tmp_path: Path) -> None:
    # LIMITS 130
    client = sdk(await start(files_dir=str(tmp_path)))
    with full(2**20), pytest.raises(openai.InternalServerError) as refused:
        await client.files.create(file=("x", b"x" * 3 * 2**20), purpose="batch")
    assert refused.value.status_code == 503 and "log" in str(refused.value)
    assert contents(tmp_path) == set() and not (await client.files.list()).data
    for size in (1, 100):  # the index cannot be written, or the file
        with full(), pytest.raises(openai.InternalServerError) as refused:
            await client.files.create(file=("x", b"x" * size), purpose="batch")
        assert refused.value.status_code == 503
        assert contents(tmp_path) == set()
    file = await client.files.create(file=("x", b"x"), purpose="batch")
    assert contents(tmp_path) == {file.id}


async def test_a_batch_waits_and_answers_each_line_once(start: Start, tmp_path: Path) -> None:
    # LIMITS 130
    server = await start(files_dir=str(tmp_path), batch_lines=4)
    client = sdk(server)
    file = await client.files.create(
        file=("x", jsonl([line(n) for n in range(40)])), purpose="batch"
    )
    asked = {"input_file_id": file.id, "completion_window": "24h"}
    with full(), pytest.raises(openai.InternalServerError):
        await client.batches.create(endpoint=CHAT, **asked)
    assert not (await client.batches.list()).data
    batch = await client.batches.create(endpoint=CHAT, **asked)
    while batch.request_counts.completed < 3:
        await asyncio.sleep(0.01)
        batch = await client.batches.retrieve(batch.id)
    with full():
        await until(lambda: not server.in_flight.holders)
        await asyncio.sleep(0.2)
        assert not server.in_flight.holders, "its lines wait for the disk"
    batch = await ended(client, batch)
    assert (batch.status, batch.request_counts.completed) == ("completed", 40)
    assert len(await lines_of(client, batch.output_file_id)) == 40


def test_what_a_batch_writes_is_there_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    # LIMITS 130
    files = FileStore(tmp_path, Limits(10, 2**20, 1), 2**20)
    file = StoredFile("file-a-output", "me", "x", "batch_output", 0, 1, None)
    with full(2**18), pytest.raises(OverloadedError):
        files.write(file, iter([b"x" * 2**16] * 8))
    assert contents(tmp_path) == set() and files.get("me", file.id) is None
    assert files.write(file, iter([b"x"])).size == 2
    files.close()


async def test_a_file_system_that_is_full(start: Start, small_disk: Path) -> None:
    # LIMITS 130
    server = await start(files_dir=str(small_disk / "files"), batch_lines=4)
    client = sdk(server)
    content = jsonl([line(n) for n in range(40)])
    file = await client.files.create(file=("x", content), purpose="batch")
    asked = {"input_file_id": file.id, "completion_window": "24h"}
    with filled(small_disk):
        with pytest.raises(openai.InternalServerError) as refused:
            await client.files.create(file=("x", b"x" * 2**17), purpose="batch")
        assert refused.value.status_code == 503
        assert contents(small_disk / "files") == {file.id}
    batch = await client.batches.create(endpoint=CHAT, **asked)
    while batch.request_counts.completed < 3:
        await asyncio.sleep(0.01)
        batch = await client.batches.retrieve(batch.id)
    with filled(small_disk):
        # The index may still have pages of its own for some lines.
        before = -1
        while before < (
            before := (await client.batches.retrieve(batch.id)).request_counts.completed
        ):
            await asyncio.sleep(0.5)
    batch = await ended(client, batch)
    assert (batch.status, batch.request_counts.completed) == ("completed", 40)
    assert len(await lines_of(client, batch.output_file_id)) == 40
