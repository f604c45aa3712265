"""What Ollama's clients send gets what they accept; captured from the clients that are named."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from budmlx import Engine
from budmlx.config import Config
from budmlx.engine.models.models import Models
from budmlx.server.app import HttpServer
from tests.models import tiny_model_dir

FOLDER = Path(__file__).parent / "captured"
REPLIES = json.loads((FOLDER / "reply-ollama.json").read_text("utf-8"))
CAPTURED = [
    (f"{file.stem}-{number}", request)
    for file in sorted(FOLDER.glob("ollama-*.json"))
    for number, request in enumerate(json.loads(file.read_text("utf-8"))["requests"])
]
REFUSED = {
    # A suffix needs a model with tokens for it, and pictures one that sees.
    "ollama-01-python-4": (400, "cannot be shown in raw text"),
    "ollama-02-langchain-litellm-llamaindex-6": (400, "takes text only"),
    # There is nothing to delete.
    "ollama-01-python-13": (404, "there is no model"),
}
ELSEWHERE = ("/api/copy", "/api/create")
SHAPES = {
    "/api/tags": REPLIES["tags"],
    "/api/show": REPLIES["show"],
    "/api/ps": REPLIES["ps"],
    "/api/version": REPLIES["version"],
    "/api/embed": REPLIES["embed"],
    "/api/embeddings": REPLIES["embeddings"],
    "/api/pull": REPLIES["pull_stream"][-1],
}
LAST = {
    "/api/chat": REPLIES["chat_stream"][-1],
    "/api/generate": {k: v for k, v in REPLIES["generate_stream"][-1].items() if k != "context"},
}


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.load(tiny_model_dir(scale=2.0), embed_any=True) as engine:
        yield engine


@pytest.fixture
async def client(engine: Engine) -> AsyncIterator[aiohttp.ClientSession]:
    models = Models.of(engine, ("fake",), any_name=True)
    server = await HttpServer.start(models, Config(port=0, drain_seconds=0))
    async with aiohttp.ClientSession(server.url) as client:
        yield client
    await server.drain()


def check(value: Any, shape: Any, place: str = "") -> None:
    """Assert that a value has the fields and types of another one."""
    if isinstance(shape, dict):
        assert isinstance(value, dict), place
        # Names of these begin with the architecture.
        keys = [key for key in shape if not key.startswith("qwen3.")]
        assert set(keys) <= value.keys(), place
        for key in keys:
            check(value[key], shape[key], f"{place}.{key}")
    elif isinstance(shape, list):
        assert isinstance(value, list), place
        for each in value:
            check(each, shape[0], f"{place}[]")
    else:
        assert type(value) is type(shape), (place, value)


def check_lines(path: str, body: dict[str, Any], text: str) -> None:
    lines = [json.loads(line) for line in text.splitlines()]
    *pieces, last = lines
    if not body.get("messages") and not body.get("prompt"):
        assert not pieces and last["done_reason"] in ("load", "unload")
        shape = dict(REPLIES["load"])
        if path == "/api/chat":
            del shape["response"]
            shape["message"] = REPLIES["keep_alive"]["message"]
        check(last, shape)
        return
    streams = body.get("stream", True)
    assert streams or not pieces
    check(last, LAST[path])
    first = REPLIES["keep_alive" if path == "/api/chat" else "generate_stream"]
    for piece in pieces:
        check(piece, first if path == "/api/chat" else first[0])
        assert not piece["done"]
    assert {line["model"] for line in lines} == {body["model"]}


@pytest.mark.parametrize(("name", "sent"), CAPTURED, ids=[name for name, _ in CAPTURED])
async def test_a_captured_request(
    client: aiohttp.ClientSession, name: str, sent: dict[str, Any]
) -> None:
    path, body = sent["path"], sent["body"]
    if path == "/v1/models":
        return
    if isinstance(body, dict) and path in LAST:
        body.setdefault("options", {}).setdefault("num_predict", 5)
    headers = {"Content-Type": sent["headers"].get("content-type", "text/plain")}
    data = None if body is None else json.dumps(body)
    async with client.request(sent["method"], path, data=data, headers=headers) as response:
        text = await response.text()
    if name in REFUSED:
        status, words = REFUSED[name]
        assert response.status == status and words in json.loads(text)["error"].lower()
    elif path in ELSEWHERE:
        assert response.status == 501
        check(json.loads(text), REPLIES["error"]["body"])
    elif path in LAST:
        assert response.status == 200, text
        check_lines(path, body, text)
    else:
        assert response.status == 200, text
        for line in text.splitlines():
            check(json.loads(line), SHAPES[path])


def test_all_of_them_are_there() -> None:
    assert len(CAPTURED) == 16 + 20 + 4
