"""Pictures over HTTP: what the documentation's clients send, and what must be refused."""

from __future__ import annotations

import asyncio
import base64
import io
import struct
import zlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from PIL import Image

from budmlx import Engine
from budmlx.config import Config
from budmlx.engine.models.models import Models
from budmlx.server.app import HttpServer
from tests.vision_plugin import picture, write_vision_model

GREEDY = {"temperature": 0, "max_tokens": 8}
PARAM = "messages[0].content[0].image_url.url"


def encoded(pixels: Any, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def body(*urls: str, **fields: Any) -> dict[str, Any]:
    parts: list[Any] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    parts.append({"type": "text", "text": "What's in this image?"})
    return {"model": "m", "messages": [{"role": "user", "content": parts}], **GREEDY, **fields}


class Pictures:
    """A server of one picture. asked: paths of the requests."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.port = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        if request.path == "/moved":
            raise web.HTTPFound(f"http://127.0.0.1:{self.port}/a.png")
        return web.Response(body=encoded(picture(1)), content_type="image/png")


@pytest.fixture
async def pictures() -> AsyncIterator[Pictures]:
    served = Pictures()
    app = web.Application()
    app.router.add_get("/{name:.*}", served.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    served.port = runner.addresses[0][1]
    yield served
    await runner.cleanup()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vision_model(tmp_path_factory.mktemp("models") / "m")


@pytest.fixture(scope="module")
def engine(path: Path) -> Iterator[Engine]:
    with Engine.load(path, plugins=["tests.vision_plugin"], prefix_cache="0") as engine:
        yield engine


@pytest.fixture
async def client(engine: Engine) -> AsyncIterator[aiohttp.ClientSession]:
    server = await HttpServer.start(Models.of(engine, ()), Config(port=0, drain_seconds=0))
    async with aiohttp.ClientSession(server.url) as session:
        yield session
    await server.drain()


async def ask(client: aiohttp.ClientSession, sent: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    async with client.post("/v1/chat/completions", json=sent) as response:
        return response.status, await response.json()


async def test_pictures_in_messages(client: aiohttp.ClientSession, engine: Engine) -> None:
    url = data_url(encoded(picture(1)))
    status, reply = await ask(client, body(url))
    shown = [
        {"type": "image", "image": picture(1)},
        {"type": "text", "text": "What's in this image?"},
    ]
    alone = engine.chat([{"role": "user", "content": shown}], **GREEDY)
    assert (status, reply["choices"][0]["message"]["content"]) == (200, alone.text)
    assert reply["usage"]["prompt_tokens"] == alone.usage.prompt_tokens
    assert "warnings" not in reply
    async with client.post("/v1/chat/completions", json=body(url, stream=True)) as response:
        assert (await response.text()).count("data: {") > 2
    plain = {"type": "image", "image": url}
    sent = body()
    sent["messages"][0]["content"].insert(0, plain)
    assert (await ask(client, sent))[1]["choices"] == reply["choices"]
    turns = body(url, data_url(encoded(picture(2), "WEBP"), "image/webp"))
    turns["messages"] += [{"role": "assistant", "content": "Two."}, *body(url)["messages"]]
    assert (await ask(client, turns))[0] == 200


async def test_sixteen_at_once(client: aiohttp.ClientSession) -> None:
    asked = [body(data_url(encoded(picture(100 + n)))) for n in range(12)]
    asked += [body(max_tokens=20) for _ in range(4)]
    alone = [(await ask(client, each))[1]["choices"] for each in asked]
    together = await asyncio.gather(*(ask(client, each) for each in asked))
    assert [reply["choices"] for _, reply in together] == alone


async def test_a_hundred_pictures(client: aiohttp.ClientSession) -> None:
    urls = [data_url(encoded(picture(n))) for n in range(100)]
    status, reply = await ask(client, body(*urls))
    assert status == 200, reply
    _, fewer = await ask(client, body(*urls[1:]))
    assert reply["usage"]["prompt_tokens"] > fewer["usage"]["prompt_tokens"]


def header(width: int, height: int, bits: int = 1) -> bytes:
    """A PNG of one bit a pixel, all black."""
    rows = zlib.compress((b"\0" * ((width + 7) // 8 + 1)) * height, 9)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)), (b"IDAT", rows)]
    data = b"\x89PNG\r\n\x1a\n"
    for name, content in (*chunks, (b"IEND", b"")):
        crc = zlib.crc32(name + content)
        data += struct.pack(">I", len(content)) + name + content + struct.pack(">I", crc)
    return data


async def test_refused(client: aiohttp.ClientSession) -> None:  # LIMITS 88
    good = data_url(encoded(picture(1)))
    cases: list[tuple[dict[str, Any], str, str | None]] = [
        (body("https://example.com/image.jpg"), PARAM, None),  # LIMITS 78
        (body("file:///etc/passwd"), PARAM, None),  # 83
        (body("/etc/passwd"), PARAM, None),
        (body("ftp://example.com/a.png"), PARAM, None),
        (body("\\\\server\\share\\a.png"), PARAM, None),
        (body("data:text/html;base64,PGI+"), PARAM, None),
        (body("data:image/png;base64,@@@@"), PARAM, None),
        (body(data_url(header(9000, 9000))), PARAM, "image_too_large"),  # 84
        (body(data_url(encoded(picture(1))[:60])), PARAM, None),  # 85
        (body(data_url(header(0, 5))), PARAM, None),
        (body(data_url(b"GIF or not")), PARAM, None),  # 86
        (body(*[good] * 101), "messages", None),  # 88
        (
            body(*[data_url(header(7000, 7000))] * 3),
            "messages[0].content[2].image_url.url",
            "image_too_large",
        ),
    ]
    for sent, param, code in cases:
        status, reply = await ask(client, sent)
        assert status == 400, reply
        error = reply["error"]
        assert (error["param"], error["type"]) == (param, "invalid_request_error")
        assert code is None or error["code"] == code
        assert "0x" not in error["message"] and "/etc" not in error["message"]
    sent = body(good)
    sent["messages"][0]["role"] = "system"
    assert (await ask(client, sent))[1]["error"]["param"] == "messages[0].content"


async def test_equal_beginnings_are_not_equal_pictures(client: aiohttp.ClientSession) -> None:
    # LIMITS 87. A BMP file holds the upper rows last.
    one, other = picture(7, 200, 200), picture(7, 200, 200)
    one[:80], other[:80] = (255, 0, 0), (0, 0, 255)
    files = [encoded(pixels, "BMP") for pixels in (one, other)]
    assert files[0][:65_536] == files[1][:65_536]
    sent = [body(data_url(file, "image/bmp"), cache=True, max_tokens=12) for file in files]
    first, second = [(await ask(client, each))[1] for each in sent]
    assert not second.get("cached")
    assert first["choices"] != second["choices"]


async def test_remote_pictures_of_named_hosts(path: Path, pictures: Pictures) -> None:
    host = f"127.0.0.1:{pictures.port}"
    with Engine.load(path, plugins=["tests.vision_plugin"], image_host=[host]) as engine:
        server = await HttpServer.start(Models.of(engine, ()), Config(port=0, drain_seconds=0))
        async with aiohttp.ClientSession(server.url) as client:
            status, reply = await ask(client, body(f"http://{host}/image.jpg"))
            inline = await ask(client, body(data_url(encoded(picture(1)))))
            assert (status, reply["choices"]) == (200, inline[1]["choices"])
            assert pictures.asked == ["/image.jpg"]
            refused = [f"http://localhost:{pictures.port}/", f"http://2130706433:{pictures.port}/"]
            for url in [*refused, f"http://{host}/moved", f"http://[::ffff:{host[:-6]}]/"]:
                status, reply = await ask(client, body(url))
                assert (status, reply["error"]["param"]) == (400, PARAM)
            assert pictures.asked == ["/image.jpg", "/moved"]
        await server.drain()
