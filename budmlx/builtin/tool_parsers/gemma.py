"""Gemma's calls: call:name{key:value}, with strings between tokens of their own.

Now and then the models quote as JSON or Python does, or not at all; that is read too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial

from budmlx.builtin.reader import Broken, Reader, Steps
from budmlx.builtin.tool_parsers.bare import as_json
from budmlx.builtin.tool_parsers.family import Family
from budmlx.builtin.tool_parsers.json_text import MAX_DEPTH, parse
from budmlx.builtin.tool_parsers.literals import unescaped
from budmlx.builtin.tool_parsers.scanner import Calls, Form
from budmlx.builtin.tool_parsers.schema import dumps, kinds, object_text, properties

MAX_ENDS = 8
"""End markers that may stand in the strings of one call."""

_NAME = re.compile(r"\s*+([^\s{}<>\"',]++)\s*+\{")
_SPACE = re.compile(r"\s*+")
_KEY = r"""(?:[^\s"'{}\[\],:<]++|"[^"]*+"|'[^']*+')"""
_BARE_KEY = re.compile(r"[^\"'{}\[\],:]++(?=:)")
_CONSTANTS = {"True": "true", "False": "false", "None": "null"}


class _Notation:
    """Patterns of strings and words, where strings stand in `quote`."""

    def __init__(self, quote: str):
        mark = re.escape(quote)
        own = rf"{mark}((?:(?!{mark}).)*){mark}"
        # A comma that no key follows belongs to the value.
        next_key = rf",(?=\s*+(?:(?:{_KEY}|{own})\s*+:|\}}))"
        self.own = re.compile(own, re.DOTALL)
        self.key = _quoted(":")
        self.in_object = _quoted(rf"(?:\}}|{next_key})")
        self.in_list = _quoted(r"[,\]]")
        self.word_in_object = re.compile(rf"(?:[^,}}]|(?!{next_key}),)+(?=[,}}])", re.DOTALL)
        self.word_in_list = re.compile(r"[^,\]]++(?=[,\]])")


def _quoted(after: str) -> dict[str, re.Pattern[str]]:
    """Patterns of strings in plain quotes. `after` follows their end, as they may hold quotes."""
    return {
        quote: re.compile(rf"{quote}((?:\\.|[^\\])*?){quote}(?=\s*+{after})", re.DOTALL)
        for quote in "\"'"
    }


class _Text:
    """Reads the text of a call from its name on. Its methods raise `Broken` where it is wrong.

    quote: what stands around strings. unclosed: a quote was met that nothing closes.
    """

    def __init__(self, text: str, quote: str):
        self.unclosed = False
        self._text = text
        self._at = 0
        self._depth = 0
        self._mark = quote
        self._notation = _notation(quote)

    def call(self, calls: Calls) -> tuple[str, str]:
        """The name and the arguments of the call, after which nothing may stand."""
        match = _NAME.match(self._text)
        if match is None:
            raise Broken
        self._at = match.end()
        schema = calls.schemas.get(match[1], {})
        arguments = self._members(
            properties(schema),
            lambda key, text: as_json(text, kinds(properties(schema).get(key), schema)),
        )
        if self._text[self._at :].strip():
            raise Broken
        return match[1], arguments

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.match(self._text, self._at)
        if found is not None:
            self._at = found.end()
        return found

    def _sign(self, signs: str) -> str:
        """Read white space and one of these signs; the empty string if none stands here."""
        self._match(_SPACE)
        sign = self._text[self._at : self._at + 1]
        if not sign or sign not in signs:
            return ""
        self._at += 1
        return sign

    def _members(
        self, names: Iterable[str] = (), bare: Callable[[str, str], str] | None = None
    ) -> str:
        """Read the members of an object, as JSON. names: keys that may hold a colon."""
        members: dict[str, str] = {}
        while not self._sign("}"):
            key = self._key(names)
            if not self._sign(":"):
                raise Broken
            members[key] = self._value(True, partial(bare, key) if bare else dumps)
            if not self._sign(","):
                if not self._sign("}"):
                    raise Broken
                break
        return object_text(members)

    def _key(self, names: Iterable[str]) -> str:
        self._match(_SPACE)
        string = self._string(self._notation.key)
        if string is not None:
            return string
        for name in names:
            if ":" in name and self._text.startswith(f"{name}:", self._at):
                self._at += len(name)
                return name
        found = self._match(_BARE_KEY)
        if found is None:
            raise Broken
        return found[0].strip()

    def _string(self, quoted: Mapping[str, re.Pattern[str]]) -> str | None:
        """Read a string in quotes of any kind, if one stands here."""
        if found := self._match(self._notation.own):
            return found[1]
        quote = self._text[self._at : self._at + 1]
        found = self._match(quoted[quote]) if quote and quote in quoted else None
        if found is None:
            begun = quote == '"' or self._text.startswith(self._mark, self._at)
            self.unclosed = self.unclosed or begun or quote == "'"
            if begun:
                raise Broken
            return None
        if quote == '"':
            try:
                return str(parse(found[0]))
            except Broken:
                pass
        return unescaped(found[1])

    def _value(self, in_object: bool, word: Callable[[str], str]) -> str:
        """Read a value, as JSON. word: the JSON of a bare word."""
        self._match(_SPACE)
        notation = self._notation
        string = self._string(notation.in_object if in_object else notation.in_list)
        if string is not None:
            return dumps(string)
        if self._depth >= MAX_DEPTH:
            raise Broken
        self._depth += 1
        if self._sign("{"):
            text = self._members()
        elif self._sign("["):
            text = self._items()
        else:
            text = self._word(notation.word_in_object if in_object else notation.word_in_list, word)
        self._depth -= 1
        return text

    def _items(self) -> str:
        items = []
        while not self._sign("]"):
            items.append(self._value(False, dumps))
            if not self._sign(","):
                if not self._sign("]"):
                    raise Broken
                break
        return f"[{', '.join(items)}]"

    def _word(self, pattern: re.Pattern[str], word: Callable[[str], str]) -> str:
        """Read a number, a constant or a bare word."""
        found = self._match(pattern)
        text = found[0].strip() if found else ""
        if not text or self._mark in text:
            raise Broken
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        try:
            parse(text)
        except Broken:
            return word(text)
        return text


_notation = cache(_Notation)


def _reading(end: str, quote: str) -> Callable[[Reader, Calls, str], Steps[None]]:
    def read(reader: Reader, calls: Calls, opener: str) -> Steps[None]:
        yield from reader.one_of("call:")
        text, ended = yield from reader.upto(end)
        first = reader.place
        for _ in range(MAX_ENDS):
            found = _Text(text, quote)
            try:
                name, arguments = found.call(calls)
            except Broken:
                if not (ended and found.unclosed):
                    break
            else:
                calls.whole(name, arguments)
                return
            more, ended = yield from reader.upto(end)
            text += end + more
        reader.back(first)
        raise Broken

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
