"""Clients without a key: what they send makes one short line of the log at most, and not many."""

from __future__ import annotations

import asyncio
import io

import pytest

from budmlx import logs
from budmlx.server.telemetry import access_log
from budmlx.server.telemetry.access_log import Allowance
from tests.server.conftest import Start

POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
JSON = b"Content-Type: application/json\r\nContent-Length: 5\r\n"
SENT = {
    "no gzip": (POST + JSON + b"Content-Encoding: gzip\r\n\r\nhello", 401),
    "no gzip, another host": (
        POST.replace(b"localhost", b"evil") + JSON + b"Content-Encoding: gzip\r\n\r\nhello",
        403,
    ),
    "no deflate, in chunks": (
        POST + b"Content-Encoding: deflate\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        401,
    ),
    "half of a gzip": (POST + JSON + b"Content-Encoding: gzip\r\n\r\n\x1f\x8b\x08\0\0", 401),
    "an unknown encoding": (POST + JSON + b"Content-Encoding: br\r\n\r\nhello", 400),
    "expect a byte": (POST + JSON + b"Expect: 100-\xe4\r\n\r\nhello", 417),
    "expect much": (POST + JSON + b"Expect: " + b"x" * 7000 + b"\r\n\r\nhello", 417),
    "expect at no endpoint": (b"GET /no HTTP/1.1\r\nHost: localhost\r\nExpect: \xff\r\n\r\n", 417),
    "a method": (b"FOO\xff / HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "a cookie": (b"GET /health HTTP/1.1\r\nHost: localhost\r\nCookie: \xff=\x01\r\n\r\n", 400),
    "a type": (POST + b"Content-Type: \xff/\xfe; charset=\xff\r\n\r\n", 401),
    "an origin": (b"GET /health HTTP/1.1\r\nHost: localhost\r\nOrigin: \xff\r\n\r\n", 403),
    "a path": (b"GET /%ff\\x%00%0a HTTP/1.1\r\nHost: localhost\r\n\r\n", 401),
    "a long path": (b"GET /" + b"a" * 8000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 401),
    "a bad chunk": (POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    "no HTTP": (b"\x16\x03\x01\x02\x00" * 20 + b"\r\n\r\n", 400),
}


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """The log, as a server writes it."""
    monkeypatch.setattr(access_log, "STRANGERS", Allowance(lines=120, seconds=60.0))
    stream = io.StringIO()
    logs.set_up("info", "text", stream)
    return stream


async def send(port: int, raw: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(raw)
    head = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return head


# LIMITS 19, 22, 23 and 120
async def test_each_is_refused_in_one_line(start: Start, written: io.StringIO) -> None:
    server = await start(api_keys=("secret-key",))
    for name, (raw, status) in SENT.items():
        written.seek(0)
        written.truncate()
        head = await send(server.port, raw)
        assert head.split()[1] == str(status).encode(), name
        while server.connections:
            await asyncio.sleep(0.005)
        lines = written.getvalue().splitlines()
        assert len(lines) <= 1 and sum(map(len, lines)) < 500, (name, lines)
        assert all(line.isprintable() and line.isascii() for line in lines), (name, lines)


async def test_many_are_not_all_told(
    start: Start, written: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await start(api_keys=("secret-key",))
    monkeypatch.setattr(access_log, "STRANGERS", allowance := Allowance(lines=3, seconds=3600.0))
    known = (
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer secret-key\r\n\r\n"
    )
    for _ in range(5):
        for raw in (known.replace(b"secret-key", b"no"), b"junk\r\n\r\n"):
            await send(server.port, raw)
        await send(server.port, known)
    lines = written.getvalue().splitlines()
    assert sum(" 401 " in line or " 400 " in line for line in lines) == 3
    assert sum("GET /v1/models 200" in line for line in lines) == 5, "they have a key"
    allowance._seconds = 0
    await send(server.port, b"junk\r\n\r\n")
    assert "7 further requests of clients without a key had no line" in written.getvalue()
