"""What several tests of the server need."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from budmlx.server.app import HttpServer

CHAT = "/v1/chat/completions"
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def body(content: str = "Hello", **fields: Any) -> dict[str, Any]:
    """A short greedy request."""
    messages = [{"role": "user", "content": content}]
    return {"model": "demo", "messages": messages, "max_tokens": 8, "temperature": 0, **fields}


def endless(**fields: Any) -> dict[str, Any]:
    """A request that runs much longer than any test."""
    return body(max_tokens=8000, **fields)


@dataclass
class Answer:
    """A parsed response."""

    status: int
    headers: http.client.HTTPMessage
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)


def post(data: bytes, path: str = CHAT, **headers: str) -> bytes:
    """A raw POST request that closes its connection."""
    lines = {"Host": "localhost", "Content-Type": "application/json", "Connection": "close"}
    lines |= {"Content-Length": str(len(data))}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + data


def get(path: str, **headers: str) -> bytes:
    """A raw GET request that closes its connection."""
    lines = {"Host": "localhost", "Connection": "close"}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"GET {path} HTTP/1.1\r\n{head}\r\n".encode()


async def exchange(server: HttpServer, raw: bytes, host: str = "127.0.0.1") -> Answer:
    """Send one request and read the response until the server closes the connection."""
    reader, writer = await asyncio.open_connection(host, server.port)
    writer.write(raw)
    try:
        return parse(await reader.read(), method=raw[:4].decode("latin-1").strip())
    finally:
        writer.close()
        await writer.wait_closed()


def parse(received: bytes, method: str) -> Answer:
    """Parse a response that fills a connection."""

    class Socket:
        def makefile(self, mode: str) -> io.BytesIO:
            return io.BytesIO(received)

    response = http.client.HTTPResponse(Socket(), method=method)  # type: ignore[arg-type]
    response.begin()
    return Answer(response.status, response.headers, response.read())


def check_error(answer: Answer, status: int, **expected: str | None) -> dict[str, Any]:
    """Assert that a response is the common error body; return its `error`."""
    assert answer.status == status, answer.content
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.headers["X-Request-Id"]
    whole = answer.json
    error = whole["error"]
    kind = "invalid_request_error" if status < 500 else "server_error"
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == TYPES.get(status, kind)
    assert whole["message"] == whole["description"] == error["message"]
    assert whole["extras"] == {} and whole["key"] is None
    assert whole["status_code"] == status
    for word in ("Traceback", "0x", "/opt", "budmlx/", "<class", "Error("):
        assert word not in error["message"]
    assert expected.items() <= error.items(), error
    return error


def events(content: bytes) -> list[Any]:
    """The payloads of a stream; asserts that it holds only `data:` lines and comments."""
    blocks = content.decode().split("\n\n")
    assert blocks.pop() == ""
    data = [block for block in blocks if not block.startswith(":")]
    assert all(block.startswith("data: ") and "\n" not in block for block in data)
    payloads = [block.removeprefix("data: ") for block in data]
    return [text if text == "[DONE]" else json.loads(text) for text in payloads]


async def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for a condition that another thread brings about."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)
