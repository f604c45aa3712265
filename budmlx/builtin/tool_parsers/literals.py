"""Literals: reads values in notations other than JSON, Python's and Gemma's."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from budmlx.builtin.reader import Broken
from budmlx.builtin.tool_parsers.json_text import MAX_DEPTH, parse
from budmlx.builtin.tool_parsers.schema import dumps, object_text

_CONSTANTS = {"True": "true", "False": "false", "None": "null"} | {
    word: word for word in ("true", "false", "null")
}
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
_PYTHON_NUMBER = re.compile(
    r"[-+]?(?:0[xX][\da-fA-F_]+|0[oO][0-7_]+|0[bB][01_]+"
    r"|(?:(?:0|[1-9][\d_]*)(?:\.[\d_]*)?|\.\d[\d_]*)(?:[eE][-+]?\d+)?)"
)
_ESCAPE = re.compile(
    r"\\(?:([abfnrtv\\'\"/])|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(\n))"
)
_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


@dataclass(frozen=True, slots=True)
class Notation:
    """A notation of values: a pattern of its tokens, and the values of its strings.

    token: a pattern of all tokens, with strings as group 1, words and numbers as group 2 and
    other signs as group 3.
    string: the value of a string token.
    """

    token: re.Pattern[str]
    string: Callable[[str], str]


def notation(strings: str, string: Callable[[str], str]) -> Notation:
    """A notation of strings that match a pattern."""
    token = rf"\s*+(?:({strings})|([-+\w.]++)|([\[\](){{}}=:,]))"
    return Notation(re.compile(token, re.DOTALL), string)


def unescaped(text: str) -> str:
    """The text of a string of Python's, given what stands between its quotes."""
    return _ESCAPE.sub(_unescaped, text)


def _python_string(token: str) -> str:
    match = _PYTHON_STRING.fullmatch(token)
    assert match is not None
    text = match[0][match.end("quote") : -len(match["quote"])]
    return text if match["prefix"] in ("r", "R") else unescaped(text)


def _unescaped(match: re.Match[str]) -> str:
    if match[1]:
        return _ESCAPES.get(match[1], match[1])
    digits = match[2] or match[3] or match[4]
    if not digits:
        return ""
    code = int(digits, 16)
    return chr(code) if code <= 0x10FFFF else match[0]


_PYTHON_STRINGS = (
    "[rRuU]?(?:"
    + "|".join(
        rf"{quote * 3}(?:[^{quote}\\]++|\\.|{quote}(?!{quote * 2}))*{quote * 3}"
        rf"|{quote}(?:[^{quote}\\]++|\\.)*{quote}"
        for quote in "\"'"
    )
    + ")"
)
_PYTHON_STRING = re.compile(r"(?P<prefix>[rRuU]?)(?P<quote>\"{3}|'{3}|[\"']).*", re.DOTALL)
PYTHON = notation(_PYTHON_STRINGS, _python_string)


class Tokens:
    """Reads a complete text token by token. Its methods raise `Broken` where it is wrong."""

    def __init__(self, text: str, notation: Notation):
        self._text = text
        self._notation = notation
        self._at = 0
        self._depth = 0
        self._token: re.Match[str] | None = None
        self._advance()

    @property
    def ended(self) -> bool:
        """Whether all was read."""
        return self._token is None and not self._text[self._at :].strip()

    def _advance(self) -> None:
        self._token = self._notation.token.match(self._text, self._at)
        if self._token is not None:
            self._at = self._token.end()

    def sign(self, *signs: str) -> str:
        """Read one of these signs; the empty string if another token stands here."""
        if self._token is None or self._token[3] not in signs:
            return ""
        found = self._token[3]
        self._advance()
        return found

    def expect(self, *signs: str) -> str:
        """Read one of these signs. Raises Broken if another token stands here."""
        found = self.sign(*signs)
        if not found:
            raise Broken
        return found

    def word(self) -> str:
        """Read a name. Raises Broken if another token stands here."""
        if self._token is None or not self._token[2]:
            raise Broken
        found = self._token[2]
        self._advance()
        return found

    def members(self, separator: str, close: str) -> str:
        """Read keys, separators and values up to a sign, as the JSON text of an object."""
        members: dict[str, str] = {}
        while not self.sign(close):
            key = self._string_or_word()
            self.expect(separator)
            members[key] = self.value()
            if self.expect(",", close) == close:
                break
        return object_text(members)

    def _string_or_word(self) -> str:
        if self._token is not None and self._token[1]:
            return str(parse(self.value()))
        return self.word()

    def value(self) -> str:
        """Read a value, as JSON text. Raises Broken if it is wrong or nested too deeply."""
        if self._token is None or self._depth >= MAX_DEPTH:
            raise Broken
        string, atom = self._token[1], self._token[2]
        if string is not None:
            return dumps(self._strings())
        if atom is not None:
            self._advance()
            return _atom(atom)
        self._depth += 1
        opening = self.expect("[", "(", "{")
        text = self.members(":", "}") if opening == "{" else self._items(opening)
        self._depth -= 1
        return text

    def _strings(self) -> str:
        """Read a string, or several that stand beside each other, which are one."""
        parts = []
        while self._token is not None and self._token[1] is not None:
            parts.append(self._notation.string(self._token[1]))
            self._advance()
        return "".join(parts)

    def _items(self, opening: str) -> str:
        close = "]" if opening == "[" else ")"
        items = []
        while not self.sign(close):
            items.append(self.value())
            if self.expect(",", close) == close:
                if opening == "(" and len(items) == 1:
                    return items[0]  # parentheses without a comma make no tuple
                break
        return f"[{', '.join(items)}]"


def _atom(text: str) -> str:
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _NUMBER.fullmatch(text):
        return text
    if not _PYTHON_NUMBER.fullmatch(text):
        raise Broken
    try:
        return str(int(text, 0))
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        raise Broken from None
    if not math.isfinite(number):
        raise Broken
    return repr(number)
