"""What a model's process counts reaches `/metrics`, also from processes that came before."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil

import budmlx
from budmlx import Engine, hookimpl
from budmlx.config import Config
from budmlx.engine.models.models import Models
from budmlx.plugins.specs import OutputFilterFactory
from budmlx.protocol.counts import CoreCounts, DiskCounts, Histogram, Source, plus
from budmlx.server.app import HttpServer
from tests.models import tiny_model_dir
from tests.server.telemetry.test_metrics import Series, scraped, value
from tests.server.tools import body, exchange, post, until

TINY = Path(budmlx.__file__).parent / "assets" / "tiny"
CHOICE = {"type": "choice", "choice": ["one two", "three"]}


@asynccontextmanager
async def serving(*plugins: object, **options: Any) -> AsyncIterator[tuple[HttpServer, Engine]]:
    options = {"engine_host": "thread", **options}
    with Engine.load(tiny_model_dir(scale=2.0), plugins=plugins, **options) as engine:
        config = Config(port=0, drain_seconds=0)
        server = await HttpServer.start(Models.of(engine, ("demo",)), config)
        try:
            yield server, engine
        finally:
            await server.drain()


async def chat(server: HttpServer, content: str = "Hello", **fields: Any) -> dict[str, Any]:
    answer = await exchange(server, post(json.dumps(body(content, **fields)).encode()))
    return answer.json  # type: ignore[no-any-return]


async def series_of(server: HttpServer) -> Series:
    return (await scraped(server))[1]


async def test_drafts_are_counted_by_what_they_are_of() -> None:
    schema = {
        "type": "object",
        "properties": {"customer_identification": {"enum": ["yes", "no"]}},
        "required": ["customer_identification"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "order", "schema": schema}}
    with Engine.load(TINY, engine_host="thread", speculation=4) as engine:
        server = await HttpServer.start(Models.of(engine, ("demo",)), Config(port=0))
        try:
            await chat(server, "An order, please", max_tokens=99, response_format=form)
            wanted: set[Source] = {"ngram", "jump_ahead"}
            await until(lambda: wanted <= engine.status().counts.drafts.sources.keys())
            series = await series_of(server)
        finally:
            await server.drain()
    for source in wanted:
        accepted, drafted, drafts = (
            value(series, f"{name}_total", source=source)
            for name in ("accepted_tokens", "drafted_tokens", "drafts")
        )
        assert drafted >= accepted > 0 and drafted >= drafts > 0, source
    assert value(series, "drafts_total", source="draft_model") == 0
    assert value(series, "parked_drafts_total", source="ngram") == 0


def test_sums() -> None:
    one = CoreCounts(
        rows=Histogram([1, 2, 0], 5.0), busy=1.0, disk=DiskCounts(hits=2), restarts={"hang": 1}
    )
    other = CoreCounts(
        rows=Histogram([1, 0, 3], 9.0), images=4, faults={"p": {"raised": 1}}, restarts={"hang": 2}
    )
    both = plus(one, other)
    assert both.rows == Histogram([2, 2, 3], 14.0) and both.gaps == Histogram()
    assert (both.busy, both.images, both.disk.hits) == (1.0, 4, 2)
    assert both.restarts == {"hang": 3} and both.faults == {"p": {"raised": 1}}
    assert plus(one, CoreCounts()) == one and plus(both, both).faults == {"p": {"raised": 2}}


async def test_every_token_is_that_of_a_row_in_a_step() -> None:
    async with serving() as (server, engine):
        replies = await asyncio.gather(*(chat(server, f"Number {n}", n=2) for n in range(3)))
        forms = [await chat(server, response_format=CHOICE) for _ in range(2)]
        series = await series_of(server)
        model = engine.info.name
    tokens = sum(reply["usage"]["completion_tokens"] for reply in [*replies, *forms])
    assert value(series, "batch_rows_sum", model=model) == tokens
    assert value(series, "inter_token_seconds_count", model=model) == tokens
    assert value(series, "batch_rows_bucket", model=model, le="1.0") < tokens
    assert value(series, "grammar_compile_seconds_count", model=model) == 1
    assert value(series, "grammar_cache_hits_total", model=model) == 1
    assert value(series, "engine_busy_seconds_total", model=model) > 0
    assert value(series, "prefix_cache_bytes", model=model) > 0


async def test_counts_outlive_a_process() -> None:
    async with serving(engine_host="process") as (server, engine):
        before = await chat(server)
        series = await series_of(server)
        assert value(series, "batch_rows_sum") == before["usage"]["completion_tokens"]
        cores = [each for each in psutil.Process().children() if "budmlx.core" in each.cmdline()]
        for each in cores:
            each.kill()
        await until(lambda: engine.status().restarts == 1 and engine.status().ready)
        after = await chat(server, "Something else")
        series = await series_of(server)
    tokens = sum(reply["usage"]["completion_tokens"] for reply in (before, after))
    assert value(series, "batch_rows_sum") == tokens
    assert value(series, "engine_restarts_total", reason="crash") == 1
    assert value(series, "engine_restarts_total") == 1


async def test_the_disk_tier(tmp_path: Path) -> None:
    words = " ".join(f"word{n}" for n in range(60))
    async with serving(kv_store=str(tmp_path)) as (server, _):
        await chat(server, words)
        written = 0.0
        async with asyncio.timeout(20):
            while not written:
                written = value(await series_of(server), "kv_store_blocks_total", event="written")
                await asyncio.sleep(0.1)
    async with serving(kv_store=str(tmp_path)) as (server, _):
        reply = await chat(server, words)
        series = await series_of(server)
    cached = reply["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert cached > 0 and value(series, "prompt_tokens_total", source="disk") == cached
    assert value(series, "prompt_tokens_total", source="memory") == 0
    assert value(series, "kv_store_blocks_total", event="hits") > 0
    assert value(series, "kv_store_bytes_total", direction="read") > 0


class Broken:
    """A plugin whose output filter raises."""

    @hookimpl
    def add_output_filters(self) -> list[OutputFilterFactory]:
        def filtered() -> Any:
            raise RuntimeError("no")

        return [filtered]


async def test_faults_of_plugins() -> None:
    async with serving(Broken()) as (server, engine):
        (name,) = [each.name for each in engine.plugins.info if each.source == "object"]
        before = await series_of(server)  # Counts of plugins are those of the process.
        reply = await chat(server)
        assert reply["error"]["code"] == "plugin_error"
        series = await series_of(server)
    raised = [
        value(each, "plugin_faults_total", plugin=name, kind="raised") for each in (before, series)
    ]
    assert raised[1] - raised[0] == 1
    assert value(series, "requests_total", outcome="failed") == 1
    assert value(series, "request_errors_total", error="plugin_error") == 1
