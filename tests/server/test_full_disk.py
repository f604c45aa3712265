"""A disk that is full while a file is uploaded, and while a batch writes."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
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
        await until(lambda: server.in_flight.count == 0)
        await asyncio.sleep(0.2)
        assert server.in_flight.count == 0, "its lines wait for the disk"
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
