"""The guardrail of `examples/`: a reply ends with `content_filter`, over HTTP."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType

import pytest

from budmlx import Engine
from budmlx.config import Config
from budmlx.engine.models.models import Models
from budmlx.server.app import HttpServer
from budmlx.testing import check_output_filter
from budmlx.types import Request, SamplingParams
from tests.models import tiny_model_dir
from tests.server.tools import CHAT, body, events, exchange, post

LOGPROBS = Request(prompt="x", sampling=SamplingParams(logprobs=0))
EXAMPLE = Path(__file__).parents[2] / "examples" / "guardrail"


@pytest.fixture
def guardrail(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(EXAMPLE)
    return importlib.import_module("budmlx_guardrail")


@pytest.fixture
def whole(engine: Engine) -> str:
    """What the model says when nothing interferes."""
    return engine.chat("Hello", temperature=0, max_tokens=40).text


@pytest.fixture
def word(whole: str) -> str:
    """A word within it."""
    return re.findall(r"\w+", whole)[2]


@pytest.fixture
async def guarded(guardrail: ModuleType, word: str) -> AsyncIterator[HttpServer]:
    rail = guardrail.Guardrail([word.upper()])
    with Engine.load(tiny_model_dir(scale=2.0), plugins=[rail]) as engine:
        server = await HttpServer.start(Models.of(engine, ("demo",)), Config(port=0))
        yield server
        await server.drain()


async def test_a_reply_ends_before_the_word(guarded: HttpServer, whole: str, word: str) -> None:
    raw = post(json.dumps(body(max_tokens=40, n=2)).encode())
    reply = (await exchange(guarded, raw)).json
    before = re.split(rf"\b{word}\b", whole)[0]
    for choice in reply["choices"]:
        assert choice["finish_reason"] == "content_filter"
        assert choice["message"]["content"] == before


async def test_a_stream_does_not_tell_it_either(guarded: HttpServer, whole: str, word: str) -> None:
    raw = post(json.dumps(body(max_tokens=40, stream=True)).encode(), CHAT)
    *chunks, done = events((await exchange(guarded, raw)).content)
    assert done == "[DONE]"
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text == re.split(rf"\b{word}\b", whole)[0]
    assert chunks[-1]["choices"][0]["finish_reason"] == "content_filter"


def test_the_filter_keeps_the_contract(guardrail: ModuleType) -> None:
    for words in (["wide"], ["world"], ["hello"], ["WORLD", "x"], ["hell"], []):
        (factory,) = guardrail.Guardrail(words).add_output_filters()
        check_output_filter(factory)
        result = factory().push("Hello, wide world!", True)
        assert isinstance(result, str) is (words in (["hell"], []))


def test_the_list_is_read_from_a_file(guardrail: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("# a comment\n\n  one \nzwei\n", "utf-8")
    assert guardrail.read_words(path) == ["one", "zwei"]
    with Engine.load(tiny_model_dir(scale=2.0), plugins=["budmlx_guardrail:plugin"]) as engine:
        assert any("output filter" in text for text in engine.warnings(LOGPROBS))
