"""Incremental reading of JSON: values, arguments and call objects while they are generated."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NoReturn

from budmlx.builtin.reader import SPACE, Broken, Reader, Steps
from budmlx.builtin.tool_parsers.scanner import Calls

MAX_DEPTH = 64
"""Lists and objects inside each other; what is deeper is no call."""

NAMES = ("name", "tool_name", "function")
ARGUMENTS = ("arguments", "parameters")
IDS = ("id", "tool_call_id")
IGNORED = ("type", "index")

_STRING = re.compile(r'(?:[^"\\\x00-\x1f]++|\\.)*')
_SIMPLE = re.compile(r'([^"\\\x00-\x1f]*+)"')  # the rest of a string without escapes
_ATOM = re.compile(r"[-+.\w]*+")
# Runs of numbers, separators and strings. Exact syntax is checked when a value is complete.
_MEMBERS = re.compile(r'(?:[\s\w,:.+-]++|"(?:[^"\\\x00-\x1f]++|\\.)*"\s*+[,:])*')
_CLOSERS = {"{": "}", "[": "]"}

Give = Callable[[str], object]


def parse(text: str) -> Any:
    """The value of a text.

    Raises:
        Broken: the text is not JSON.
    """
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise Broken from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def value(reader: Reader, give: Give) -> Steps[None]:
    """Read a value and hand its text to `give` as it comes.

    Raises:
        Broken: brackets, quotes or characters are wrong. Other mistakes go unnoticed.
    """
    yield from reader.space()
    first = yield from reader.peek()
    if first and first in '"{[':
        yield from _nested(reader, give)
    else:
        text = yield from reader.run(_ATOM)
        if not text:
            raise Broken
        give(text)


def _nested(reader: Reader, give: Give, quoted: bool = False) -> Steps[None]:
    """Read a string, a list or an object; the rest of a string if its first quote was read."""
    nesting = _Nesting(quoted)
    while True:
        buffer, start = reader.buffer, reader.at
        reader.at = nesting.follow(buffer, start)
        give(buffer[start : reader.at])
        if nesting.done:
            return
        if nesting.broken or reader.last:
            raise Broken
        yield


class _Nesting:
    """Follows quotes and brackets to the end of a value."""

    def __init__(self, quoted: bool) -> None:
        self.done = self.broken = False
        self._closers: list[str] = []
        self._quoted = quoted
        self._after = False  # a value has ended, a separator or a bracket must follow

    def follow(self, text: str, at: int) -> int:
        """Go on from `at`; returns how far it came: to the end, a mistake or a place to wait."""
        while at < len(text) and not (self.done or self.broken):
            match = self._pattern().match(text, at)
            assert match is not None
            at = match.end()
            if at == len(text) or (self._quoted and text[at] == "\\" and at + 1 == len(text)):
                break
            self._take(text[at])
            at += not self.broken
        return at

    def _pattern(self) -> re.Pattern[str]:
        if self._quoted:
            return _STRING
        return _MEMBERS if self._closers and not self._after else SPACE

    def _take(self, char: str) -> None:
        if self._quoted:
            self.broken = char != '"'
            self._quoted = False
            self._end_value()
        elif char in "}]" and self._closers and self._closers[-1] == char:
            self._closers.pop()
            self._end_value()
        elif self._after:
            self.broken = char not in ",:"
            self._after = False
        elif char == '"':
            self._quoted = True
        elif char in "{[" and len(self._closers) < MAX_DEPTH:
            self._closers.append(_CLOSERS[char])
        else:
            self.broken = True

    def _end_value(self) -> None:
        self._after = True
        self.done = not self._closers and not self.broken


def arguments(reader: Reader, give: Give) -> Steps[None]:
    """Read an object of arguments and hand its text to `give` as it comes.

    A string with an object in it is taken for the object; null and an empty string for none.

    Raises:
        Broken: it is something else.
    """
    parts: list[str] = []
    yield from reader.space()
    if (yield from reader.peek()) == "{":

        def both(text: str) -> None:
            parts.append(text)
            give(text)

        yield from value(reader, both)
        parse("".join(parts))
        return
    yield from value(reader, parts.append)
    inner = parse("".join(parts))
    text = "{}" if inner in (None, "") else inner
    if not isinstance(text, str) or not isinstance(parse(text), dict):
        raise Broken
    give(text.strip())


def call_object(reader: Reader, calls: Calls, marked: bool) -> Steps[None]:
    """Read `{"name": ..., "arguments": {...}}`, of which the first brace was read.

    marked: markup says that this is a call, so that the name alone is enough to begin it.

    Raises:
        Broken: it is another object.
    """
    name = ""
    early: list[str] = []  # arguments that came before the name
    complete = False
    mark = yield from reader.one_of('"', "}")
    while mark == '"':
        key = yield from _key(reader)
        yield from reader.one_of(":")
        if key in NAMES and not name:
            name = yield from _name(reader)
            if early or marked:
                calls.begin(name)
                calls.arguments("".join(early))
        elif key in ARGUMENTS and not complete:
            if name and not calls.begun:
                calls.begin(name)
            yield from arguments(reader, calls.arguments if name else early.append)
            complete = True
        elif key in IDS:
            calls.identify((yield from _whole(reader)))
        elif key in IGNORED:
            yield from value(reader, len)
        else:
            raise Broken
        mark = yield from reader.one_of(",", "}")
        if mark == ",":
            mark = yield from reader.one_of('"')
    if not calls.begun or not (complete or marked):
        raise Broken
    if not complete:
        calls.arguments("{}")


def _key(reader: Reader) -> Steps[str]:
    """Read a key, of which the first quote was read."""
    if simple := _SIMPLE.match(reader.buffer, reader.at):
        reader.at = simple.end()
        return simple[1]
    parts = ['"']
    yield from _nested(reader, parts.append, quoted=True)
    return str(parse("".join(parts)))


def _whole(reader: Reader) -> Steps[Any]:
    parts: list[str] = []
    yield from value(reader, parts.append)
    return parse("".join(parts))


def _name(reader: Reader) -> Steps[str]:
    name = yield from _whole(reader)
    if not isinstance(name, str):
        raise Broken
    return name
