"""Gemma's calls: call:name{key:value}, with strings between tokens of their own."""

from __future__ import annotations

import re
from collections.abc import Callable

from budmlx.builtin.reader import Broken, Reader, Steps
from budmlx.builtin.tool_parsers.family import Family
from budmlx.builtin.tool_parsers.literals import Notation, Tokens, notation
from budmlx.builtin.tool_parsers.scanner import Calls, Form


def _notation(quote: str) -> Notation:
    """Strings as `<quote>text<quote>`, and as JSON has them."""
    mark = re.escape(quote)
    strings = rf'{mark}(?:(?!{mark}).)*{mark}|"(?:[^"\\]++|\\.)*"'
    return notation(strings, lambda token: token[len(quote) : -len(quote)])


def _reading(end: str, quote: str) -> Callable[[Reader, Calls, str], Steps[None]]:
    values = _notation(quote)

    def read(reader: Reader, calls: Calls, opener: str) -> Steps[None]:
        yield from reader.one_of("call:")
        text = yield from reader.until(end)
        tokens = Tokens(text, values)
        name = tokens.word()
        tokens.expect("{")
        arguments = tokens.members(":", "}")
        if not tokens.ended:
            raise Broken
        calls.whole(name, arguments)

    return read


GEMMA4 = Family(
    "gemma4",
    Form(("<|tool_call>",), _reading("<tool_call|>", '<|"|>')),
    signs=("<tool_call|>",),
    visible=("<tool_call|>", '<|"|>'),
)
FUNCTION_GEMMA = Family(
    "function-gemma",
    Form(("<start_function_call>",), _reading("<end_function_call>", "<escape>")),
    signs=("<start_function_call>",),
    visible=("<end_function_call>", "<escape>"),
)
