"""Breakpoints of a request: what they keep, in models of both kinds of caches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from budmlx import Engine
from budmlx.engine.request.places import farthest
from budmlx.types import Breakpoint, Message, Request, SamplingParams, TextPart
from tests.core.architectures import ARCHITECTURES
from tests.models import tiny_model_dir

WORDS = "the quick brown fox jumps over the lazy dog "
SAMPLING = SamplingParams(temperature=0.0, max_tokens=2)


def chat(*parts: str, marks: tuple[Breakpoint, ...] = (), question: str = "?") -> Request:
    content = tuple(TextPart(part) for part in (*parts, question))
    messages = (
        Message(role="system", content=WORDS * 12),
        Message(role="user", content=content),
    )
    return Request(messages=messages, sampling=SAMPLING, breakpoints=marks)


def cached(engine: Engine, request: Request) -> int:
    *_, last = engine.events(request)
    return int(last.usage.cached_tokens)  # type: ignore[union-attr]


def test_those_that_a_later_one_keeps_as_long_are_left_out() -> None:
    short, long, part = Breakpoint(1), Breakpoint(1, seconds=3600), Breakpoint(3, parts=1)
    end = Breakpoint(3)
    assert farthest([short, part, end]) == (end,)
    assert farthest([end, long]) == (long, end)
    assert farthest([short, part]) == (part,)


def test_a_state_is_kept_at_the_end_of_a_marked_block() -> None:
    with Engine.load(tiny_model_dir(ARCHITECTURES["mamba"])) as engine:
        for marks in ((), (Breakpoint(2, parts=1),)):
            first = chat(WORDS * 20, marks=marks, question=f"What {len(marks)}?")
            first = replace(first, cache_salt=str(len(marks)))
            assert cached(engine, first) == 0
            other = replace(first, messages=chat(WORDS * 20, question="Why not?").messages)
            reused = cached(engine, other)
            beginning = engine.count_tokens(chat(WORDS * 20, question=""))
            if marks:
                assert beginning - 12 < reused < beginning
            else:
                assert reused < beginning * 2 // 3


@pytest.mark.parametrize(("name", "size"), [("llama", "400KiB"), ("mamba", "600KiB")])
def test_what_is_marked_outlives_what_is_not(name: str, size: str) -> None:
    settings: dict[str, Any] = {"prefix_cache": size}
    with Engine.load(tiny_model_dir(ARCHITECTURES[name]), **settings) as engine:
        kept, lost = (replace(chat("One"), cache_salt=salt) for salt in ("kept", "lost"))
        marked = replace(kept, breakpoints=(Breakpoint(1),))
        assert cached(engine, marked) == cached(engine, lost) == 0
        assert cached(engine, kept) > 40 and cached(engine, lost) > 40
        for number in range(30):
            cached(engine, chat(f"{number} {WORDS * 20}"))
        assert cached(engine, kept) > 40
        assert cached(engine, lost) == 0
