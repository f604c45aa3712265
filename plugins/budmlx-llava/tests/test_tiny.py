"""The tiny model that ships answers about shapes, over HTTP, alone and amid others."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import budmlx_llava
import pytest
from aiohttp import web
from PIL import Image, ImageDraw

from budmlx import Engine
from budmlx.config import Config
from budmlx.engine.models.models import Models
from budmlx.server.app import HttpServer

TINY = Path(budmlx_llava.__file__).parent / "assets" / "tiny"
SIZE = 96
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
SHAPES = ("circle", "square", "triangle")


def draw(*things: tuple[str, str]) -> bytes:
    """A PNG with these coloured shapes from left to right."""
    image = Image.new("RGB", (SIZE, SIZE), "white")
    pen = ImageDraw.Draw(image)
    width = SIZE // len(things)
    radius = min(width, SIZE) * 0.36
    for number, (colour, shape) in enumerate(things):
        x, y = (number + 0.5) * width, SIZE / 2
        box = (x - radius, y - radius, x + radius, y + radius)
        if shape == "circle":
            pen.ellipse(box, fill=colour)
        elif shape == "square":
            pen.rectangle(box, fill=colour)
        else:
            corners = [(x, box[1]), (box[0], box[3]), (box[2], box[3])]
            pen.polygon(corners, fill=colour)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def asked(url: str, question: str = "What's in this image?", **fields: Any) -> dict[str, Any]:
    """The documentation's request, with another address of the picture."""
    content = [
        {"type": "text", "text": question},
        {"type": "image_url", "image_url": {"url": url}},
    ]
    messages = [{"role": "user", "content": content}]
    return {"model": "gpt-4-vision", "messages": messages, "temperature": 0, **fields}


def data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


@pytest.fixture
async def pictures() -> AsyncIterator[str]:
    """host:port of a server of one picture."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=draw(("red", "circle")), content_type="image/png")

    app = web.Application()
    app.router.add_get("/image.png", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.fixture
async def client(pictures: str) -> AsyncIterator[aiohttp.ClientSession]:
    with Engine.load(TINY, image_host=[pictures]) as engine:
        models = Models.of(engine, (), any_name=True)
        server = await HttpServer.start(models, Config(port=0, drain_seconds=0))
        async with aiohttp.ClientSession(server.url) as session:
            yield session
        await server.drain()


async def ask(client: aiohttp.ClientSession, sent: dict[str, Any]) -> str:
    async with client.post("/v1/chat/completions", json=sent) as response:
        reply = await response.json()
    assert response.status == 200, reply
    text: str = reply["choices"][0]["message"]["content"]
    return text


async def test_the_documented_question(client: aiohttp.ClientSession, pictures: str) -> None:
    inline = await ask(client, asked(data_url(draw(("red", "circle")))))
    fetched = await ask(client, asked(f"http://{pictures}/image.png"))
    assert inline == fetched == "A red circle."
    two = draw(("blue", "square"), ("green", "triangle"))
    assert await ask(client, asked(data_url(two))) == "A blue square and a green triangle."
    many = draw(*[("red", "circle")] * 3)
    assert "3" in await ask(client, asked(data_url(many), "How many shapes are there?"))
    assert await ask(client, asked(data_url(two), "What colour is the square?")) == (
        "The square is blue."
    )


async def test_sixteen_pictures_at_once(client: aiohttp.ClientSession) -> None:
    kinds = [(colour, shape) for shape in SHAPES for colour in COLOURS][:16]
    sent = [asked(data_url(draw(kind))) for kind in kinds]
    together = await asyncio.gather(*(ask(client, each) for each in sent))
    alone = [await ask(client, each) for each in sent]
    assert together == alone
    named = [
        f"{'An' if colour[0] in 'aeiou' else 'A'} {colour} {shape}." for colour, shape in kinds
    ]
    assert together == named


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.load(TINY) as engine:
        yield engine


def test_it_still_chats(engine: Engine) -> None:
    assert "Paris" in engine.chat("What is the capital of France?", temperature=0).text


def test_a_conversation_about_a_picture(engine: Engine) -> None:
    image = {"type": "image", "image": draw(("red", "circle"), ("blue", "square"))}
    first = {"role": "user", "content": [image, {"type": "text", "text": "What do you see?"}]}
    reply = engine.chat([first], temperature=0)
    assert reply.text == "A red circle and a blue square."
    turns = [
        first,
        {"role": "assistant", "content": reply.text},
        {"role": "user", "content": "What colour is the circle?"},
    ]
    again = engine.chat(turns, temperature=0)
    assert again.text == "The circle is red."
    assert again.usage.cached_tokens >= reply.usage.prompt_tokens - 1
