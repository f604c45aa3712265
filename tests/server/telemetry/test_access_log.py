"""One line for each request, as text or JSON, with what became of it; and no word of prompts."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

import budmlx
from budmlx import Engine, hookimpl, logs
from budmlx.config import Config
from budmlx.engine.models.models import Models
from budmlx.plugins.specs import OutputFilterFactory
from budmlx.server.app import HttpServer
from tests.models import tiny_model_dir
from tests.server.tools import CHAT, body, endless, exchange, get, post, until

TINY = Path(budmlx.__file__).parent / "assets" / "tiny"
SECRET = "swordfish"
KEY = "secret-words"


class Broken:
    """A plugin whose output filter raises what quotes a prompt."""

    @hookimpl
    def add_output_filters(self) -> list[OutputFilterFactory]:
        def filtered() -> Any:
            raise RuntimeError(SECRET)

        return [filtered]


@pytest.fixture
def stream() -> io.StringIO:
    """For what is logged."""
    return io.StringIO()


@asynccontextmanager
async def serving(
    *plugins: object, path: Path | None = None, **settings: Any
) -> AsyncIterator[tuple[HttpServer, Engine]]:
    options = {"engine_host": settings.pop("engine_host", "thread")}
    for name in ("log_prompts", "speculation"):
        if name in settings:
            options[name] = settings.pop(name)
    model = path or tiny_model_dir(scale=2.0)
    with Engine.load(model, plugins=plugins, **options) as engine:
        config = Config(port=0, **{"drain_seconds": 0, **settings})
        server = await HttpServer.start(Models.of(engine, ("demo",)), config)
        try:
            yield server, engine
        finally:
            await server.drain()


def chat(content: str = SECRET, **fields: Any) -> bytes:
    return post(json.dumps(body(content, **fields)).encode(), X_Request_Id="mine-1")


def lines(stream: io.StringIO, logger: str = "budmlx.access") -> list[str]:
    return [line for line in stream.getvalue().splitlines() if f" {logger}: " in line]


def entries(stream: io.StringIO, logger: str = "budmlx.access") -> list[dict[str, Any]]:
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    return [entry for entry in found if entry["logger"] == logger]


async def test_lines_have_what_was_drafted(stream: io.StringIO) -> None:
    logs.set_up("info", "json", stream)
    async with serving(path=TINY, speculation=4) as (server, _):
        reply = (await exchange(server, chat("Count to 10", speculation=False))).json
        content = reply["choices"][0]["message"]["content"]
        told = {"type": "content", "content": content}
        predicted = (await exchange(server, chat("Count to 10", prediction=told))).json
    plain, drafting = entries(stream)
    assert not plain.keys() & {"drafted", "accepted", "drafts"}
    assert drafting["drafted"] >= drafting["accepted"] > 0
    assert predicted["choices"] == reply["choices"] and "warnings" not in predicted
    details = predicted["usage"]["completion_tokens_details"]
    accepted, rejected = (details[f"{each}_prediction_tokens"] for each in ("accepted", "rejected"))
    assert 0 < accepted <= drafting["accepted"]
    told = f"prediction:{accepted}/{accepted + rejected}"
    assert told in drafting["drafts"].split(",")


async def test_lines_of_json_have_what_the_reply_said(stream: io.StringIO) -> None:
    logs.set_up("info", "json", stream)
    async with serving(api_keys=(SecretStr(KEY),)) as (server, engine):
        raw = chat().replace(b"\r\n\r\n", f"\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode(), 1)
        answer = await exchange(server, raw)
        await exchange(server, raw)
        model = engine.info.name
    first, second = entries(stream)
    usage = answer.json["usage"]
    assert first["level"] == "info" and first["time"].endswith("Z")
    assert (first["request_id"], first["key"], first["model"]) == ("mine-1", "key-1", model)
    assert (first["method"], first["path"], first["status"]) == ("POST", CHAT, 200)
    assert (first["in"], first["out"]) == (usage["prompt_tokens"], usage["completion_tokens"])
    assert first["finish"] == answer.json["choices"][0]["finish_reason"]
    assert 0 <= first["queue"] <= first["ttft"] <= first["seconds"] and first["rate"] > 0
    assert first["cached"] == 0 and second["cached"] > 0
    assert SECRET not in stream.getvalue() and KEY not in stream.getvalue()


async def test_refusals_have_their_reason(stream: io.StringIO) -> None:
    logs.set_up("info", "text", stream)
    async with serving() as (server, _):
        await exchange(server, chat(n=0))
        await exchange(server, chat(model="nobody\n\x1b[31m"))
        await exchange(server, get("/no/where?q=secret"))
        await exchange(server, b"GET / HTTP/9.9\r\n\r\n")
    wrong, unknown, nowhere, broken = lines(stream)
    assert "POST /v1/chat/completions 400 " in wrong and " mine-1 " in wrong
    assert "finish=refused" in wrong and "n" in wrong.partition("error=")[2]
    assert "error=model_not_found: " in unknown and " 404 " in unknown
    assert "\x1b" not in stream.getvalue() and "q=secret" not in stream.getvalue()
    assert "GET /no/where 404 " in nowhere
    assert " 400 " in broken


async def test_a_client_that_leaves_has_its_line(stream: io.StringIO) -> None:
    logs.set_up("info", "json", stream)
    async with serving() as (server, engine):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(post(json.dumps(endless(stream=True)).encode(), X_Request_Id="gone"))
        await reader.readuntil(b'"content":"')
        writer.close()
        await until(lambda: not engine.status().running and not server.in_flight.count)
    (entry,) = entries(stream)
    assert (entry["request_id"], entry["status"], entry["finish"]) == ("gone", 0, "cancelled")
    assert entry["out"] > 0 and "client left" in entry["message"]


async def test_shutdowns_have_lines(stream: io.StringIO) -> None:
    logs.set_up("info", "text", stream)
    async with serving(drain_seconds=0.1) as (server, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(post(json.dumps(endless(stream=True)).encode()))
        await reader.readuntil(b'"content":"')
        await server.drain()
        writer.close()
    told = lines(stream, "budmlx.server.app")
    assert "All requests have ended after" in told[0]
    assert told[0].endswith(", 1 of them before their time")
    assert "error=engine_unavailable: The server is shutting down" in lines(stream)[0]


@pytest.mark.parametrize("level", ["info", "debug"])
async def test_faults_have_the_id_and_their_traceback_on_demand(
    stream: io.StringIO, level: logs.Level
) -> None:
    logs.set_up(level, "text", stream)
    async with serving(Broken()) as (server, _):
        answer = await exchange(server, chat())
    assert answer.status == 500
    (fault,) = [line for line in lines(stream, "budmlx.plugins.boundary") if "failed in" in line]
    assert fault.endswith("[mine-1]")
    assert "error=plugin_error: The plugin " in lines(stream)[0]
    assert (SECRET in stream.getvalue()) is (level == "debug")
    assert ("Traceback" in stream.getvalue()) is (level == "debug")


async def test_prompts_are_logged_on_demand(stream: io.StringIO) -> None:
    logs.set_up("info", "text", stream)
    async with serving(log_prompts=True) as (server, _):
        await exchange(server, chat())
    prompt, reply = lines(stream, "budmlx.prompts")
    assert SECRET in prompt and prompt.endswith("[mine-1]") and "Reply 0: " in reply


async def test_an_admin_changes_the_level(stream: io.StringIO) -> None:
    logs.set_up("warning", "text", stream)

    async def change(level: str, **headers: str) -> int:
        raw = json.dumps({"level": level}).encode()
        return (await exchange(server, post(raw, "/v1/log_level", **headers))).status

    async with serving(engine_host="process") as (server, _):
        await exchange(server, chat())
        assert lines(stream) == []
        assert await change("info", X_Forwarded_For="10.0.0.1") == 403
        assert await change("loud") == 400
        assert await change("info") == 200
        await exchange(server, chat())
        assert len(lines(stream)) == 2  # that of the change, too
        assert await change("warning") == 200
        await exchange(server, chat())
        assert len(lines(stream)) == 2
        assert logs.chosen() == "warning"


def test_lines_are_bounded_and_escaped(stream: io.StringIO) -> None:  # LIMITS 120
    logs.set_up("info", "text", stream)
    logging.getLogger("budmlx.x").info("a\nb\x1b[0m\u2028%s", "c" * 20_000)
    (line,) = stream.getvalue().splitlines()
    assert "a\\nb\\x1b[0m\\u2028c" in line and len(line) < 10_100
