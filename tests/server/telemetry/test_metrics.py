"""`GET /metrics`: it says exactly what a load did, and in the form that Prometheus reads."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from budmlx import Engine
from budmlx.config import Config
from budmlx.engine.models.models import Models
from budmlx.server.app import HttpServer
from budmlx.server.telemetry.declarations import METRICS
from tests.models import tiny_model_dir
from tests.server.conftest import Start
from tests.server.tools import CHAT, Answer, body, endless, events, exchange, get, post, until

KEY = "secret-words"
Series = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


async def scraped(server: HttpServer, **headers: str) -> tuple[str, Series]:
    """The text, and each series with its number."""
    answer = await exchange(server, get("/metrics", **headers))
    assert answer.status == 200 and answer.headers["Content-Type"].startswith("text/plain")
    text = answer.content.decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name, frozenset(sample.labels.items())] = sample.value
    return text, found


def value(series: Series, name: str, **labels: str) -> float:
    """The sum of the series of a name that have these labels among theirs."""
    wanted = labels.items()
    return sum(
        number
        for (each, found), number in series.items()
        if each == f"budmlx_{name}" and wanted <= set(found)
    )


def dumped(**fields: object) -> bytes:
    return json.dumps(body(**fields)).encode()  # type: ignore[arg-type]


async def asked(server: HttpServer, raw: bytes) -> Answer:
    key = f"\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode()
    return await exchange(server, raw.replace(b"\r\n\r\n", key, 1))


async def vanishing(server: HttpServer, engine: Engine) -> None:
    """A client that leaves in the middle of its stream."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(post(json.dumps(endless(stream=True)).encode(), Authorization=f"Bearer {KEY}"))
    await reader.readuntil(b'"content":"')
    writer.close()
    await until(lambda: not engine.status().running and not server.in_flight.count)


@dataclass
class Load:
    """What a server was asked, and what it answered."""

    model: str = ""
    replies: list[Answer] = field(default_factory=list)
    cached: list[Answer] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)

    async def run(self, server: HttpServer, engine: Engine) -> None:
        self.model = engine.info.name
        many = json.dumps({"model": "demo", "prompt": ["a", "b"]}).encode()
        streamed = post(dumped(stream=True, stream_options={"include_usage": True}))
        for raw in (post(dumped(n=2)), streamed, post(dumped(content="Others")), streamed):
            self.replies.append(await asked(server, raw))
        self.replies.append(await asked(server, post(many, "/v1/completions")))
        assert {each.status for each in self.replies} == {200}
        self.cached = [await asked(server, post(dumped(cache=True))) for _ in range(2)]
        for raw in (post(b"{"), post(dumped(n=0)), post(dumped(model="nobody"))):
            self.refused.append((await asked(server, raw)).status)
        self.refused.append((await exchange(server, post(dumped()))).status)
        self.refused.append((await asked(server, get("/no/where"))).status)
        await vanishing(server, engine)

    def tokens(self, kind: str) -> int:
        """What the replies that were computed say, without the one that nobody waited for."""
        usages = [
            events(each.content)[-2]["usage"]
            if each.content[:5] == b"data:"
            else each.json["usage"]
            for each in [*self.replies, self.cached[0]]
        ]
        return sum(usage[kind] for usage in usages)


@pytest.fixture(scope="module")
def loaded() -> tuple[Load, Series]:
    """A load, and the metrics after it."""

    async def run() -> tuple[Load, Series]:
        load = Load()
        with Engine.load(tiny_model_dir(scale=2.0), engine_host="thread") as engine:
            config = Config(port=0, drain_seconds=0, api_keys=(SecretStr(KEY),), max_queue=0)
            server = await HttpServer.start(Models.of(engine, ("demo",)), config)
            try:
                await load.run(server, engine)
                _, series = await scraped(server, Authorization=f"Bearer {KEY}")
            finally:
                await server.drain()
        return load, series

    return asyncio.run(run())


def test_requests_are_counted_by_their_end(loaded: tuple[Load, Series]) -> None:
    load, series = loaded
    model = load.model
    assert value(series, "requests_total", model=model, route=CHAT, outcome="completed") == 6
    assert value(series, "requests_total", model=model, route="/v1/completions") == 2
    assert value(series, "requests_total", model=model, key="key-1", outcome="cancelled") == 1
    assert value(series, "requests_total", model="", outcome="refused") == 4
    assert value(series, "requests_total") == 6 + 2 + 1 + 4
    for code in ("invalid_json", "invalid_request", "model_not_found", "invalid_api_key"):
        assert value(series, "request_errors_total", error=code) == 1
    assert value(series, "request_errors_total") == 4
    assert value(series, "choices_total", model=model) == 2 + 5 + 2


def test_http_requests_are_counted_by_status(loaded: tuple[Load, Series]) -> None:
    load, series = loaded
    assert load.refused == [400, 400, 404, 401, 404]
    assert value(series, "http_requests_total", method="POST", route=CHAT, status="200") == 6
    assert value(series, "http_requests_total", status="499") == 1
    assert value(series, "http_requests_total", method="", route="", status="404") == 1
    assert value(series, "http_requests_total", status="401") == 1
    assert value(series, "http_requests_total", status="400") == 2
    # That of the reading itself is not over yet.
    assert value(series, "http_requests_total", route="/metrics") == 0


