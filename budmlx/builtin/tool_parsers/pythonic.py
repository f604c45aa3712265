"""Families that write calls as Python does: [name(key="value"), ...]."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from budmlx.builtin.reader import Broken, Reader, Steps
from budmlx.builtin.tool_parsers.family import Family
from budmlx.builtin.tool_parsers.json_text import MAX_DEPTH
from budmlx.builtin.tool_parsers.literals import PYTHON, Tokens
from budmlx.builtin.tool_parsers.named import NAME
from budmlx.builtin.tool_parsers.scanner import Calls, Form
from budmlx.builtin.tool_parsers.schema import Schema, part, properties, required
from budmlx.plugins.parsing import CallGrammar, CallSyntax, Tool

_PLAIN = re.compile(r"[^\"'\[\]]*+")
_QUOTED = {quote: re.compile(rf"(?:[^\\{quote}]++|\\[\s\S])*") for quote in "\"'"}


def _read_list(reader: Reader, calls: Calls, opener: str) -> Steps[None]:
    """Read a list of calls; its bracket was read if it is the opener."""
    if opener != "[":
        yield from reader.one_of("[")
    yield from reader.space()
    first = yield from reader.run(NAME)
    if not first or (yield from reader.peek()) != "(":
        raise Broken
    text = first + (yield from _rest_of_list(reader))
    found = list(_calls(text))
    for name, _ in found:
        calls.check(name)
    for name, arguments in found:
        calls.whole(name, arguments)


def _read_marked(reader: Reader, calls: Calls, opener: str) -> Steps[None]:
    yield from _read_list(reader, calls, opener)
    yield from reader.ending("<|tool_call_end|>")


def _rest_of_list(reader: Reader) -> Steps[str]:
    """Read up to the bracket that closes a list, without heed to brackets in strings."""
    parts, depth = [], 1
    while depth:
        parts.append((yield from reader.run(_PLAIN)))
        sign = yield from reader.maybe("[", "]", *_QUOTED)
        if not sign or depth > MAX_DEPTH:
            raise Broken
        parts.append(sign)
        depth += {"[": 1, "]": -1}.get(sign, 0)
        if sign in _QUOTED:
            quote = sign + (yield from _more_quotes(reader, sign))
            parts.append(quote[1:])
            if len(quote) != 2:
                parts.append((yield from _rest_of_string(reader, quote)))
    return "".join(parts)


def _more_quotes(reader: Reader, quote: str) -> Steps[str]:
    """Read what follows the quote of an empty string, or of one in triple quotes."""
    if (yield from reader.peek()) != quote:
        return ""
    reader.at += 1
    if (yield from reader.peek()) != quote:
        return quote
    reader.at += 1
    return quote * 2


def _rest_of_string(reader: Reader, quote: str) -> Steps[str]:
    parts = []
    while True:
        match = _QUOTED[quote[0]].match(reader.buffer, reader.at)
        assert match is not None
        parts.append(match[0])
        reader.at = match.end()
        if (yield from reader.maybe(quote)):
            return "".join(parts) + quote
        # In triple quotes fewer of them are text; before a backslash the text goes on.
        if reader.buffer.startswith(quote[0], reader.at):
            parts.append(quote[0])
            reader.at += 1
        elif reader.last and reader.buffer[reader.at :] in ("", "\\"):
            raise Broken
        elif reader.buffer[reader.at :] == "\\":
            yield


def _calls(text: str) -> Iterator[tuple[str, str]]:
    """The calls of a list without its first bracket: names, and arguments as JSON."""
    tokens = Tokens(text, PYTHON)
    while True:
        name = tokens.word()
        tokens.expect("(")
        yield name, tokens.members("=", ")")
        if tokens.expect(",", "]") == "]":
            break
    if not tokens.ended:
        raise Broken


def _call(tool: Tool) -> CallGrammar:
    return CallGrammar(f"{tool.name}(", _arguments(tool.parameters), ")")


def _arguments(schema: Schema) -> str:
    """The required arguments, then the others, each in the order of the schema."""
    first: list[str] = []
    rest: list[str] = []
    for key, inner in properties(schema).items():
        written = f"{json.dumps(f'{key}=')} %json {json.dumps(part(inner, schema))}"
        (first if key in required(schema) else rest).append(written)
    more = [f'(", " {written})?' for written in rest]
    if first:
        return " ".join([' ", " '.join(first), *more])
    starts = [" ".join([written, *more[n + 1 :]]) for n, written in enumerate(rest)]
    return f"({' | '.join(starts)})?" if starts else '""'


def _syntax(opener: str, closer: str) -> CallSyntax:
    return CallSyntax(opener, _call, open=f"{opener}[", separator=", ", close=f"]{closer}")


PYTHONIC = Family(
    "pythonic",
    Form(("<|python_start|>", "<|python_tag|>"), _read_list, ("<|python_end|>",), bare="["),
    signs=("[func_name1(",),
    # Nothing tells the beginning of a call from that of any other list.
    syntax=lambda model: _syntax("", ""),
)
LFM2 = Family(
    "lfm2",
    Form(("<|tool_call_start|>",), _read_marked),
    signs=("<|tool_call_start|>", "<|tool_list_start|>"),
    syntax=lambda model: _syntax("<|tool_call_start|>", "<|tool_call_end|>"),
    visible=("<|tool_call_end|>",),
)
