"""Spans of a load, as a collector gets them: linked, complete, and nothing that requests notice."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from budmlx import Engine
from budmlx.config import Config
from budmlx.engine.models.models import Models
from budmlx.errors import ConfigError
from budmlx.server.app import TRACING, HttpServer, create_app
from tests.models import tiny_model_dir
from tests.server.tools import CHAT, body, endless, exchange, get, post, until

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CLOSED = "http://127.0.0.1:9/v1/traces"


class Collector:
    """A stand-in for an OTLP collector. hangs: it takes what is sent, and never answers."""

    def __init__(self, *, hangs: bool = False):
        self.spans: list[Span] = []
        self.resources: list[dict[str, Any]] = []
        self.asked = 0
        self._hangs = hangs

    async def take(self, request: web.Request) -> web.Response:
        self.asked += 1
        sent = ExportTraceServiceRequest.FromString(await request.read())
        if self._hangs:
            await asyncio.sleep(60)
            return web.Response()
        for of_resource in sent.resource_spans:
            self.resources.append(values(of_resource.resource.attributes))
            for of_scope in of_resource.scope_spans:
                self.spans += of_scope.spans
        return web.Response()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_post("/v1/traces", self.take)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1/traces"
        finally:
            await runner.cleanup()


def values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


@pytest.fixture(scope="module")
def traced_engine() -> Any:
    with Engine.load(tiny_model_dir(scale=2.0), engine_host="thread") as engine:
        yield engine


async def started(engine: Engine, endpoint: str | None) -> HttpServer:
    config = Config(port=0, drain_seconds=0, otlp_traces_endpoint=endpoint)
    return await HttpServer.start(Models.of(engine, ("demo",)), config)


@asynccontextmanager
async def serving(engine: Engine, endpoint: str) -> AsyncIterator[HttpServer]:
    server = await started(engine, endpoint)
    try:
        yield server
    finally:
        await server.drain()


def chat(content: str = "Hello", traceparent: str = "", **fields: Any) -> bytes:
    headers = {"traceparent": traceparent} if traceparent else {}
    return post(json.dumps(body(content, **fields)).encode(), **headers)


async def test_the_spans_of_a_load_are_linked_and_complete(traced_engine: Engine) -> None:
    collector = Collector()
    async with collector.running() as endpoint, serving(traced_engine, endpoint) as server:
        raws = [chat(f"Number {n}", stream=n % 2 == 0) for n in range(8)]
        answers = await asyncio.gather(*(exchange(server, raw) for raw in raws))
        mine = await exchange(server, chat("Mine", PARENT, n=2, temperature=0.5, top_p=0.9))
        assert (await exchange(server, chat(n=0))).status == 400
        assert (await exchange(server, get("/health"))).status == 200
        model = traced_engine.info.name
    # What was not sent yet went out when the server ended.
    roots = {span.span_id: span for span in collector.spans if span.name == "llm_request"}
    assert len(roots) == 8 + 1 + 1 and {span.kind for span in roots.values()} == {2}
    parts = [span for span in collector.spans if span.name != "llm_request"]
    for part in parts:
        root = roots[part.parent_span_id]
        assert part.trace_id == root.trace_id
        assert root.start_time_unix_nano <= part.start_time_unix_nano <= part.end_time_unix_nano
        assert part.end_time_unix_nano <= root.end_time_unix_nano + 10_000_000
    names = [span.name for span in parts]
    assert {name: names.count(name) for name in set(names)} == dict.fromkeys(
        ("tokenize", "queue", "prefill", "decode"), 9
    )
    assert len({span.trace_id for span in roots.values()}) == 10
    (own,) = [span for span in roots.values() if span.trace_id.hex() == PARENT.split("-")[1]]
    assert own.parent_span_id.hex() == PARENT.split("-")[2]
    found, usage = values(own.attributes), mine.json["usage"]
    assert found["gen_ai.request.id"] == mine.headers["X-Request-Id"]
    assert found["gen_ai.response.model"] == model and found["http.route"] == CHAT
    assert found["gen_ai.usage.prompt_tokens"] == usage["prompt_tokens"]
    assert found["gen_ai.usage.completion_tokens"] == usage["completion_tokens"]
    assert (found["gen_ai.request.n"], found["gen_ai.usage.num_sequences"]) == (2, 2)
    assert (found["gen_ai.request.temperature"], found["gen_ai.request.top_p"]) == (0.5, 0.9)
    waits = [found[f"gen_ai.latency.{name}"] for name in ("time_in_queue", "time_to_first_token")]
    assert 0 <= waits[0] <= waits[1] <= found["gen_ai.latency.e2e"]
    ids = {values(span.attributes)["gen_ai.request.id"] for span in roots.values()}
    assert {answer.headers["X-Request-Id"] for answer in answers} < ids
    assert collector.resources[0]["service.name"] == "budmlx"


async def test_failures_and_clients_that_leave(traced_engine: Engine) -> None:
    collector = Collector()
    async with collector.running() as endpoint, serving(traced_engine, endpoint) as server:
        await exchange(server, chat(model="nobody"))
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(post(json.dumps(endless(stream=True)).encode()))
        await reader.readuntil(b'"content":"')
        writer.close()
        await until(lambda: not traced_engine.status().running and not server.in_flight.count)
    refused, gone = (span for span in collector.spans if span.name == "llm_request")
    assert refused.status.code == 2 and refused.status.message == "model_not_found"
    found = values(gone.attributes)
    assert found["budmlx.outcome"] == "cancelled" and "http.response.status_code" not in found
    assert found["gen_ai.usage.completion_tokens"] > 0


@pytest.mark.parametrize("kind", ["absent", "hanging"])
async def test_a_collector_that_fails_reaches_no_request(traced_engine: Engine, kind: str) -> None:
    collector = Collector(hangs=True)
    async with collector.running() as hanging:
        server = await started(traced_engine, CLOSED if kind == "absent" else hanging)
        answers = [await exchange(server, chat(f"Number {n}")) for n in range(4)]
        assert {answer.status for answer in answers} == {200}
        await server.drain()  # which does not wait for the collector for long
    assert collector.spans == []


async def test_nothing_is_traced_unless_it_is_wanted(traced_engine: Engine) -> None:
    collector = Collector()
    async with collector.running():
        server = await started(traced_engine, None)
        assert (await exchange(server, chat(traceparent=PARENT))).status == 200
        await server.drain()
    assert collector.asked == 0


def test_missing_packages_are_named(traced_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    import_module(TRACING)
    monkeypatch.setitem(sys.modules, TRACING, None)
    with pytest.raises(ConfigError, match=r"budmlx\[otel\]"):
        create_app(Models.of(traced_engine, ()), Config(otlp_traces_endpoint=CLOSED))
