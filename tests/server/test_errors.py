"""Every answer that is not a success has the one error body."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging

import pytest

from budmlx import Engine
from budmlx.config import Config
from budmlx.engine.models.models import Models, ServedModel
from budmlx.errors import (
    BudmlxError,
    EngineClosedError,
    EngineUnavailableError,
    OverloadedError,
    QuotaError,
    RequestFailedError,
)
from budmlx.server import errors
from budmlx.server.app import HttpServer
from budmlx.server.errors import failure_of
from budmlx.server.limits import Limits
from tests.server.conftest import Start
from tests.server.tools import CHAT, body, check_error, exchange, get, parse, post

LINE = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"


# LIMITS 5 to 7, 10 and 22
@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
        b"\x00\x01\x02 junk\r\n\r\n",
        b"GET\x00 / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /" + b"SECRET" * 1500 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        LINE + b"X: " + b"SECRET" * 1400 + b"\r\n\r\n",
        LINE + b"X: y\r\n" * 200 + b"\r\n",
        LINE + b"X: y\r\n" * 2000 + b"\r\n",
        b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n",
        LINE + b"Host: localhost\r\n\r\n",
        LINE + b"Content-Length: -1\r\n\r\n",
        LINE + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        LINE + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        LINE + b"Bad Header\r\n\r\n",
        LINE + b"X: SECRET\x00\r\n\r\n",
    ],
)
async def test_what_is_not_http_gets_the_error_body(server: HttpServer, raw: bytes) -> None:
    answer = await exchange(server, raw)
    check_error(answer, 400)
    assert b"SECRET" not in answer.content
    assert answer.headers["Server"] == "budmlx"


async def test_http_1_0_without_host(server: HttpServer) -> None:
    check_error(await exchange(server, b"GET /health HTTP/1.0\r\n\r\n"), 400, code="host_missing")


# LIMITS 21
@pytest.mark.parametrize(
    "path", ["/nope", "//v1/../x", "/v1/%2e%2e/health", "/health/", "/v1/models/"]
)
async def test_unknown_routes(server: HttpServer, path: str) -> None:
    check_error(await exchange(server, get(path)), 404)


async def test_wrong_methods(server: HttpServer) -> None:
    answer = await exchange(server, get(CHAT))
    check_error(answer, 405)
    assert answer.headers["Allow"] == "POST"
    answer = await exchange(server, post(b"{}", "/v1/models"))
    check_error(answer, 405)
    assert answer.headers["Allow"] == "GET,HEAD"


# LIMITS 23
@pytest.mark.parametrize("path", ["/health", "/nope"])
async def test_bogus_expectation(server: HttpServer, path: str) -> None:
    check_error(await exchange(server, get(path, Expect="bogus")), 417)


async def test_expect_100_continue(server: HttpServer) -> None:
    raw = post(json.dumps(body()).encode(), Expect="100-continue")
    assert (await exchange(server, raw)).status == 200


# LIMITS 16, 17 and 19
@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Content-Type": "text/plain"}, "unsupported_media_type"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, "unsupported_media_type"),
        ({"Content-Type": "multipart/form-data; boundary=x"}, "unsupported_media_type"),
        ({"Content-Type": "///"}, "unsupported_media_type"),
        ({"Content-Type": "application/json; charset=foo"}, "unsupported_charset"),
        ({"Content-Type": "application/json; charset=utf-16"}, "unsupported_charset"),
        ({"Content-Encoding": "snappy"}, "unsupported_encoding"),
    ],
)
async def test_media_types(server: HttpServer, headers: dict[str, str], code: str) -> None:
    check_error(await exchange(server, post(b"{}", **headers)), 415, code=code)


async def test_missing_content_type(server: HttpServer) -> None:
    raw = post(b"{}").replace(b"Content-Type: application/json\r\n", b"")
    check_error(await exchange(server, raw), 415, code="unsupported_media_type")


async def test_charset_utf8_is_accepted(server: HttpServer) -> None:
    raw = post(json.dumps(body()).encode(), Content_Type="application/json; charset=UTF-8")
    assert (await exchange(server, raw)).status == 200


def chunked(data: bytes, size: int = 4096) -> bytes:
    raw = post(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    pieces = [data[i : i + size] for i in range(0, len(data), size)]
    return raw + b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n"


async def test_body_limit(start: Start) -> None:  # LIMITS 20
    server = await start(max_body=20_000)
    fitting = json.dumps(body()).encode().ljust(20_000)
    for raw in (post(fitting), chunked(fitting)):
        assert (await exchange(server, raw)).status == 200
    for raw in (post(fitting + b" "), chunked(fitting + b" ")):
        check_error(await exchange(server, raw), 413, code="body_too_large")


async def test_a_body_in_tiny_pieces(start: Start) -> None:  # LIMITS 8
    server = await start(max_body=100_000)
    fitting = json.dumps(body()).encode().ljust(100_000)
    assert (await exchange(server, chunked(fitting, size=1))).status == 200
    answer = await exchange(server, chunked(fitting + b" ", size=1))
    check_error(answer, 413, code="body_too_large")


async def test_a_declared_size_is_refused_unread(start: Start) -> None:
    server = await start(Limits(linger_seconds=0.05))
    raw = post(b"").replace(b"Content-Length: 0", b"Content-Length: 99999999999")
    check_error(await exchange(server, raw), 413, code="body_too_large")


async def test_compressed_bodies(start: Start) -> None:  # LIMITS 18 and 19
    server = await start(max_body=100_000)
    good = gzip.compress(json.dumps(body()).encode())
    assert (await exchange(server, post(good, Content_Encoding="gzip"))).status == 200
    bomb = gzip.compress(b" " * 50_000_000)
    assert len(bomb) < 100_000
    answer = await exchange(server, post(bomb, Content_Encoding="gzip"))
    check_error(answer, 413, code="body_too_large")
    answer = await exchange(server, post(b"not gzip", Content_Encoding="gzip"))
    check_error(answer, 400)
    check_error(await exchange(server, post(good[:20], Content_Encoding="gzip")), 400)


async def test_bad_chunks(server: HttpServer) -> None:
    raw = post(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    check_error(await exchange(server, raw + b"FFFFFFFFFFFFFFFFFFFF\r\n"), 400)
    check_error(await exchange(server, raw + b"zz\r\n"), 400)


# LIMITS 9
@pytest.mark.parametrize(
    ("begun", "rest"),
    [
        (b"2\r\n{}\r\n", b"zz\r\n"),
        (b"2\r\n{}\r\n", b"FFFFFFFFFFFFFFFFFFFF\r\n"),
        (b"2\r\n{", b"}}}\r\n"),
        (b"", b"-1\r\n"),
        (b"2\r\n{}\r\n0\r\n", b"a: b\r\n" * 1000),
        (b"2\r\n{}\r\n0\r\na: ", b"b" * 100_000),
    ],
    ids=["no size", "huge size", "too long", "negative", "trailers", "long trailer"],
)
@pytest.mark.parametrize("first", [b"", get("/health").replace(b"Connection: close\r\n", b"")])
async def test_a_body_that_goes_bad_later_is_refused_at_once(
    server: HttpServer, begun: bytes, rest: bytes, first: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    head = post(b"", Connection="keep-alive")
    head = head.replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    if first:
        writer.write(first)
        await reader.readuntil(b'"status":"ok"}')
    writer.write(head + begun)
    await asyncio.sleep(0.05)  # the server has read it
    writer.write(rest)
    answer = parse(await reader.read(), "POST")
    writer.close()
    check_error(answer, 400, code="bad_body")
    assert answer.headers["Connection"] == "close"
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    assert (await exchange(server, get("/health"))).status == 200


async def test_a_body_that_goes_bad_behind_another_request(server: HttpServer) -> None:
    head = post(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    earlier = post(json.dumps(body(max_tokens=200)).encode(), Connection="keep-alive")
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(earlier + head + b"2\r\n{}\r\n")
    await asyncio.sleep(0.05)
    writer.write(b"zz\r\n")
    received = await reader.read()
    writer.close()
    assert received.startswith(b"HTTP/1.1 200 ")
    assert received.count(b"HTTP/1.1 400 ") == 1 and b"bad_body" in received


async def test_slow_bodies(start: Start) -> None:
    short = post(b"{").replace(b"Content-Length: 1", b"Content-Length: 10")
    for limits in (
        Limits(linger_seconds=0.05, body_idle_seconds=0.05),  # LIMITS 3
        Limits(linger_seconds=0.05, body_idle_seconds=60.0, body_total_seconds=0.05),  # LIMITS 4
    ):
        server = await start(limits)
        check_error(await exchange(server, short), 408, code="body_timeout")


@pytest.mark.parametrize(
    ("fields", "status", "expected"),
    [
        ({"temperature": 3}, 400, {"param": "temperature"}),
        ({"messages": [{"role": "x"}]}, 400, {"param": "messages[0].role"}),
        ({"model": "../../etc"}, 404, {"param": "model", "code": "model_not_found"}),
        ({"messages": [{"role": "user", "content": "a b " * 9000}]}, 400,
         {"code": "context_length_exceeded"}),
        ({"stop_token_ids": [-1]}, 400, {"param": "stop_token_ids[0]"}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
async def test_requests_that_are_wrong(
    server: HttpServer,
    fields: dict[str, object],
    status: int,
    expected: dict[str, str],
    stream: bool,
) -> None:
    raw = post(json.dumps(body(stream=stream, **fields)).encode())
    check_error(await exchange(server, raw), status, **expected)


async def test_wrong_json(server: HttpServer) -> None:
    check_error(await exchange(server, post(b"{")), 400, param=None)
    check_error(await exchange(server, post(b'{"seed": NaN}')), 400, param="seed")


def test_statuses_and_retry_after() -> None:
    found = {
        type(exc): (failure_of(exc).status, failure_of(exc).headers.get("Retry-After"))
        for exc in (
            OverloadedError("x"),
            EngineUnavailableError("x", retry_after=7),
            QuotaError("x", retry_after=70),
            EngineClosedError("x"),
            RequestFailedError("x"),
        )
    }
    assert found == {
        OverloadedError: (503, "1"),
        EngineUnavailableError: (503, "7"),
        QuotaError: (429, "70"),
        EngineClosedError: (503, "1"),
        RequestFailedError: (500, None),
    }
    assert errors.STATUS.keys() <= {BudmlxError, *BudmlxError.__subclasses__()}


async def test_a_bug_tells_neither_client_nor_log_the_prompt(
    engine: Engine, server: HttpServer, caplog: pytest.LogCaptureFixture
) -> None:
    class Buggy(Models):
        async def afind(self, name: str, *, default: bool = True) -> ServedModel:
            raise RuntimeError("SECRET /opt/x <object at 0x1234>")

    server = await HttpServer.start(Buggy.of(engine), Config(port=0))
    with caplog.at_level(logging.INFO):
        answer = await exchange(server, post(json.dumps(body("SECRET")).encode()))
    await server.drain()
    check_error(answer, 500, code="internal_error")
    assert b"SECRET" not in answer.content and "SECRET" not in caplog.text
    assert "RuntimeError" in caplog.text and "find" in caplog.text
