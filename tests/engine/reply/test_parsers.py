"""Parsers of a model: what is said, and refused, where its format of calls is not known."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from budmlx.config import Config
from budmlx.engine.reply.parsers import Parsers
from budmlx.engine.request.grammars import can_be_strict, grammar_of
from budmlx.engine.request.python_api import chat_request
from budmlx.engine.text.tokenizer import Tokenizer
from budmlx.errors import InvalidRequestError
from budmlx.plugins.manager import Plugins
from tests.tokenizers import byte_level, write_model_files

TOOLS = [{"type": "function", "function": {"name": "f"}}]
MESSAGES = [{"role": "user", "content": "hi"}]
UNKNOWN = "{% for t in tools %}[[call {{ t }}]]{% endfor %}"
KNOWN = UNKNOWN + "<tool_call>"


def parsers(template: str, tool_parser: str = "auto") -> Parsers:
    tokenizer = Tokenizer(
        byte_level(("<s>", "</s>"), ()), special_tokens={}, chat_templates={"default": template}
    )
    config = Config(tool_parser=tool_parser)
    return Parsers.of(Plugins.load(config), tokenizer, "any", config)


def test_an_unknown_format_is_said_and_not_forced(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "budmlx"):
        found = parsers(UNKNOWN)
    assert "tool_parser" in caplog.text
    assert found.calls is not None and found.calls.value.guessed and not can_be_strict(found)
    named = {"type": "function", "function": {"name": "f"}}
    for choice in ("required", named):
        request = chat_request(MESSAGES, {"tools": TOOLS, "tool_choice": choice})
        with pytest.raises(InvalidRequestError, match="tool_parser") as refused:
            grammar_of(request, found, "")
        assert refused.value.param == "tool_choice"
    assert grammar_of(chat_request(MESSAGES, {"tools": TOOLS}), found, "") is None


@pytest.mark.parametrize(("template", "name"), [(KNOWN, "auto"), (UNKNOWN, "hermes")])
def test_a_known_format_is_forced(
    template: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "budmlx"):
        found = parsers(template, name)
    assert not caplog.text
    request = chat_request(MESSAGES, {"tools": TOOLS, "tool_choice": "required"})
    assert grammar_of(request, found, "") is not None


def test_the_format_that_the_files_name_goes_before_the_guess(tmp_path: Path) -> None:
    backend = byte_level(("<s>", "</s>"), ())
    for declared, name, guessed in (("glm47", "glm", False), ("of_tomorrow", "hermes", True)):
        files = {"chat_template": UNKNOWN, "tool_parser_type": declared}
        tokenizer = Tokenizer.load(write_model_files(tmp_path, backend, **files))
        config = Config()
        found = Parsers.of(Plugins.load(config), tokenizer, "any", config).calls
        assert found is not None
        assert (found.value.name, found.value.guessed) == (name, guessed)
