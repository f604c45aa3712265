"""Server-sent events, chunk by chunk."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import aiohttp
from aiohttp import web

from budmlx import Engine
from budmlx.config import Config
from budmlx.server.answer import EventStream
from budmlx.server.app import HttpServer
from budmlx.server.limits import Limits
from tests.server.conftest import Start
from tests.server.tools import CHAT, body, endless, events, exchange, parse, post, until


async def stream(server: HttpServer, **fields: Any) -> list[Any]:
    raw = post(json.dumps(body(stream=True, **fields)).encode())
    answer = await exchange(server, raw)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/event-stream"
    return events(answer.content)


async def test_chunks(engine: Engine, server: HttpServer) -> None:
    *chunks, done = await stream(server, max_tokens=20)
    assert done == "[DONE]"
    first, *middle, last = chunks
    for chunk in chunks:
        assert chunk["id"] == first["id"] and chunk["id"].startswith("chatcmpl-")
        assert chunk["object"] == "chat.completion.chunk"
        assert chunk["created"] == first["created"] and type(chunk["created"]) is int
        assert chunk["model"] == "demo"
        assert chunk["system_fingerprint"] == engine.info.fingerprint
        (choice,) = chunk["choices"]
        assert choice.keys() == {"index", "delta", "finish_reason", "logprobs"}
        assert choice["index"] == 0 and choice["logprobs"] is None
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert all(chunk["choices"][0]["delta"].keys() == {"content"} for chunk in middle)
    assert all(chunk["choices"][0]["delta"]["content"] for chunk in middle)
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in [first, *middle])
    assert all("usage" not in chunk and "time_info" not in chunk for chunk in [first, *middle])
    expected = engine.chat("Hello", temperature=0, max_tokens=20)
    text = "".join(chunk["choices"][0]["delta"]["content"] for chunk in middle)
    assert text == expected.text
    assert last["choices"][0]["delta"] == {}
    assert last["choices"][0]["finish_reason"] == expected.finish_reason
    assert last["usage"]["total_tokens"] == expected.usage.total_tokens
    assert last["usage"]["prompt_tokens_details"] == {"cached_tokens": 0, "audio_tokens": 0}
    assert last["time_info"]["total_time"] >= 0


async def test_include_usage(server: HttpServer) -> None:  # LIMITS 63
    *chunks, last, done = await stream(server, stream_options={"include_usage": True})
    assert done == "[DONE]"
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 8
    assert "time_info" in last
    assert all(len(chunk["choices"]) == 1 and chunk["usage"] is None for chunk in chunks)
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"


async def test_a_stream_and_a_whole_reply_agree(
    server: HttpServer, client: aiohttp.ClientSession
) -> None:
    sampling = {"seed": 5, "temperature": 1.0, "max_tokens": 60, "top_k": 40}
    async with client.post(CHAT, json=body(**sampling)) as response:
        whole = await response.json()
    chunks = await stream(server, **sampling)
    text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks[:-1])
    assert text == whole["choices"][0]["message"]["content"]


async def test_stop_strings_are_not_part_of_the_text(engine: Engine, server: HttpServer) -> None:
    whole = engine.chat("Hello", temperature=0, max_tokens=30).text
    stop = whole[len(whole) // 2 : len(whole) // 2 + 3]
    *chunks, _ = await stream(server, max_tokens=30, stop=[stop])
    text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks)
    assert text == whole[: whole.index(stop)]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


async def test_comments_keep_a_silent_stream_alive(start: Start) -> None:
    server = await start(hold_seconds=0.001, keepalive_seconds=0.001)
    request = body("word " * 200, stream=True, max_tokens=2)
    answer = await exchange(server, post(json.dumps(request).encode()))
    blocks = answer.content.split(b"\n\n")
    assert b'"role":"assistant"' in blocks[0]
    assert blocks[1] == b": ping"
    assert events(answer.content)[-1] == "[DONE]"


# LIMITS 94
async def test_an_error_after_the_first_byte_is_the_last_event(own_server: HttpServer) -> None:
    raw = post(json.dumps(endless(stream=True)).encode())
    reader, writer = await asyncio.open_connection("127.0.0.1", own_server.port)
    writer.write(raw.replace(b"Connection: close\r\n", b""))
    received = await reader.readuntil(b"data: ")
    await asyncio.to_thread(own_server.models.loaded[0].close)
    async with asyncio.timeout(30):  # The server closes the connection, too.
        received += await reader.read()
    writer.close()
    await writer.wait_closed()
    *chunks, last = events(parse(received, "POST").content)
    assert all("choices" in chunk for chunk in chunks)
    assert last.keys() == {"error", "status_code"}
    assert last["status_code"] == 503
    assert last["error"]["type"] == "server_error"
    assert last["error"]["message"]


async def test_a_client_that_does_not_read_is_cut_off() -> None:
    limits = Limits(stalled_seconds=0.2)  # LIMITS 92
    ended: asyncio.Future[tuple[int, BaseException]] = asyncio.get_running_loop().create_future()

    class Silence:
        headers: Mapping[str, str] = {}
        stream_type = "text/event-stream"

        def opening(self) -> bytes:
            return b"data: {}\n\n"

        keep_alive = opening

    async def flood(request: web.Request) -> web.StreamResponse:
        buffered = 0
        transport = request.transport
        assert transport is not None
        try:
            async with EventStream(request, Silence(), Config(), limits) as events:
                await events.start()
                while True:
                    await events.send(b'data: "' + b"x" * 50_000 + b'"\n\n')
                    buffered = max(buffered, transport.get_write_buffer_size())
        except ConnectionError as exc:
            ended.set_result((buffered, exc))
            raise
        raise AssertionError

    app = web.Application()
    app.router.add_get("/", flood)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    _, writer = await asyncio.open_connection("127.0.0.1", site.port, limit=1024)
    writer.transport.pause_reading()
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    async with asyncio.timeout(30):
        buffered, exc = await ended
    await until(lambda: runner.server is not None and not runner.server.connections)
    writer.transport.abort()
    await runner.cleanup()
    assert isinstance(exc, ConnectionResetError)
    assert buffered < 500_000
