"""Drafts of what a real model writes: the same tokens, and how many of them come true."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from budmlx import Engine

FILE = '''def total(prices, rate):
    """The sum of prices, with taxes."""
    found = 0
    for price in prices:
        found = found + price * (1 + rate)
    return found
'''
QUESTIONS = {
    "edit": f"Rewrite this file with `found` renamed to `result`.\n\n```python\n{FILE}```",
    "code": "Write a Python class Stack with push, pop, peek and size, each with a docstring.",
    "prose": "Tell me a short story about a lighthouse keeper and the sea.",
}


@pytest.fixture(scope="module")
def drafting(directory: Path) -> Iterator[Engine]:
    with Engine.load(directory, speculation=4) as engine:
        yield engine


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_replies_are_the_same_with_drafts(drafting: Engine, temperature: float) -> None:
    options: dict[str, Any] = {"temperature": temperature, "seed": 3, "max_tokens": 80}
    together = {"progress": False, **options}
    without = drafting.chat_many(list(QUESTIONS.values()), speculation=False, **together)
    replies = drafting.chat_many(list(QUESTIONS.values()), cache_salt="others", **together)
    for name, reply, want in zip(QUESTIONS, replies, without, strict=True):
        used = reply.usage
        print(name, f"{used.accepted_tokens} of {used.drafted_tokens} drafted tokens came true")
        assert reply.text == want.text
        assert used.completion_tokens == want.usage.completion_tokens
    assert replies[0].usage.accepted_tokens > 0