def test_tokens_are_counted_by_where_they_came_from(loaded: tuple[Load, Series]) -> None:
    load, series = loaded
    model = load.model
    of_source = {
        source: value(series, "prompt_tokens_total", model=model, source=source)
        for source in ("computed", "memory", "disk", "response_cache")
    }
    stored = load.cached[1].json["usage"]
    assert value(series, "request_prompt_tokens_sum", model=model) == load.tokens("prompt_tokens")
    assert of_source["response_cache"] == stored["prompt_tokens"]
    assert of_source["disk"] == 0 and of_source["memory"] > 0
    written = load.tokens("completion_tokens")
    assert value(series, "request_generation_tokens_sum", model=model) == written
    assert value(series, "generation_tokens_total", source="computed") > written
    replayed = value(series, "generation_tokens_total", source="response_cache", key="key-1")
    assert replayed == stored["completion_tokens"]
    assert value(series, "response_cache_requests_total", result="hit") == 1
    assert value(series, "response_cache_requests_total", result="miss") == 1
    assert value(series, "prefix_cache_requests_total", model=model) == 7


def test_times_are_those_of_computed_requests(loaded: tuple[Load, Series]) -> None:
    load, series = loaded
    model = load.model
    total = value(series, "request_seconds_sum", model=model)
    for phase in ("queue", "prefill", "decode", "preparation", "arrival"):
        assert value(series, f"request_{phase}_seconds_count", model=model) == 7
        assert 0 <= value(series, f"request_{phase}_seconds_sum", model=model) < total
    assert value(series, "time_to_first_token_seconds_count", model=model) == 7
    assert value(series, "time_per_output_token_seconds_count", model=model) == 7
    assert value(series, "request_seconds_count", model=model) == 8


def test_models_say_how_they_are(loaded: tuple[Load, Series]) -> None:
    load, series = loaded
    model = load.model
    assert value(series, "model_loaded", model=model) == 1
    assert value(series, "model_ready", model=model) == 1
    assert value(series, "rows_running", model=model) == 0
    assert value(series, "weights_bytes", model=model) > 0
    assert 0 <= value(series, "kv_usage_ratio", model=model) <= 1
    assert value(series, "connections") == 1


async def test_what_is_served_is_what_is_declared(start: Start) -> None:
    server = await start()
    for raw in (post(dumped()), post(dumped(max_tokens=2)), post(b"{")):
        await exchange(server, raw)
    text, series = await scraped(server)
    declared = {each.name: each for each in METRICS}
    types = {"counter": "counter", "gauge": "gauge", "histogram": "histogram"}
    for family in text_string_to_metric_families(text):
        if not family.name.startswith("budmlx_"):
            assert family.name.startswith("process_")
            continue
        metric = declared[family.name]
        assert (family.type, family.documentation) == (types[metric.kind], metric.text)
        for sample in family.samples:
            assert sample.labels.keys() - {"le"} == set(metric.labels)
    assert not [name for name, _ in series if name.endswith("_created")]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
async def test_promtool_accepts_it(start: Start) -> None:
    server = await start()
    await exchange(server, post(dumped()))
    text, _ = await scraped(server)
    command = ["promtool", "check", "metrics"]
    done = await asyncio.to_thread(
        subprocess.run, command, input=text.encode(), capture_output=True
    )
    assert done.returncode == 0, done.stderr


async def test_openmetrics(start: Start) -> None:
    server = await start()
    await exchange(server, post(dumped()))
    wanted = "application/openmetrics-text;version=1.0.0"
    answer = await exchange(server, get("/metrics", Accept=wanted))
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    assert answer.content.endswith(b"# EOF\n")


async def test_it_needs_a_key_and_shows_none(start: Start) -> None:  # LIMITS 33
    server = await start(api_keys=(SecretStr(KEY),))
    assert (await exchange(server, get("/metrics"))).status == 401
    text, _ = await scraped(server, Authorization=f"Bearer {KEY}")
    assert KEY not in text


async def test_it_can_be_switched_off(start: Start) -> None:
    server = await start(metrics=False)
    assert (await exchange(server, post(dumped()))).status == 200
    assert (await exchange(server, get("/metrics"))).status == 404


async def test_labels_come_from_the_server_alone(start: Start) -> None:
    server = await start()
    for number in range(100):
        await exchange(server, post(dumped(model=f"model-{number}"), f"/path-{number}"))
    await exchange(server, post(b"{}").replace(b"POST", b"M0DEL", 1))
    await exchange(server, post(dumped(model="model-1"), X_Request_Id="mine"))
    text, series = await scraped(server)
    assert not [line for line in text.splitlines() if "path-" in line or "model-" in line]
    assert "mine" not in text
    assert value(series, "http_requests_total", route="", status="404") == 100
    assert value(series, "http_requests_total", route="", status="400") == 1


async def test_reading_wakes_no_model(tmp_path: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(tiny_model_dir(scale=2.0), tmp_path / "org" / name)
    config = Config(
        models_dir=(str(tmp_path),), port=0, drain_seconds=0, warmup="off", engine_host="thread"
    )
    with Models(config) as models:
        server = await HttpServer.start(models, config)
        try:
            _, series = await scraped(server)
            assert not [name for name, _ in series if "model" in name]
            await exchange(server, post(dumped(model="org/one")))
            models.unload("org/one").result()
            _, series = await scraped(server)
            assert models.loaded == []
        finally:
            await server.drain()
    assert value(series, "model_loaded", model="org/one") == 0
    assert value(series, "model_loads_total", model="org/one") == 1
    assert value(series, "requests_total", model="org/one", outcome="completed") == 1
    assert value(series, "rows_running") == 0
    assert not [labels for _, labels in series if ("model", "org/two") in labels]


async def test_a_fault_of_counting_reaches_nobody(
    server: HttpServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr("budmlx.server.telemetry.metrics.Metrics._count")
    answer = await exchange(server, post(json.dumps(body()).encode()))
    assert answer.status == 200 and json.loads(answer.content)["choices"]
    assert "A watcher of requests failed" in caplog.text
