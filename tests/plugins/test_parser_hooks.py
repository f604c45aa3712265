"""Parsers of plugins: asked before those that ship, and used for every reply."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from budmlx import Engine, hookimpl
from budmlx.errors import ConfigError
from budmlx.plugins.parsing import (
    Call,
    Content,
    ModelTraits,
    Piece,
    ReasoningParserSpec,
    Thought,
    Tool,
    ToolParserSpec,
)
from tests.models import tiny_model_dir

TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}{% if tools %}{% endif %}<spy>"
WEATHER = {"name": "get_weather", "parameters": {}}


class ThinksFirst:
    """The first character is reasoning."""

    def __init__(self, prompt: str):
        self._seen = 0
        assert prompt.endswith("<spy>")

    def push(self, text: str, last: bool) -> Sequence[Piece]:
        start, self._seen = self._seen, self._seen + len(text)
        if start or not text:
            return [Content(text, start)] if text else []
        rest = [Content(text[1:], 1)] if text[1:] else []
        return [Thought(text[0], 0), *rest]


class CallsLast:
    """All that was written is the argument of one call."""

    def __init__(self, tools: Sequence[Tool], in_pieces: bool):
        self._name = tools[0].name
        self._text = ""

    def push(self, text: str, last: bool) -> Sequence[Piece]:
        self._text += text
        return [Call(self._name, json.dumps({"text": self._text}))] if last else []


class Spy:
    def __init__(self) -> None:
        self.asked: list[tuple[str, ModelTraits]] = []

    @hookimpl
    def provide_tool_parser(self, name: str, model: ModelTraits) -> ToolParserSpec | None:
        self.asked.append((name, model))
        return ToolParserSpec("spy", CallsLast) if name in ("auto", "spy") else None

    @hookimpl
    def provide_reasoning_parser(self, name: str, model: ModelTraits) -> ReasoningParserSpec | None:
        return ReasoningParserSpec("spy", ThinksFirst) if "<spy>" in model.template else None


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    shutil.copytree(tiny_model_dir(scale=4.0), path)
    file = path / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "chat_template": TEMPLATE}))
    return path


def test_a_plugins_parsers_come_before_those_that_ship(model: Path) -> None:
    spy = Spy()
    with Engine.load(model, plugins=[spy], engine_host="thread") as engine:
        ask = partial(engine.chat, "Hello", temperature=0, max_tokens=12)
        plain = ask(reasoning="raw")
        parsed = ask(tools=[WEATHER])
    ((name, traits),) = spy.asked
    assert name == "auto" and traits.template == TEMPLATE and traits.model_type == "llama"
    assert "<|im_end|>" in traits.tokens
    (call,) = parsed.tool_calls
    assert call.name == "get_weather"
    assert parsed.reasoning + json.loads(call.arguments)["text"] == plain.text
    assert len(parsed.reasoning) == 1 and parsed.text == ""


def test_a_parser_that_nobody_knows_is_refused(model: Path) -> None:
    with pytest.raises(ConfigError, match="tool_parser: no plugin knows 'nope'"):
        Engine.load(model, tool_parser="nope")
    with pytest.raises(ConfigError, match="reasoning_parser: no plugin knows 'nope'"):
        Engine.load(model, reasoning_parser="nope")
