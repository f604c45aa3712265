"""Tokens per day of API keys, over real sockets: every route, every dialect."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest

from budmlx import Engine
from budmlx.config import Config
from budmlx.config.key_file import add_record, new_key
from budmlx.config.keys import ApiKey, digest_of
from budmlx.engine.models.models import Models
from budmlx.server.app import HttpServer
from tests.models import tiny_model_dir
from tests.server.conftest import Start
from tests.server.tools import (
    CHAT,
    Answer,
    body,
    check_error,
    endless,
    events,
    exchange,
    get,
    post,
    until,
)

TEXTS = body()["messages"]
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"messages": TEXTS, "max_tokens": 8},
    "/v1/completions": {"prompt": ["a", "b c"], "max_tokens": 4, "n": 2},
    "/v1/embeddings": {"input": ["a", "b c"]},
    "/v1/rerank": {"query": "a", "documents": ["b", "c"]},
    "/v1/decisions": {"input": "a", "yes_no": True},
    "/v1/messages": {"messages": TEXTS, "max_tokens": 8},
    "/v1/responses": {"input": "a", "max_output_tokens": 8},
    "/api/chat": {"messages": TEXTS, "options": {"num_predict": 8}, "stream": False},
    "/api/generate": {"prompt": "a", "options": {"num_predict": 8}, "stream": False},
    "/api/embed": {"input": "a b c"},
}


def made(path: Path, name: str, **fields: Any) -> str:
    key = new_key()
    add_record(path, ApiKey(name, digest_of(key).hex(), **fields))
    return key


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys"


async def ask(server: HttpServer, key: str, path: str = CHAT, **fields: Any) -> Answer:
    raw = {"model": "demo", **BODIES[path], **fields}
    return await exchange(server, post(json.dumps(raw).encode(), path, X_Api_Key=key))


async def ask_bearer(server: HttpServer, key: str, path: str, **fields: Any) -> Answer:
    raw = json.dumps({"model": "demo", **BODIES[path], **fields}).encode()
    return await exchange(server, post(raw, path, Authorization=f"Bearer {key}"))


async def usage(server: HttpServer, key: str, query: str = "") -> Any:
    answer = await exchange(server, get(f"/v1/usage{query}", Authorization=f"Bearer {key}"))
    assert answer.status == 200, answer.content
    return answer.json


async def total(server: HttpServer, key: str) -> int:
    return sum(each["total_tokens"] for each in (await usage(server, key))["data"])


def tokens_in(reply: Any) -> int:
    """What the reply of any dialect says that it took."""
    if "prompt_eval_count" in reply:
        return int(reply["prompt_eval_count"] + reply.get("eval_count", 0))
    found = reply["usage"]
    if "total_tokens" in found:
        return int(found["total_tokens"])
    return int(found["input_tokens"] + found["output_tokens"])


@pytest.fixture(scope="module")
def embedder() -> Any:
    path = tiny_model_dir(scale=2.0)
    with Engine.load(path, engine_host="thread", prefix_cache="0", embed_any=True) as engine:
        yield engine


@pytest.fixture
async def both(embedder: Engine, file: Path) -> AsyncIterator[tuple[HttpServer, dict[str, str]]]:
    """A server of a model that chats and makes vectors, with a poor key and a rich one."""
    keys = {"poor": made(file, "poor", tokens_per_day=1)}
    keys["rich"] = made(file, "rich", tokens_per_day=10**6)
    config = Config(port=0, drain_seconds=0, api_key_file=file)
    server = await HttpServer.start(Models.of(embedder, ("demo",)), config)
    yield server, keys
    await server.drain()


@pytest.mark.parametrize("path", BODIES)
async def test_every_route_goes_through_the_ledger(
    both: tuple[HttpServer, dict[str, str]], path: str
) -> None:
    server, keys = both
    answer = await ask_bearer(server, keys["poor"], path)
    assert answer.status == 429, answer.content
    assert 1 <= int(answer.headers["Retry-After"]) <= 24 * 3600
    error = answer.json["error"]
    assert "1 left of 1 per day" in (error if isinstance(error, str) else error["message"])
    if path == "/v1/messages":
        assert error["type"] == "rate_limit_error"
    elif not path.startswith("/api/"):
        check_error(answer, 429, code="insufficient_quota")
    assert (await usage(server, keys["poor"]))["quotas"][0]["remaining"] == 1
    answer = await ask_bearer(server, keys["rich"], path)
    assert answer.status == 200, answer.content
    assert await total(server, keys["rich"]) == tokens_in(answer.json) > 0
    assert (await usage(server, keys["poor"]))["data"] == []


async def test_it_is_exact_under_load(start: Start, file: Path) -> None:
    limit = 700
    key = made(file, "alice", tokens_per_day=limit)
    server = await start(api_key_file=file)
    answers = await asyncio.gather(
        *(
            ask(
                server,
                key,
                max_tokens=5 + n % 9,
                stream=n % 2 == 0,
                ignore_eos=True,
                n=1 + n % 2,
                stream_options={"include_usage": True},
            )
            for n in range(60)
        )
    )
    assert {each.status for each in answers} == {200, 429}
    said = 0
    for each in answers:
        if each.status == 200:
            streamed = each.headers["Content-Type"].startswith("text/event-stream")
            said += tokens_in(events(each.content)[-2] if streamed else each.json)
    found = await usage(server, key)
    used = found["data"][0]
    assert used["total_tokens"] == said <= limit
    assert used["requests"] == sum(each.status == 200 for each in answers)
    assert found["quotas"] == [{"key": "alice", "tokens_per_day": limit, "remaining": limit - said}]


async def test_a_refusal_is_a_record_and_a_line(
    start: Start, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = made(file, "alice", tokens_per_day=1)
    server = await start(api_key_file=file)
    with caplog.at_level(logging.INFO):
        for stream in (False, True):
            check_error(await ask(server, key, stream=stream), 429, code="insufficient_quota")
    lines = [each.message for each in caplog.records if each.name == "budmlx.access"]
    assert all(" key=alice " in each and "error=insufficient_quota" in each for each in lines)
    raw = get("/metrics", Authorization=f"Bearer {key}")
    text = (await exchange(server, raw)).content.decode()
    (line,) = [
        line
        for line in text.splitlines()
        if line.startswith("budmlx_requests_total") and 'outcome="refused"' in line
    ]
    assert line.endswith(" 2.0")


async def test_without_a_limit_the_rest_is_the_limit(start: Start, file: Path) -> None:
    key = made(file, "alice", tokens_per_day=60)
    server = await start(api_key_file=file)
    answer = await ask(server, key, max_tokens=None, ignore_eos=True)
    assert answer.json["choices"][0]["finish_reason"] == "length"
    assert tokens_in(answer.json) == 60 == await total(server, key)
    error = check_error(await ask(server, key, max_tokens=None), 429)
    assert "0 left of 60" in error["message"]


async def test_a_client_that_leaves_pays_for_what_was_computed(start: Start, file: Path) -> None:
    key = made(file, "alice", tokens_per_day=9000)
    server = await start(api_key_file=file)
    raw = post(json.dumps(endless(stream=True, ignore_eos=True)).encode(), X_Api_Key=key)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(raw)
    await reader.readuntil(b'"content":')
    held = (await usage(server, key))["quotas"][0]["remaining"]
    assert held < 1000
    check_error(await ask(server, key, max_tokens=2000), 429, code="rate_limit_exceeded")
    writer.close()
    await until(lambda: server.in_flight.count == 0)
    found = await usage(server, key)
    used = found["data"][0]
    assert 0 < used["completion_tokens"] < 8000
    assert found["quotas"][0]["remaining"] == 9000 - used["total_tokens"]


async def test_a_stored_reply_costs_nothing(start: Start, file: Path) -> None:
    key = made(file, "alice", tokens_per_day=10**6)
    server = await start(api_key_file=file)
    first = await ask(server, key, cache=True, temperature=0)
    used = await total(server, key)
    assert used == tokens_in(first.json)
    again = await ask(server, key, cache=True, temperature=0)
    assert again.json["choices"] == first.json["choices"]
    assert await total(server, key) == used


async def test_what_was_used_outlives_the_server(start: Start, file: Path, tmp_path: Path) -> None:
    key = made(file, "alice", tokens_per_day=100)
    store = str(tmp_path / "store.sqlite")
    server = await start(api_key_file=file, store=str(store))
    answer = await ask(server, key, max_tokens=40, ignore_eos=True)
    used = tokens_in(answer.json)
    await server.drain()
    server = await start(api_key_file=file, store=str(store))
    assert await total(server, key) == used
    error = check_error(await ask(server, key, max_tokens=60), 429)
    assert f"{100 - used} left of 100" in error["message"]


async def test_memory_alone_is_told(
    start: Start, file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made(file, "alice")
    await start(api_key_file=file)
    assert "counted anew" not in caplog.text
    made(file, "bob", tokens_per_day=5)
    await start(api_key_file=file, store=str(tmp_path / "store.sqlite"))
    assert "counted anew" not in caplog.text
    await start(api_key_file=file)
    assert "counted anew after a restart" in caplog.text


async def test_a_response_in_the_background_is_paid_for(start: Start, file: Path) -> None:
    key, poor = made(file, "alice", tokens_per_day=10**6), made(file, "poor", tokens_per_day=1)
    server = await start(api_key_file=file)

    async def ended(owner: str) -> Any:
        answer = await ask_bearer(server, owner, "/v1/responses", background=True)
        path = f"/v1/responses/{answer.json['id']}"
        while True:
            raw = get(path, Authorization=f"Bearer {owner}")
            found = (await exchange(server, raw)).json
            if found["status"] not in ("queued", "in_progress"):
                return found
            await asyncio.sleep(0.02)

    assert await total(server, key) == 0
    found = await ended(key)
    assert await total(server, key) == tokens_in(found)
    failed = await ended(poor)
    assert failed["status"] == "failed" and "left of 1 per day" in failed["error"]["message"]


async def test_who_sees_what(start: Start, file: Path) -> None:
    alice, root = made(file, "alice", tokens_per_day=500), made(file, "root", admin=True)
    server = await start(api_key_file=file, api_keys=("plain",))
    for key in (alice, "plain"):
        assert (await ask(server, key)).status == 200
    seen = {
        key: {each["key"] for each in (await usage(server, key, "?days=7"))["data"]}
        for key in (alice, "plain", root)
    }
    assert seen == {alice: {"alice"}, "plain": {"key-1"}, root: {"alice", "key-1"}}
    quotas = (await usage(server, root))["quotas"]
    assert [each["key"] for each in quotas] == ["alice", "key-1", "root"]
    for days in ("0", "x", "93", "1000", "-1", ""):
        raw = get(f"/v1/usage?days={days}", Authorization=f"Bearer {alice}")
        check_error(await exchange(server, raw), 400, param="days")


async def test_without_keys_nothing_is_counted(server: HttpServer) -> None:
    assert (await exchange(server, post(json.dumps(body()).encode()))).status == 200
    found = (await exchange(server, get("/v1/usage"))).json
    assert found["data"] == found["quotas"] == []


async def test_an_sdk_raises_its_own_error(start: Start, file: Path) -> None:
    key = made(file, "alice", tokens_per_day=1)
    server = await start(api_key_file=file)
    async with openai.AsyncOpenAI(base_url=server.url, api_key=key, max_retries=0) as sdk:
        with pytest.raises(openai.RateLimitError) as caught:
            await sdk.chat.completions.create(model="demo", messages=TEXTS, max_tokens=8)
    assert caught.value.code == "insufficient_quota"


async def test_a_store_that_another_process_holds_delays_only_who_needs_it(
    start: Start, file: Path, tmp_path: Path
) -> None:
    limited = made(file, "alice", tokens_per_day=1000)
    free = made(file, "bob")
    store = tmp_path / "store.sqlite"
    server = await start(api_key_file=file, store=str(store))
    other = sqlite3.connect(store, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    waiting = asyncio.create_task(ask(server, limited))
    leaving = asyncio.create_task(ask(server, limited))
    await until(lambda: len(server.in_flight.holders) == 2)
    assert (await ask(server, free)).status == 200
    leaving.cancel()
    assert not waiting.done()
    other.execute("ROLLBACK")
    other.close()
    answer = await waiting
    assert answer.status == 200
    await until(lambda: not server.in_flight.holders)
    # Who left while the store was waited for holds nothing.
    used, left = await total(server, limited), (await usage(server, limited))["quotas"][0]
    assert used == tokens_in(answer.json) and left["remaining"] == 1000 - used
