"""Batches in metrics, in the log, in traces, and in what a key used."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from budmlx import logs
from tests.server.conftest import Start
from tests.server.telemetry.test_access_log import entries, stream  # noqa: F401
from tests.server.telemetry.test_metrics import scraped, value
from tests.server.telemetry.test_traces import Collector, values
from tests.server.test_batches import CHAT, begun, ended, jsonl, line, sdk
from tests.server.tools import exchange, get

KEY = "a-key"
KEYED = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture
def log(stream: io.StringIO) -> Iterator[io.StringIO]:  # noqa: F811
    logs.set_up("info", "json", stream)
    yield stream


async def test_what_became_of_lines_is_told(start: Start, log: io.StringIO) -> None:
    collector = Collector()
    async with collector.running() as endpoint:
        server = await start(api_keys=(SecretStr(KEY),), otlp_traces_endpoint=endpoint)
        client = sdk(server, KEY)
        content = jsonl([line(0), line(1), line(2, model="none")])
        batch = await ended(client, await begun(client, content))
        _, series = await scraped(server, **KEYED)
        usage = json.loads((await exchange(server, get("/v1/usage", **KEYED))).content)
        await server.drain()
    lines = {name: f"{batch.id}-{name}" for name in range(3)}

    assert value(series, "batches_total", status="completed") == 1
    assert value(series, "batch_lines_total", outcome="completed") == 2
    assert value(series, "batch_lines_total", outcome="failed") == 1
    assert value(series, "batches_running") == value(series, "batch_lines_waiting") == 0
    assert value(series, "requests_total", route=CHAT, key="key-1", outcome="completed") == 2
    assert value(series, "requests_total", route=CHAT, outcome="refused") == 1
    assert value(series, "http_requests_total", route=CHAT) == 0

    logged = [each for each in entries(log) if each.get("batch")]
    assert {each["request_id"] for each in logged} == set(lines.values())
    assert {each["batch"] for each in logged} == {batch.id}
    tokens = sum(each.get("in", 0) + each.get("out", 0) for each in logged)
    [used] = usage["data"]
    assert (used["requests"], used["total_tokens"]) == (2, tokens) and tokens
    first, last = entries(log, "budmlx.server.batches.active")
    assert (first["batch"], first["key"], first["lines"]) == (batch.id, "key-1", 3)
    assert (last["status"], last["completed"], last["failed"], last["left"]) == (
        *("completed", 2, 1),
        0,
    )

    roots = [values(each.attributes) for each in collector.spans if each.name == "llm_request"]
    own = {each["gen_ai.request.id"] for each in roots if each.get("budmlx.batch") == batch.id}
    assert own == set(lines.values())


async def test_lines_that_nobody_answers_are_counted(start: Start, log: io.StringIO) -> None:
    server = await start(batch_lines=1)
    client = sdk(server)
    many = jsonl([line(n, ignore_eos=True, max_tokens=400) for n in range(20)])
    batch = await begun(client, many)
    while batch.status == "validating":
        await asyncio.sleep(0.01)
        batch = await client.batches.retrieve(batch.id)
    _, series = await scraped(server)
    assert value(series, "batches_running") == 1
    assert value(series, "batch_lines_waiting") >= 18
    batch = await ended(client, await client.batches.cancel(batch.id))
    left = 20 - batch.request_counts.completed
    _, series = await scraped(server)
    assert value(series, "batches_total", status="cancelled") == 1
    assert value(series, "batch_lines_total", outcome="cancelled") == left > 0
    last: dict[str, Any] = entries(log, "budmlx.server.batches.active")[-1]
    assert (last["status"], last["left"]) == ("cancelled", left)
