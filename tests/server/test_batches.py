"""Files and batches, asked by the official SDK."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budmlx import Engine
from budmlx.config import Config
from budmlx.engine.models.models import Models
from budmlx.engine.store.files import FileStore
from budmlx.engine.store.store import Limits
from budmlx.errors import ConfigError
from budmlx.server.app import HttpServer
from budmlx.server.batches import record, runner
from budmlx.server.batches.record import InputLine, check_lines, read_lines
from tests.amount import examples
from tests.server.conftest import Start

CHAT = "/v1/chat/completions"
BODIES: dict[str, Callable[[int], dict[str, Any]]] = {
    CHAT: lambda n: {"messages": [{"role": "user", "content": f"hi {n}"}], "max_tokens": 4},
    "/v1/completions": lambda n: {"prompt": f"hi {n}", "max_tokens": 4},
    "/v1/responses": lambda n: {"input": f"hi {n}", "max_output_tokens": 4},
    "/v1/embeddings": lambda n: {"input": f"hi {n}"},
}
OVER = ("completed", "failed", "cancelled", "expired")


def line(number: int, endpoint: str = CHAT, **body: Any) -> dict[str, Any]:
    whole = {"model": "demo", "temperature": 0, **BODIES[endpoint](number), **body}
    if endpoint == "/v1/embeddings":
        del whole["temperature"]
    return {"custom_id": f"id {number}", "method": "POST", "url": endpoint, "body": whole}


def jsonl(lines: Sequence[Any]) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in lines)


def sdk(server: HttpServer, key: str = "none") -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)


async def begun(client: openai.AsyncOpenAI, content: bytes, endpoint: str = CHAT) -> Any:
    file = await client.files.create(file=("lines.jsonl", content), purpose="batch")
    return await client.batches.create(
        input_file_id=file.id, endpoint=endpoint, completion_window="24h", metadata={"a": "b"}
    )


async def ended(client: openai.AsyncOpenAI, batch: Any) -> Any:
    while batch.status not in OVER:
        await asyncio.sleep(0.02)
        batch = await client.batches.retrieve(batch.id)
    return batch


async def lines_of(client: openai.AsyncOpenAI, file_id: str | None) -> dict[str, Any]:
    assert file_id is not None
    text = (await client.files.content(file_id)).text
    entries = [json.loads(each) for each in text.splitlines()]
    assert len({entry["custom_id"] for entry in entries}) == len(entries), "a line was there twice"
    return {entry["custom_id"]: entry for entry in entries}


@pytest.mark.parametrize("endpoint", BODIES)
async def test_lines_are_answered_as_requests_are(start: Start, endpoint: str) -> None:
    server = await start()
    client = sdk(server)
    wrong = line(9, endpoint, model="none")
    batch = await ended(
        client,
        await begun(client, jsonl([*(line(n, endpoint) for n in range(3)), wrong]), endpoint),
    )
    counts = batch.request_counts
    assert (batch.status, counts.total, batch.metadata) == ("completed", 4, {"a": "b"})
    assert counts.completed + counts.failed == 4
    failed = await lines_of(client, batch.error_file_id)
    assert failed["id 9"]["response"]["status_code"] == 404
    assert failed["id 9"]["response"]["body"]["error"]["param"] == "model"
    async with (
        aiohttp.ClientSession(server.url) as session,
        session.post(endpoint, json=line(1, endpoint)["body"]) as response,
    ):
        status, same = response.status, await response.json()
    entries = {**failed, **(await lines_of(client, batch.output_file_id) if status == 200 else {})}
    reply = entries["id 1"]["response"]
    assert (reply["status_code"], entries["id 1"]["error"]) == (status, None)
    for name in ("choices", "data", "usage"):
        assert reply["body"].get(name) == same.get(name)
    said = [each["response"]["body"].get("usage") or {} for each in entries.values()]
    totals = [each.get("total_tokens", 0) for each in said]
    assert sum(totals) > 0 or status != 200
    found = batch.usage
    assert found.total_tokens == sum(totals) == found.input_tokens + found.output_tokens
    assert (await client.batches.retrieve(batch.id)).usage == found


async def test_a_line_that_streams_fails_alone(server: HttpServer) -> None:
    client = sdk(server)
    batch = await ended(client, await begun(client, jsonl([line(1), line(2, stream=True)])))
    [failed] = (await lines_of(client, batch.error_file_id)).values()
    assert (failed["custom_id"], failed["response"]["status_code"]) == ("id 2", 400)
    assert failed["response"]["body"]["error"]["param"] == "stream"
    assert list(await lines_of(client, batch.output_file_id)) == ["id 1"]


@pytest.mark.parametrize(
    ("content", "code", "number", "param"),
    [
        (b"", "empty_file", None, "input_file_id"),
        (jsonl([line(1)]) + b"{", "invalid_json_line", 2, None),
        (b"[]\n", "invalid_json_line", 1, None),
        (jsonl([line(1), line(1)]), "duplicate_custom_id", 2, "custom_id"),
        (jsonl([{**line(1), "custom_id": 5}]), "invalid_custom_id", 1, "custom_id"),
        (jsonl([{**line(1), "method": "GET"}]), "invalid_method", 1, "method"),
        (jsonl([{**line(1), "url": "/v1/models"}]), "mismatched_url", 1, "url"),
        (jsonl([{**line(1), "body": "x"}]), "invalid_body", 1, "body"),
        (jsonl([{**line(1), "more": 1}]), "unknown_field", 1, "more"),
        (b'{"custom_id": NaN}\n', "invalid_json_line", 1, "custom_id"),
    ],
)
async def test_a_wrong_line_fails_the_batch_and_is_named(
    server: HttpServer, content: bytes, code: str, number: int | None, param: str | None
) -> None:
    # LIMITS 129
    client = sdk(server)
    batch = await ended(client, await begun(client, content))
    assert batch.status == "failed" and batch.output_file_id is None
    error = batch.errors.data[0]
    assert (error.code, error.line, error.param) == (code, number, param)


async def test_a_cancelled_batch_delivers_what_is_done(start: Start) -> None:
    server = await start(batch_lines=1)
    client = sdk(server)
    long = [line(n, ignore_eos=True, max_tokens=200) for n in range(2, 20)]
    batch = await begun(client, jsonl([line(1), *long]))
    while batch.request_counts.completed == 0:
        await asyncio.sleep(0.01)
        batch = await client.batches.retrieve(batch.id)
    with pytest.raises(openai.BadRequestError, match="cancel it first"):
        await client.files.delete(batch.input_file_id)
    batch = await ended(client, await client.batches.cancel(batch.id))
    assert batch.status == "cancelled" and batch.cancelled_at is not None
    done = await lines_of(client, batch.output_file_id)
    left = await lines_of(client, batch.error_file_id)
    assert "id 1" in done and {*done, *left} == {f"id {n}" for n in range(1, 20)}
    assert len(done) + len(left) == 19
    assert left["id 19"]["error"]["code"] == "batch_cancelled"
    assert left["id 19"]["response"] is None
    assert (await client.batches.cancel(batch.id)).status == "cancelled"


async def test_a_batch_that_ends_just_when_it_is_cancelled_stays_as_it_ended(start: Start) -> None:
    server = await start()
    client, batches = sdk(server), server._app[runner.BATCHES]
    batch = await begun(client, b"no line\n")
    [active] = batches._active.values()
    assert (await ended(client, batch)).status == "failed"
    # It was asked to end before, and comes to it now.
    assert (await batches._cancelled(active)).status == "failed"
    assert not batches._active
    assert (await client.batches.retrieve(batch.id)).status == "failed"


async def test_a_batch_ends_when_its_time_is_over(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "SECONDS", 1)
    client = sdk(await start(batch_lines=1))
    long = [line(n, ignore_eos=True, max_tokens=400) for n in range(30)]
    batch = await ended(client, await begun(client, jsonl([line(99), *long])))
    assert batch.status == "expired"
    done = await lines_of(client, batch.output_file_id)
    left = await lines_of(client, batch.error_file_id)
    assert len(done) + len(left) == 31
    assert left["id 29"]["error"]["code"] == "batch_expired"


async def test_files_are_listed_shown_and_forgotten(server: HttpServer) -> None:
    client = sdk(server)
    ids = []
    for name in ("one", "../two", "three\n\x00"):
        file = await client.files.create(
            file=(name, b"content of " + name.encode()),
            purpose="user_data",
            expires_after={"anchor": "created_at", "seconds": 3600},
        )
        assert file.expires_at == file.created_at + 3600
        ids.append(file.id)
    shown = await client.files.list(purpose="user_data", limit=2)
    assert [each.id for each in shown.data] == ids[:0:-1] and shown.has_more
    older = await client.files.list(purpose="user_data", after=ids[1])
    assert [each.id for each in older.data] == ids[:1]
    assert (await client.files.retrieve(ids[1])).bytes == len(b"content of ../two")
    assert (await client.files.content(ids[1])).content == b"content of ../two"
    assert (await client.files.delete(ids[0])).deleted
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            await call(ids[0])


@pytest.mark.parametrize("id", ["..%2Findex.sqlite", "index.sqlite", "lock", "%2Fetc%2Fpasswd"])
async def test_ids_are_no_paths(client: aiohttp.ClientSession, id: str) -> None:
    # LIMITS 127
    for path in (f"/v1/files/{id}", f"/v1/files/{id}/content", f"/v1/batches/{id}"):
        async with client.get(path) as response:
            assert response.status == 404


async def test_keys_see_their_own_alone(start: Start) -> None:
    # LIMITS 128
    server = await start(api_keys=("one", "two"))
    first, second = sdk(server, "one"), sdk(server, "two")
    batch = await ended(first, await begun(first, jsonl([line(1)])))
    assert batch.status == "completed"
    for file_id in (batch.input_file_id, batch.output_file_id):
        with pytest.raises(openai.NotFoundError):
            await second.files.content(file_id)
    with pytest.raises(openai.NotFoundError):
        await second.batches.retrieve(batch.id)
    with pytest.raises(openai.NotFoundError):
        await second.batches.cancel(batch.id)
    assert not (await second.batches.list()).data and not (await second.files.list()).data
    assert [each.id for each in (await first.batches.list()).data] == [batch.id]
    with pytest.raises(openai.BadRequestError, match="no such file"):
        await second.batches.create(
            input_file_id=batch.input_file_id, endpoint=CHAT, completion_window="24h"
        )


async def test_files_are_bounded(start: Start) -> None:
    # LIMITS 125
    client = sdk(await start(files_max_count=2, files_max_size=30, file_max_size=20))
    with pytest.raises(openai.BadRequestError, match="20 bytes"):
        await client.files.create(file=("x", b"x" * 21), purpose="batch")
    await client.files.create(file=("x", b"x" * 20), purpose="batch")
    with pytest.raises(openai.BadRequestError, match="30 bytes"):
        await client.files.create(file=("x", b"x" * 11), purpose="batch")
    await client.files.create(file=("x", b"x" * 10), purpose="batch")
    with pytest.raises(openai.BadRequestError, match="2 files"):
        await client.files.create(file=("x", b""), purpose="batch")


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"purpose": "batch"}, 400),
        ({"purpose": "other", "file": b"x"}, 400),
        ({"file": b"x"}, 400),
        ({"purpose": "batch", "file": b"x", "more": "1"}, 400),
        ({"purpose": "batch", "file": b"x", "expires_after[seconds]": "1"}, 400),
        ({"purpose": "batch" * 1000, "file": b"x"}, 400),
        ({"purpose": "batch", "file": b"x"}, 200),
    ],
)
async def test_uploads(client: aiohttp.ClientSession, fields: dict[str, Any], status: int) -> None:
    # LIMITS 126
    form = aiohttp.FormData(default_to_multipart=True)
    for name, value in fields.items():
        filename = "x" if name == "file" else None
        form.add_field(name, value, filename=filename)
    async with client.post("/v1/files", data=form) as response:
        assert response.status == status, await response.text()


async def test_what_is_no_form_is_refused(client: aiohttp.ClientSession) -> None:
    # LIMITS 126
    async with client.post("/v1/files", json={}) as response:
        assert response.status == 415
    kind = {"Content-Type": "multipart/form-data"}
    for headers, body in (
        (kind, b"x"),
        ({"Content-Type": "multipart/form-data; boundary=b"}, b"x"),
        ({"Content-Type": "multipart/form-data; boundary=b"}, b"--b\r\n\r\n"),
        ({"Content-Type": "multipart/form-data; boundary=b"}, b"--b\r\nNone--b--\r\n"),
    ):
        async with client.post("/v1/files", data=body, headers=headers) as response:
            assert response.status == 400


async def test_nobody_else_reads_files_and_one_server_uses_them(
    start: Start, tmp_path: Path, engine: Engine
) -> None:
    directory = tmp_path / "files"
    client = sdk(await start(files_dir=str(directory)))
    file = await client.files.create(file=("x", b"x"), purpose="batch")
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / file.id).stat().st_mode) == 0o600
    # LIMITS 141
    with pytest.raises(ConfigError, match="another server uses"):
        FileStore(directory, Limits(1, 1, 1), 1)


async def test_what_was_left_behind_is_swept(tmp_path: Path) -> None:
    limits = Limits(10, 1000, 1)
    files = FileStore(tmp_path, limits, 100)
    with files.upload("me") as output:
        output.write(b"abc")
        kept = output.keep("name", "batch")
    (tmp_path / "file-half.part").write_bytes(b"x")
    (tmp_path / "file-lost").write_bytes(b"x")
    files.close()
    files = FileStore(tmp_path, limits, 100)
    assert files.get("me", kept.id) == kept and files.path(kept).read_bytes() == b"abc"
    assert not [name for name in os.listdir(tmp_path) if name in ("file-half.part", "file-lost")]
    files.close()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "custom_id": st.sampled_from(["a", "b", "c", 1, "", None]),
        "method": st.sampled_from(["POST", "GET"]),
        "url": st.sampled_from([CHAT, "/x"]),
        "body": JSON,
    },
)
INPUTS = st.lists(
    FIELDS.map(lambda fields: json.dumps(fields).encode())
    | st.sampled_from([b"", b" ", b"{", b"\xff"])
    | st.integers(0, 99).map(lambda n: json.dumps(line(n)).encode()),
    max_size=6,
)


@settings(max_examples=examples(60), deadline=None)
@given(lines=INPUTS, end=st.sampled_from([b"", b"\n"]))
def test_any_input_is_valid_or_its_wrong_lines_are_named(lines: list[bytes], end: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"\n".join(lines) + end)
        file.flush()
        path = Path(file.name)
        count, errors = check_lines(path, CHAT)
        good = [each for each in read_lines(path, CHAT) if isinstance(each, InputLine)]
    assert len(good) == count and len({each.custom_id for each in good}) == count
    if errors is None:
        assert count == sum(bool(each.strip()) for each in lines) > 0
    for error in errors.data if errors else ():
        assert error.message and (error.line is None or lines[error.line - 1].strip())


async def test_a_server_that_ends_leaves_its_batch_to_the_next(
    engine: Engine, tmp_path: Path
) -> None:
    config = Config(port=0, drain_seconds=0, files_dir=str(tmp_path), batch_lines=2)
    server = await HttpServer.start(Models.of(engine, ("demo",)), config)
    client = sdk(server)
    batch = await begun(client, jsonl([line(n, max_tokens=20) for n in range(30)]))
    while batch.request_counts.completed < 3:
        await asyncio.sleep(0.01)
        batch = await client.batches.retrieve(batch.id)
    await server.drain()
    server = await HttpServer.start(Models.of(engine, ("demo",)), config)
    client = sdk(server)
    batch = await ended(client, await client.batches.retrieve(batch.id))
    counts = batch.request_counts
    assert (batch.status, counts.total, counts.completed) == ("completed", 30, 30)
    assert len(await lines_of(client, batch.output_file_id)) == 30
    await server.drain()


async def test_batches_that_are_over_are_forgotten_in_time(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    # LIMITS 132
    monkeypatch.setattr(runner, "SWEEP_SECONDS", 0.02)
    client = sdk(await start())
    batch = await ended(client, await begun(client, jsonl([line(1)])))
    output = await client.files.retrieve(batch.output_file_id)
    assert output.expires_at == output.created_at + 30 * 86_400
    monkeypatch.setattr(runner, "KEPT_SECONDS", 0)
    last = await begun(client, jsonl([line(1)]))
    while (await client.batches.list()).data:
        await asyncio.sleep(0.02)
    for id in (batch.id, last.id):
        with pytest.raises(openai.NotFoundError):
            await client.batches.retrieve(id)
    while len(found := (await client.files.list(purpose="batch_output")).data) > 1:
        await asyncio.sleep(0.02)
    assert [each.id for each in found] == [batch.output_file_id], "its own time is not over"
