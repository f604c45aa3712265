"""A web server on loopback that answers with raw bytes, and counts who comes."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Answer = bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Listener:
    """connections: how many were opened. requests: the heads that arrived, in lower case."""

    answers: Mapping[str, Answer]
    port: int = 0
    connections: int = 0
    requests: list[str] = field(default_factory=list)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.requests.append(head.lower())
            answer = self.answers[head.split()[1]]
            if isinstance(answer, bytes):
                writer.write(answer)
                await writer.drain()
            else:
                await answer(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has gone
        finally:
            writer.close()


@asynccontextmanager
async def listening(
    answers: Mapping[str, Answer], context: ssl.SSLContext | None = None
) -> AsyncIterator[Listener]:
    listener = Listener(answers)
    server = await asyncio.start_server(listener._connected, "127.0.0.1", 0, ssl=context)
    listener.port = server.sockets[0].getsockname()[1]
    async with server:
        yield listener


def answer(body: bytes = b"", *headers: str, status: str = "200 OK") -> bytes:
    """A response; headers: lines that replace `Content-Type: image/png` and the length."""
    lines = headers or ("Content-Type: image/png", f"Content-Length: {len(body)}")
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode() + body


def redirect(where: str, status: int = 302) -> bytes:
    return answer(b"", f"Location: {where}", "Content-Length: 0", status=f"{status} Found")


def repeated(head: bytes, piece: bytes, pause: float = 0.0) -> Answer:
    """A response that goes on until the client has gone."""

    async def write(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while not writer.is_closing():
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)

    return write
