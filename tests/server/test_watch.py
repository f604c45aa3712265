"""What admins see of a server, and the requests that they end."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import signal
from typing import Any

import psutil
import pytest

from budmlx import Engine, logs
from budmlx.config import Config
from budmlx.engine.models.models import Models
from budmlx.server.app import HttpServer
from tests.models import tiny_model_dir
from tests.server.conftest import Start
from tests.server.test_batches import begun, jsonl, line, sdk
from tests.server.tools import Answer, body, check_error, events, exchange, get, post, until

ENDLESS = {"max_tokens": 8000, "ignore_eos": True}


@pytest.fixture
def stream() -> io.StringIO:
    """What is logged, as `serve` has it."""
    found = io.StringIO()
    logs.set_up("info", "text", found)
    return found


async def ask(server: HttpServer, name: str, **fields: Any) -> Answer:
    raw = json.dumps(body(**fields)).encode()
    return await exchange(server, post(raw, X_Request_Id=name))


async def look(server: HttpServer, **headers: str) -> Any:
    answer = await exchange(server, get("/v1/watch", **headers))
    assert answer.status == 200
    return answer.json


async def cancel(server: HttpServer, name: str) -> Answer:
    return await exchange(server, post(b"", f"/v1/requests/{name}/cancel"))


async def written(server: HttpServer) -> None:
    """Wait until every request in flight has tokens."""
    async with asyncio.timeout(30):
        while not all(each["out"] for each in (await look(server))["running"]):
            await asyncio.sleep(0.05)


async def test_what_runs_is_seen_and_ended(start: Start, stream: io.StringIO) -> None:
    server = await start()
    assert (await look(server))["running"] == []
    whole = asyncio.create_task(ask(server, "whole", **ENDLESS))
    streamed = asyncio.create_task(ask(server, "streamed", stream=True, **ENDLESS))
    await until(lambda: server.in_flight.count == 2)
    await written(server)
    seen = await look(server)
    assert {each["request_id"] for each in seen["running"]} == {"whole", "streamed"}
    for each in seen["running"]:
        assert each["route"] == "/v1/chat/completions" and each["stage"] == "reply"
        assert each["out"] > 0 and each["seconds"] > 0 and each["places"] == 1
    assert seen["places"] == 2 and seen["written"] == sum(each["out"] for each in seen["running"])
    (model,) = seen["models"]
    assert model["state"] == "loaded" and model["fixed"] and model["running"] == 2
    for name in ("whole", "streamed"):
        assert (await cancel(server, name)).json == {"id": name, "count": 1}
    error = check_error(await whole, 500, code="cancelled")
    assert "administrator" in error["message"]
    assert (await whole).headers["X-Should-Retry"] == "false"
    *_, last = events((await streamed).content)
    assert last["error"]["code"] == "cancelled"
    await until(lambda: server.in_flight.count == 0)
    assert (await ask(server, "next", max_tokens=3)).status == 200
    assert "GET /v1/watch" not in stream.getvalue()  # Looking fills no log.
    for words in ("cancel whole", "cancel streamed"):
        assert f"Admin without a key from 127.0.0.1: {words}" in stream.getvalue()


async def test_batches_and_what_runs_in_the_background(start: Start) -> None:
    server = await start()
    assert (await look(server))["batches"] == []
    endless = {"max_tokens": 8000, "ignore_eos": True}
    batch = await begun(sdk(server), jsonl([line(1, **endless), line(2, temperature=9)]))
    front = asyncio.create_task(ask(server, "front", **ENDLESS))
    await until(lambda: len(server.in_flight.holders) == 2)
    await written(server)
    seen = await look(server)
    assert sorted(each["background"] for each in seen["running"]) == [False, True]
    (shown,) = seen["batches"]
    assert shown.pop("failed") in (0, 1)
    assert shown == {
        "id": batch.id,
        "key": "",
        "endpoint": "/v1/chat/completions",
        "status": "in_progress",
        "total": 2,
        "completed": 0,
    }
    await sdk(server).batches.cancel(batch.id)
    assert (await cancel(server, "front")).json["count"] == 1
    await front
    async with asyncio.timeout(30):
        while (await look(server))["batches"]:
            await asyncio.sleep(0.05)


async def test_what_ended_is_kept_without_texts(server: HttpServer) -> None:
    await ask(server, "one", content="A secret")
    await ask(server, "two", temperature=9)
    await exchange(server, get("/v1/models"))
    seen = await look(server)
    two, one = seen["ended"]
    assert (two["request_id"], two["status"], two["error"]) == ("two", 400, "400")
    assert "temperature" in two["reason"]
    assert (one["request_id"], one["status"], one["out"]) == ("one", 200, seen["written"])
    assert one["in"] > 0 and one["ttft"] > 0 and one["finish"] in ("stop", "length")
    assert "secret" not in json.dumps(seen)


async def test_what_is_not_there_is_not_cancelled(server: HttpServer) -> None:
    check_error(await cancel(server, "nobody"), 404, code="request_not_found")


async def test_it_needs_an_admin(start: Start) -> None:
    server = await start(api_keys=("key",), admin_key=("root",))
    for raw in (get, lambda path, **headers: post(b"", path, **headers)):
        paths = ("/v1/watch", "/v1/log") if raw is get else ("/v1/requests/x/cancel",)
        for path in paths:
            assert (await exchange(server, raw(path))).status == 401
            answer = await exchange(server, raw(path, Authorization="Bearer key"))
            check_error(answer, 403, code="admin_only")
            answer = await exchange(server, raw(path, Authorization="Bearer root"))
            assert answer.status == (200 if raw is get else 404)
    server = await start()
    answer = await exchange(server, get("/v1/watch", X_Forwarded_For="127.0.0.1"))
    check_error(answer, 403, code="admin_only")


async def test_the_last_lines_of_the_log(start: Start, stream: io.StringIO) -> None:
    server = await start()
    await ask(server, "seen-in-the-log", max_tokens=2)
    found = (await exchange(server, get("/v1/log"))).json["lines"]
    assert [line["text"] for line in found] == stream.getvalue().splitlines()[: len(found)]
    assert "seen-in-the-log" in found[-1]["text"]
    logging.getLogger("budmlx.x").info("later")
    path = f"/v1/log?after={found[-1]['number']}"
    newer = (await exchange(server, get(path))).json["lines"]
    assert newer[-1]["text"].endswith("budmlx.x: later")
    for n in range(logs.MOST_LINES):
        logging.getLogger("budmlx.x").info("%d", n)
    found = (await exchange(server, get("/v1/log"))).json["lines"]
    assert len(found) == logs.MOST_LINES and found[-1]["text"].endswith(f": {n}")
    for wrong in ("x", "-1", "1e3"):
        answer = await exchange(server, get(f"/v1/log?after={wrong}"))
        check_error(answer, 400, param="after")


async def test_plots_begin_with_what_was(start: Start) -> None:
    server = await start()
    assert (await look(server))["history"] == []
    running = asyncio.create_task(ask(server, "long", **ENDLESS))
    await written(server)
    moments: list[Any] = []
    with server.history.looking():
        async with asyncio.timeout(30):
            while not any(each["tokens"] for each in moments):
                await asyncio.sleep(0.1)
                moments = await history(server)
    assert moments[-1]["running"] == 1 and moments[-1]["waiting"] == 0
    times = [each["at"] for each in moments]
    assert times == sorted(times)
    await cancel(server, "long")
    await running


async def history(server: HttpServer) -> Any:
    answer = await exchange(server, get("/v1/watch?history=true"))
    return answer.json["history"]


async def test_stored_replies_are_counted(start: Start) -> None:
    server = await start()
    for _ in range(3):
        await ask(server, "same", cache=True, temperature=0, max_tokens=3)
    seen = await look(server)
    assert seen["replayed"] == 2
    assert [each.get("replayed", False) for each in seen["ended"]] == [True, True, False]


async def test_the_log_has_the_last_words_of_the_models_process(stream: io.StringIO) -> None:
    path, others = tiny_model_dir(scale=2.0), {*psutil.Process().children()}
    with Engine.load(path, engine_host="process") as engine:
        server = await HttpServer.start(Models.of(engine, ("demo",)), Config(port=0))
        (core,) = set(psutil.Process().children()) - others
        core.send_signal(signal.SIGABRT)
        texts: list[str] = []
        async with asyncio.timeout(60):
            while not any("Fatal Python error" in text for text in texts):
                lines = (await exchange(server, get("/v1/log"))).json["lines"]
                texts = [each["text"] for each in lines]
                await asyncio.sleep(0.1)
        await server.drain()
