"""Header lines that change with every request do not reach the prompt, if that is wanted."""

from __future__ import annotations

import pytest

from budmlx import Engine
from budmlx.builtin.stable_prompts import strip_headers
from budmlx.testing import check_message_transform
from budmlx.types import Message, TextPart
from tests.models import tiny_model_dir

LINE = "x-anthropic-billing-header: cc_version=2.1.177.01c; cc_entrypoint=cli; cch={};\n"
RULES = "You are a coding agent. Follow the rules of this house, whatever they are. " * 4


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (LINE.format("a") + "You are", "You are"),
        (LINE.format("a") * 2 + "\nYou are", "You are"),
        (LINE.format("a").rstrip(), ""),
        ("You are\n" + LINE.format("a"), "You are\n" + LINE.format("a")),
        ("The header x-anthropic-billing-header: a", "The header x-anthropic-billing-header: a"),
        ("", ""),
    ],
)
def test_lines_at_the_head_go(before: str, after: str) -> None:
    [system] = strip_headers((Message(role="system", content=before),))
    assert system.content == after
    [user] = strip_headers((Message(role="user", content=before),))
    assert user.content == before
    [parts] = strip_headers((Message(role="system", content=(TextPart(before), TextPart("b"))),))
    assert parts.text == after + "b"


def test_it_keeps_the_contract() -> None:
    check_message_transform(strip_headers)


def test_it_is_off_unless_named_and_makes_prompts_reusable() -> None:
    def asked(number: int) -> list[dict[str, str]]:
        system = LINE.format(f"{number:05x}") + RULES
        return [{"role": "system", "content": system}, {"role": "user", "content": "Hello"}]

    path = tiny_model_dir(scale=4.0)
    short = {"max_tokens": 2, "temperature": 0}
    with Engine.load(path) as engine:
        engine.chat(asked(1), **short)
        assert engine.chat(asked(2), **short).usage.cached_tokens < 100
    with Engine.load(path, plugins=["stable-prompts"]) as engine:
        first = engine.chat(asked(1), **short).usage
        assert engine.chat(asked(2), **short).usage.cached_tokens == first.prompt_tokens - 1
