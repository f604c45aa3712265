"""The ASCII sketch of `examples/`: a text model is shown pictures, over HTTP."""

from __future__ import annotations

import base64
import importlib
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from budmlx import Engine
from budmlx.config import Config
from budmlx.engine.models.models import Models
from budmlx.plugins.vision import ModelFiles
from budmlx.server.app import HttpServer
from budmlx.testing import check_vision_preprocessor
from tests.models import tiny_model_dir
from tests.server.tools import body, exchange, post

EXAMPLE = Path(__file__).parents[2] / "examples" / "ascii-sketch"
# Black on the left, white on the right.
HALVES = np.repeat(np.array([0, 255], np.uint8), 48)[None, :, None].repeat(64, 0).repeat(3, 2)


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(EXAMPLE)
    return importlib.import_module("budmlx_ascii_sketch")


@pytest.fixture
async def server(plugin: ModuleType) -> AsyncIterator[HttpServer]:
    with Engine.load(tiny_model_dir(scale=2.0), plugins=[plugin.__name__]) as engine:
        server = await HttpServer.start(Models.of(engine, ("demo",)), Config(port=0))
        yield server
        await server.drain()


def shows(**image: Any) -> list[dict[str, Any]]:
    file = io.BytesIO()
    Image.fromarray(HALVES).save(file, "PNG")
    url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    return [
        {"type": "text", "text": "Look:\n"},
        {"type": "image_url", "image_url": {"url": url, **image}},
    ]


async def answer(server: HttpServer, content: Any) -> tuple[str, int]:
    """What the model says, and how long the prompt was."""
    reply = (await exchange(server, post(json.dumps(body(content)).encode()))).json
    return reply["choices"][0]["message"]["content"], reply["usage"]["prompt_tokens"]


async def test_the_model_reads_the_sketch_as_text(server: HttpServer, plugin: ModuleType) -> None:
    for detail, columns, lines in (("low", 24, 8), ("auto", 48, 16), ("high", 96, 32)):
        row = "@" * (columns // 2) + " " * (columns // 2)
        sketch = "\n".join([row] * lines)
        assert plugin.sketch(HALVES, columns) == sketch
        seen = await answer(server, shows(detail=detail))
        assert seen == await answer(server, f"Look:\n```\n{sketch}\n```\n")


def test_the_preprocessor_keeps_the_contract(plugin: ModuleType) -> None:
    llava = ModelFiles("", {"model_type": "llava", "vision_config": {}})
    assert plugin.provide_vision_preprocessor("auto", llava) is None
    assert plugin.provide_vision_preprocessor("other", ModelFiles("", {})) is None
    for name, files in (("auto", ModelFiles("", {})), ("ascii-sketch", llava)):
        check_vision_preprocessor(plugin.provide_vision_preprocessor(name, files))
