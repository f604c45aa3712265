"""What holds for every route of every dialect; a route that is new is under the same rows."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import re
import socket
import struct
from collections.abc import AsyncIterator
from itertools import chain
from typing import Any

import aiohttp
import msgspec
import pytest

from budmlx import Engine
from budmlx.config import Config
from budmlx.engine.models.models import Models
from budmlx.server.app import ROUTES, HttpServer, create_app
from budmlx.server.dialects.registry import DIALECTS
from budmlx.server.endpoints import Endpoint
from tests.server.conftest import Start
from tests.server.tools import CHAT, Answer, endless, exchange, get, post, until

ENDPOINTS: tuple[Endpoint, ...] = tuple(
    chain(*ROUTES, chain.from_iterable(dialect.endpoints for dialect in DIALECTS))
)
MESSAGES = [{"role": "user", "content": "Hello"}]
CONVERSATION = {"model": "demo", "messages": MESSAGES}
OLLAMA = {"temperature": 0, "num_predict": 8000}
LONG = {"max_tokens": 8000, "temperature": 0}
# The least that each route with a body answers; those that generate text do so for long.
BODIES: dict[str, dict[str, Any]] = {
    "/v1/models/load": {"model": "demo"},
    "/v1/models/unload": {"model": "demo"},
    "/v1/models/pull": {"model": "org/none"},
    "/v1/log_level": {"level": "info"},
    "/v1/reload": {},
    "/v1/chat/completions": {**CONVERSATION, **LONG},
    "/v1/completions": {"model": "demo", "prompt": "Hello", **LONG},
    "/v1/fim/completions": {"model": "demo", "prompt": "Hello", **LONG},
    "/v1/embeddings": {"model": "demo", "input": "Hello"},
    "/v1/rerank": {"model": "demo", "query": "Hello", "documents": ["a"]},
    "/v2/rerank": {"model": "demo", "query": "Hello", "documents": ["a"]},
    "/v1/decisions": {**CONVERSATION, "options": ["yes", "no"]},
    "/v1/tokenize": {"model": "demo", "prompt": "Hello"},
    "/v1/detokenize": {"model": "demo", "tokens": [300]},
    "/v1/apply_template": CONVERSATION,
    "/v1/chat/completions/input_tokens": CONVERSATION,
    "/v1/estimate": CONVERSATION,
    "/v1/batches": {
        "input_file_id": "file-none",
        "endpoint": CHAT,
        "completion_window": "24h",
    },
    "/v1/messages": {**CONVERSATION, **LONG},
    "/v1/messages/count_tokens": CONVERSATION,
    "/v1/messages/batches": {
        "requests": [{"custom_id": "a", "params": {**CONVERSATION, "max_tokens": 1}}]
    },
    "/api/chat": {**CONVERSATION, "options": OLLAMA},
    "/api/generate": {"model": "demo", "prompt": "Hello", "options": OLLAMA},
    "/api/embed": {"model": "demo", "input": "Hello"},
    "/api/embeddings": {"model": "demo", "prompt": "Hello"},
    "/api/show": {"model": "demo"},
    "/api/pull": {"model": "org/none"},
    "/api/delete": {"model": "org/none"},
    "/v1/responses": {
        "model": "demo",
        "input": "Hello",
        "max_output_tokens": 8000,
        "temperature": 0,
    },
    "/v1/responses/input_tokens": {"model": "demo", "input": "Hello"},
}
WITH_BODY = [each for each in ENDPOINTS if each.body is not None]
GENERATING = [each for each in ENDPOINTS if each.generates]
# The model of these tests has no tokens for infills.
ANSWERED = [each for each in GENERATING if each.path != "/v1/fim/completions"]
FOR_ADMINS = {
    "POST /v1/models/load",
    "POST /v1/models/unload",
    "POST /v1/models/pull",
    "DELETE /v1/models/{id}",
    "POST /v1/log_level",
    "POST /v1/reload",
    "POST /v1/requests/{id}/cancel",
    "GET /v1/log",
    "POST /api/pull",
    "DELETE /api/delete",
}
"""They need an admin key where one is set."""


def sent(endpoint: Endpoint, data: bytes, path: str = "", **headers: str) -> bytes:
    """A raw request to an endpoint."""
    raw = post(data, path or endpoint.path, **headers)
    return raw.replace(b"POST", endpoint.method.encode(), 1)


def as_bytes(body: dict[str, Any]) -> bytes:
    return json.dumps(body).encode()


def problem(path: str, answer: Answer, *statuses: int) -> str:
    """What is wrong with an answer that is to be an error of the dialect of its path."""
    if answer.status not in statuses:
        return f"{answer.status} {answer.content[:200]!r}"
    if not answer.headers["Content-Type"].startswith("application/json"):
        return str(answer.headers["Content-Type"])
    try:
        msgspec.json.decode(answer.content, type=DIALECTS.of(path).error_reply)
    except msgspec.MsgspecError as error:
        return f"{error}: {answer.content[:200]!r}"
    for word in (b"Traceback", b" 0x", b"budmlx/", b"<class", b"Error(", b"root:"):
        if word in answer.content:
            return repr(answer.content[:200])
    return "" if answer.headers["X-Request-Id"] else "it has no id"


def test_no_route_is_missing_here(engine: Engine) -> None:  # LIMITS 139
    app = create_app(Models.of(engine, ()), Config())
    served = {
        (route.method, route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    known = {(each.method, Endpoint.plain(path)) for each in ENDPOINTS for path in each.spellings}
    assert served == known
    assert {each.path for each in WITH_BODY} == BODIES.keys()


NO_JSON = {
    "nothing": b"",
    "a list": b"[1]",
    "null": b"null",
    "a text": b'"x"',
    "more after it": b"{} x",
    "a mark": b"\xef\xbb\xbf{}",
    "no UTF-8": b'{"model": "\xff"}',
    "depth": b'{"model": ' + b"[" * 900 + b"]" * 900 + b"}",
    "a name twice": b'{"model": "demo", "model": "demo"}',
    "no number": b'{"model": NaN}',
    "half a character": b'{"model": "\\ud800"}',
    "digits": b'{"model": ' + b"9" * 5000 + b"}",
}
NO_BODY = {
    "another type": ({"Content-Type": "text/plain"}, b"{}", 415),
    "another charset": ({"Content-Type": "application/json; charset=utf-16"}, b"{}", 415),
    "an unknown encoding": ({"Content-Encoding": "snappy"}, b"{}", 415),
    "no gzip": ({"Content-Encoding": "gzip"}, b"no gzip", 400),
    "a bomb": ({"Content-Encoding": "gzip"}, gzip.compress(b" " * 200_000), 413),
    "too much": ({}, b"{}".ljust(100_001), 413),
}


# LIMITS 16 to 20 and 34 to 40
async def test_what_is_no_body_is_refused_by_every_route(start: Start) -> None:
    server = await start(max_body=100_000)
    wrong = {}
    for endpoint in WITH_BODY:
        for name, data in NO_JSON.items():
            # Nothing but a lone surrogate makes a request wrong whose field is unknown there.
            answer = await exchange(server, sent(endpoint, data))
            wrong[endpoint.path, name] = problem(endpoint.path, answer, 400, 404)
        for name, (headers, data, status) in NO_BODY.items():
            if status == 415 and endpoint.path.startswith("/api/") and "Content-Type" in headers:
                continue  # Clients of this dialect send any content type.
            answer = await exchange(server, sent(endpoint, data, **headers))
            wrong[endpoint.path, name] = problem(endpoint.path, answer, status)
    assert not {key: found for key, found in wrong.items() if found}


NO_IDS = [
    "..%2f..%2f..%2f..%2fetc%2fpasswd",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "..%5c..%5cx",
    "%2fetc%2fpasswd",
    "file-..%2f..%2fx",
    "%00",
    "a%00.txt",
    "%0d%0aX-Injected:%20y",
    "%ff%fe",
    "~root",
    "C:%5Cx",
    "%27%20OR%201=1--",
    "a" * 5000,
]
PATHS = ["../../etc/passwd", "/etc/passwd", "..\\..\\x", "file:///etc/passwd", "\0", "a" * 5000]
PLAIN = re.compile(r"\{\w+\}")


# LIMITS 64, 127 and 139
async def test_ids_in_paths_are_no_paths(server: HttpServer) -> None:
    wrong = {}
    for endpoint in ENDPOINTS:
        if "{" not in endpoint.path:
            continue
        for id in NO_IDS:
            target = PLAIN.sub(id, endpoint.path)
            answer = await exchange(server, sent(endpoint, b"", target))
            wrong[endpoint.method, target] = problem(target, answer, 400, 404)
            assert "X-Injected" not in answer.headers
    assert len(wrong) > 100
    assert not {key: found for key, found in wrong.items() if found}


# LIMITS 64
async def test_names_and_ids_in_bodies_are_no_paths(server: HttpServer) -> None:
    wrong = {}
    for endpoint in WITH_BODY:
        assert endpoint.body is not None
        fields = [
            name
            for name in endpoint.body.model_fields
            if name in ("model", "name") or name.endswith("_id")
        ]
        for name in set(fields) - {"end_user_id"}:
            for value in PATHS:
                fields_of = {**BODIES[endpoint.path], name: value}
                if name == "name":  # An older word for it.
                    fields_of.pop("model", None)
                answer = await exchange(server, sent(endpoint, as_bytes(fields_of)))
                wrong[endpoint.path, name, value] = problem(endpoint.path, answer, 400, 404)
    assert len(wrong) > 100
    assert not {key: found for key, found in wrong.items() if found}


async def test_what_admins_may_do_others_may_not(start: Start) -> None:
    server = await start(api_keys=("plain-key",), admin_key="admin-key")
    refused = set()
    for endpoint in ENDPOINTS:
        short = {"max_tokens": 1, "max_output_tokens": 1, "options": {"num_predict": 1}}
        body = BODIES.get(endpoint.path, {})
        body = {**body, **{name: short[name] for name in short.keys() & body.keys()}}
        if endpoint.path == "/v1/watch":
            continue  # It never ends, and shows a key what is its own.
        target = PLAIN.sub("none", endpoint.path)
        data = as_bytes(body) if endpoint.body is not None else b""
        raw = sent(endpoint, data, target, Authorization="Bearer plain-key")
        answer = await exchange(server, raw)
        assert answer.status != 401 and answer.status < 500, (endpoint.path, answer.content)
        if answer.status == 403:
            assert not problem(endpoint.path, answer, 403) and b"admin key" in answer.content
            refused.add(f"{endpoint.method} {endpoint.path}")
    assert refused == FOR_ADMINS


async def test_a_full_queue_refuses_by_every_route_that_generates(
    engine: Engine, start: Start
) -> None:  # LIMITS 95
    server = await start(max_rows=1, max_queue=1)
    async with aiohttp.ClientSession(server.url) as client:
        held = [await client.post(CHAT, json=endless(stream=True)) for _ in range(2)]
        for endpoint in GENERATING:
            for stream in (False, True):
                body = {**BODIES[endpoint.path], "stream": stream}
                answer = await exchange(server, sent(endpoint, as_bytes(body)))
                assert not problem(endpoint.path, answer, 503, 529), endpoint.path
                assert answer.headers["Retry-After"].isdigit()
        for response in held:
            response.close()
    await until(lambda: is_idle(engine, server))


def is_idle(engine: Engine, server: HttpServer) -> bool:
    status = engine.status()
    return status.running == status.waiting == server.in_flight.count == server.connections == 0


@pytest.fixture
async def quiet(caplog: pytest.LogCaptureFixture) -> AsyncIterator[None]:
    """Nothing is logged as an error."""
    with caplog.at_level(logging.INFO):
        yield
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR or each.exc_info]


# LIMITS 89, 91 and 139
@pytest.mark.parametrize("farewell", ["rst", "half-close"])
@pytest.mark.parametrize("endpoint", ANSWERED, ids=lambda endpoint: endpoint.path)
@pytest.mark.usefixtures("quiet")
async def test_a_client_that_vanishes_frees_its_row_by_every_route(
    engine: Engine, server: HttpServer, endpoint: Endpoint, farewell: str
) -> None:
    for stream, begun in ((False, False), (True, False), (True, True)):
        body = {**BODIES[endpoint.path], "stream": stream}
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(sent(endpoint, as_bytes(body), Connection="keep-alive"))
        if begun:
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            await reader.readexactly(10)
        else:
            await until(lambda: engine.status().running == 1)
        if farewell == "rst":
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.close()
        else:
            writer.write_eof()
        await until(lambda: is_idle(engine, server))
        writer.close()
    assert (await exchange(server, get("/health"))).status == 200
