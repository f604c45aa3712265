"""Records of requests that a server answered or refused, and of those of the Python API."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import SecretStr

from budmlx import Engine, hookimpl
from budmlx.config import Config
from budmlx.engine.models.models import Models
from budmlx.engine.text.control_tokens import LONG_TEXT
from budmlx.errors import ContextLengthError, InvalidRequestError
from budmlx.plugins.specs import RequestRecord
from budmlx.server.app import HttpServer
from tests.models import tiny_model_dir
from tests.server.tools import body, events, exchange, get, post, until


class Observer:
    def __init__(self) -> None:
        self.records: list[RequestRecord] = []

    @hookimpl
    def on_request_finished(self, record: RequestRecord) -> None:
        self.records.append(record)


@asynccontextmanager
async def serving(observer: Observer, **settings: Any) -> AsyncIterator[HttpServer]:
    with Engine.load(tiny_model_dir(), plugins=[observer]) as engine:
        config = Config(port=0, drain_seconds=0, **settings)
        server = await HttpServer.start(Models.of(engine, ("demo",)), config)
        try:
            yield server
        finally:
            await server.drain()


async def record_of(server: HttpServer, observer: Observer, raw: bytes) -> tuple[Any, Any]:
    """The answer to a request, and its only record."""
    observer.records.clear()
    answer = await exchange(server, raw)
    await until(lambda: bool(observer.records))
    await asyncio.sleep(0.05)
    (record,) = observer.records
    return answer, record


def dumped(**fields: Any) -> bytes:
    return json.dumps(body(**fields)).encode()


async def test_a_record_says_where_a_request_came_from() -> None:
    observer = Observer()
    async with serving(observer) as server:
        before = time.time()
        answer, record = await record_of(server, observer, post(dumped(), X_Request_Id="mine-1"))
        assert record.request_id == answer.headers["X-Request-Id"] == "mine-1"
        assert record.response_id == answer.json["id"]
        assert (record.outcome, record.key) == ("completed", "")
        assert record.route == "/v1/chat/completions"
        assert before <= record.started < record.finished <= time.time()
        assert record.finished - record.started >= record.timing.total
        answer, record = await record_of(
            server, observer, post(dumped(stream=True), "/chat/completions")
        )
        assert record.request_id == answer.headers["X-Request-Id"]
        assert record.response_id == events(answer.content)[0]["id"]
        assert record.route == "/v1/chat/completions"
        fields = {"model": "demo", "max_tokens": 2}
        raw = json.dumps({"prompt": "a", **fields}).encode()
        answer, record = await record_of(server, observer, post(raw, "/v1/completions"))
        assert (record.response_id, record.route) == (answer.json["id"], "/v1/completions")
        observer.records.clear()
        raw = json.dumps({"prompt": ["a", "b"], **fields}).encode()
        answer = await exchange(server, post(raw, "/v1/completions"))
        await until(lambda: len(observer.records) == 2)
        assert {each.response_id for each in observer.records} == {answer.json["id"]}


REFUSED: dict[str, tuple[bytes, str]] = {
    "no JSON": (post(b"{"), "invalid_json"),
    "another model": (post(dumped(model="nobody")), "model_not_found"),
    "a wrong field": (post(dumped(n=0)), "invalid_request"),
    "an unknown sampler": (post(dumped(sampler={"name": "nobody"})), "invalid_request"),
    "a result without a call": (
        post(dumped(messages=[{"role": "tool", "content": "a"}])),
        "invalid_request",
    ),
    "a long prompt": (post(dumped(content="word " * 20_000)), "context_length_exceeded"),
    "no key": (post(dumped(), Authorization="Bearer no"), "invalid_api_key"),
    "an empty prompt": (
        post(json.dumps({"model": "demo", "prompt": []}).encode(), "/v1/completions"),
        "invalid_request",
    ),
}


@pytest.fixture(scope="module")
def refusals() -> dict[str, tuple[Any, Any]]:
    """The answer and the record of each."""

    async def asked() -> dict[str, tuple[Any, Any]]:
        observer = Observer()
        found = {}
        async with serving(observer, api_keys=(SecretStr("secret"),)) as server:
            for name, (raw, _) in REFUSED.items():
                if b"Authorization" not in raw:
                    raw = raw.replace(b"\r\n\r\n", b"\r\nAuthorization: Bearer secret\r\n\r\n", 1)
                found[name] = await record_of(server, observer, raw)
        return found

    return asyncio.run(asked())


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_requests_have_a_record(kind: str, refusals: dict[str, tuple[Any, Any]]) -> None:
    answer, record = refusals[kind]
    assert 400 <= answer.status < 500
    assert (record.outcome, record.error) == ("refused", REFUSED[kind][1])
    assert record.request_id == answer.headers["X-Request-Id"]
    assert record.route in ("/v1/chat/completions", "/v1/completions")
    assert record.started <= record.finished and record.usage is None
    assert record.response_id == ""
    assert record.key == ("" if kind == "no key" else "key-1")


async def test_other_paths_have_none() -> None:
    observer = Observer()
    async with serving(observer) as server:
        for raw in (get("/health"), get("/nothing"), post(b"{", "/tokenize"), post(b"{", "/v1/x")):
            await exchange(server, raw)
        await asyncio.sleep(0.05)
    assert observer.records == []


def test_refusals_of_the_python_api() -> None:
    observer = Observer()
    with Engine.load(tiny_model_dir(), plugins=[observer]) as engine:
        with pytest.raises(InvalidRequestError):
            engine.chat("Hello", sampler={"name": "nobody"})
        for words in (LONG_TEXT // 8, LONG_TEXT):  # the longer one is prepared on another thread
            with pytest.raises(ContextLengthError):
                engine.chat("word " * words)
    errors = [(record.outcome, record.error) for record in observer.records]
    too_long = ("refused", "context_length_exceeded")
    assert errors == [("refused", "invalid_request"), too_long, too_long]
    assert {(record.request_id, record.route) for record in observer.records} == {("", "")}
