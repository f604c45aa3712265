"""API keys with names: what they open, and how a running server learns of changes."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from budmlx.config.key_file import add_record, new_key, remove_record
from budmlx.config.keys import ApiKey, digest_of
from budmlx.server.app import HttpServer
from tests.server.conftest import Start
from tests.server.tools import Answer, body, check_error, events, exchange, get, post, until

CHAT = "/v1/chat/completions"


def added(path: Path, name: str, **fields: object) -> str:
    """A new key in a file."""
    key = new_key()
    add_record(path, ApiKey(name, digest_of(key).hex(), **fields))  # type: ignore[arg-type]
    return key


async def models(server: HttpServer, key: str) -> Answer:
    return await exchange(server, get("/v1/models", Authorization=f"Bearer {key}"))


async def chat(server: HttpServer, key: str, **fields: object) -> Answer:
    raw = post(json.dumps(body(**{"max_tokens": 2, **fields})).encode(), X_Api_Key=key)
    return await exchange(server, raw)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys"


async def test_a_key_works_at_once_and_ends_with_the_next_request(start: Start, file: Path) -> None:
    first = added(file, "first")
    server = await start(api_key_file=file)
    assert (await models(server, first)).status == 200
    second = added(file, "second")
    assert (await models(server, second)).status == 200
    remove_record(file, "first")
    check_error(await models(server, first), 401, code="invalid_api_key")
    assert (await models(server, second)).status == 200
    # The last one is gone: nobody comes in, and not everybody.
    remove_record(file, "second")
    check_error(await models(server, second), 401)
    check_error(await models(server, ""), 401)


async def test_plain_lines_are_read_again_too(start: Start, file: Path) -> None:
    file.write_text("one\n")
    server = await start(api_key_file=file, api_keys=("zero",))
    assert [(await models(server, key)).status for key in ("zero", "one", "two")] == [200, 200, 401]
    file.write_text("two\n")
    assert [(await models(server, key)).status for key in ("zero", "one", "two")] == [200, 401, 200]


async def test_a_wrong_file_changes_nothing(
    start: Start, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = added(file, "first")
    server = await start(api_key_file=file)
    right = file.read_text()
    for wrong in (b"two words\n", b"\xff", right.encode()[:60], None):
        if wrong is None:
            file.unlink()
        else:
            file.write_bytes(wrong)
        for _ in range(2):
            assert (await models(server, key)).status == 200
    told = [each.message for each in caplog.records if "The former API keys" in each.message]
    assert len(told) == 4 and not any(key in each for each in told)
    file.write_text("other\n")
    check_error(await models(server, key), 401)


async def test_names_are_in_the_log_the_metrics_and_the_records(
    start: Start, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = added(file, "alice@home")
    server = await start(api_key_file=file, api_keys=("plain",))
    with caplog.at_level(logging.INFO):
        for each in (key, "plain"):
            assert (await chat(server, each)).status == 200
        check_error(await chat(server, "wrong"), 401)
    lines = [each.message for each in caplog.records if each.name == "budmlx.access"]
    assert " key=alice@home " in lines[0] and " key=key-1 " in lines[1]
    assert "key=" not in lines[2] and key not in caplog.text
    raw = get("/metrics", Authorization=f"Bearer {key}")
    text = (await exchange(server, raw)).content.decode()
    counted = [line for line in text.splitlines() if line.startswith("budmlx_requests_total")]
    assert [line for line in counted if 'key="alice@home"' in line and line.endswith(" 1.0")]
    assert [line for line in counted if 'key="key-1"' in line and line.endswith(" 1.0")]


async def test_a_key_ends(start: Start, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    now = datetime.now(UTC)
    over = added(file, "over", expires=now - timedelta(seconds=1), admin=True)
    valid = added(file, "valid", expires=now + timedelta(hours=1))
    soon = added(file, "soon", expires=now + timedelta(seconds=1))
    server = await start(api_key_file=file)
    with caplog.at_level(logging.INFO):
        error = check_error(await models(server, over), 401, code="invalid_api_key")
    assert "time of this API key is over" in error["message"]
    assert any(" key=over " in each.message for each in caplog.records)
    assert (await models(server, valid)).status == 200
    while datetime.now(UTC) <= now + timedelta(seconds=1):
        await asyncio.sleep(0.05)
    check_error(await models(server, soon), 401)


@pytest.mark.parametrize(
    ("path", "header"),
    [
        ("/v1/messages", "X_Api_Key"),
        ("/v1/responses", "Authorization"),
        ("/api/chat", "Authorization"),
    ],
)
async def test_every_dialect_says_that_a_key_has_ended(
    start: Start, file: Path, path: str, header: str
) -> None:
    key = added(file, "over", expires=datetime.now(UTC) - timedelta(days=1))
    server = await start(api_key_file=file)
    value = key if header == "X_Api_Key" else f"Bearer {key}"
    answer = await exchange(server, post(b"{}", path, **{header: value}))
    assert answer.status == 401 and "is over" in json.dumps(answer.json["error"])


async def test_admin_rights_come_from_the_file(start: Start, file: Path) -> None:
    admin, user = added(file, "root", admin=True), added(file, "user")
    server = await start(api_key_file=file)
    level = json.dumps({"level": "info"}).encode()

    async def change(key: str) -> Answer:
        raw = post(level, "/v1/log_level", Authorization=f"Bearer {key}")
        return await exchange(server, raw)

    assert (await change(admin)).status == 200
    error = check_error(await change(user), 403, code="admin_only")
    assert "keys add NAME --admin" in error["message"]
    remove_record(file, "root")
    check_error(await change(admin), 401)
    check_error(await change(user), 403, code="admin_only")


async def test_keys_change_under_load_and_nothing_is_lost(start: Start, file: Path) -> None:
    """Each request ends as its key was when it came: whole, or with 401."""
    current = added(file, "user-0")
    server = await start(api_key_file=file)
    over = asyncio.Event()
    statuses: list[int] = []

    async def client() -> None:
        while not over.is_set():
            answer = await chat(server, current, stream=True)
            assert answer.status == 200
            assert events(answer.content)[-1] == "[DONE]"
            statuses.append(answer.status)

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(client())
        for number in range(1, 8):
            before = len(statuses)
            # A new key is there before the old one is used for the last time.
            current = added(file, f"user-{number}")
            await until(lambda before=before: len(statuses) >= before + 8)  # type: ignore[misc]
            remove_record(file, f"user-{number - 1}")
        over.set()
    assert len(statuses) >= 56


async def test_a_running_reply_outlives_its_key(start: Start, file: Path) -> None:
    key = added(file, "first")
    server = await start(api_key_file=file)
    reply = asyncio.create_task(chat(server, key, max_tokens=200, stream=True, ignore_eos=True))
    await until(lambda: server.in_flight.count == 1)
    remove_record(file, "first")
    check_error(await models(server, key), 401)
    assert events((await reply).content)[-1] == "[DONE]"


async def test_a_file_that_is_replaced_within_a_moment_is_noticed(start: Start, file: Path) -> None:
    key = added(file, "first")
    server = await start(api_key_file=file)
    times = os.stat(file)
    remove_record(file, "first")
    other = added(file, "other")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert [(await models(server, each)).status for each in (key, other)] == [401, 200]
