"""What cannot be stored, or not be read again, is told; nothing else goes wrong."""

from __future__ import annotations

import asyncio
import json
import math
import threading
from pathlib import Path
from typing import Any

import pytest

from budmlx.engine.store.store import Shelf
from budmlx.errors import InvalidRequestError
from budmlx.server.app import HttpServer
from budmlx.server.dialects.responses.kept import KeptResponses, Record
from budmlx.server.dialects.responses.reply import LEAST, _logprobs
from budmlx.server.dialects.responses.state import KEPT
from budmlx.server.errors import HttpError
from budmlx.server.state import STORE
from budmlx.types import TokenLogprob
from tests.server.conftest import Start
from tests.server.dialects.responses.test_stored import finished, send
from tests.server.dialects.responses.tools import ask, events
from tests.server.tools import check_error, until


def test_records_that_cannot_be_read(kept: KeptResponses, caplog: pytest.LogCaptureFixture) -> None:
    shelf = kept._shelf
    shelf.put("me", "resp_1", b'{"input": "secret"}', ["msg_1"])
    with pytest.raises(HttpError):
        kept.get("me", "resp_1")
    with pytest.raises(InvalidRequestError):
        kept.item("me", "msg_1", "input[0].id")
    with pytest.raises(InvalidRequestError) as caught:
        kept.conversation("me", "resp_1")
    assert caught.value.code == "previous_response_not_found"
    assert "resp_1 cannot be read" in caplog.text and "secret" not in caplog.text


async def test_items_that_cannot_be_read(
    server: HttpServer, caplog: pytest.LogCaptureFixture
) -> None:
    kept = server._app[KEPT]
    made = (await ask(server, input="Hi")).json
    record = kept.get("", made["id"])
    strange = {"type": "message", "id": "msg_x", "role": "friend", "content": "secret"}
    kept.put("", Record(record.response, [strange]))
    after = await ask(server, input="And?", previous_response_id=made["id"])
    check_error(after, 400, param="previous_response_id")
    reference = [{"type": "item_reference", "id": "msg_x"}]
    check_error(await ask(server, input=reference), 400, param="input[0].id")
    assert "cannot be read" in caplog.text and "secret" not in caplog.text


def test_impossible_tokens_have_finite_logprobs() -> None:
    top = (TokenLogprob("b", b"b", -math.inf), TokenLogprob("a", b"a", -1.0))
    [entry] = _logprobs([TokenLogprob("a", b"a", -math.inf, top)])
    assert entry.logprob == entry.top_logprobs[0].logprob == LEAST
    assert entry.top_logprobs[1].logprob == -1.0


async def test_a_response_that_is_too_large_is_told(start: Start) -> None:
    server = await start(store_max_size=2**20)
    large = "words " * 300_000
    told = "The response was not stored: it is larger than all that an API key may keep."
    asked: dict[str, Any] = {"input": [{"role": "user", "content": "Hi"}], "metadata": {"a": large}}
    made = (await ask(server, **asked)).json
    assert (made["status"], made["store"], made["warnings"]) == ("completed", False, [told])
    check_error(await send(server, "GET", made["id"]), 404)
    *_, last = events(await ask(server, **asked, stream=True))
    assert last["type"] == "response.completed" and last["response"]["warnings"] == [told]
    unstored = (await ask(server, **asked, store=False)).json
    assert "warnings" not in unstored
    refused = check_error(await ask(server, **asked, background=True), 400, param="background")
    assert "larger" in refused["message"]


async def test_a_store_that_fails_is_told(
    server: HttpServer, caplog: pytest.LogCaptureFixture
) -> None:
    server._app[STORE].close()
    made = (await ask(server, input="Hi")).json
    assert made["warnings"] == ["The response was not stored: the store failed."]
    assert made["id"] in caplog.text
    background = check_error(await ask(server, input="Hi", background=True), 503)
    assert background["code"] == "store_failed"


async def test_a_response_in_the_background_that_cannot_be_stored_fails(start: Start) -> None:
    server = await start(store_max_size=2**20)
    # The events of its stream are more than may be kept.
    asked: dict[str, Any] = {"input": "script long;", "metadata": {"a": "words " * 80_000}}
    found = events(await ask(server, **asked, background=True, stream=True))
    assert found[-1]["type"] == "response.failed"
    assert "could not be stored" in found[-1]["response"]["error"]["message"]
    stored = await finished(server, found[0]["response"]["id"])
    assert (stored["status"], stored["output"]) == ("failed", [])
    assert stored["error"] == found[-1]["response"]["error"]


async def test_a_stream_that_fails_is_stored_as_failed(start: Start, tmp_path: Path) -> None:
    path = str(tmp_path / "store.sqlite")
    server = await start(drain_seconds=0.2, store=path)
    asked = asyncio.create_task(ask(server, input="Hi", ignore_eos=True, stream=True))
    await until(lambda: server.in_flight.count == 1)
    await server.drain()
    *_, last = events(await asked)
    assert last["type"] == "response.failed"
    stored = await send(await start(store=path), "GET", last["response"]["id"])
    assert stored.json == last["response"]


async def test_a_cancelled_response_is_stored_once_it_is_whole(
    server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_end = threading.Event(), threading.Event()
    put = Shelf.put

    def slow(self: Shelf, owner: str, id: str, data: bytes, names: Any = ()) -> bool:
        if json.loads(data)["response"]["status"] == "completed":
            begun.set()
            may_end.wait(30)
        return put(self, owner, id, data, names)

    monkeypatch.setattr(Shelf, "put", slow)
    made = (await ask(server, input="Hi", background=True)).json
    await asyncio.to_thread(begun.wait, 30)
    cancelled = asyncio.create_task(send(server, "POST", f"{made['id']}/cancel"))
    second = asyncio.create_task(send(server, "DELETE", made["id"]))
    await asyncio.sleep(0.05)
    assert not cancelled.done() and not second.done()
    may_end.set()
    assert (await cancelled).json["status"] == "completed"
