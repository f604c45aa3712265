"""Lark grammars as regular expressions, in which form they can be enforced within a JSON string."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping

MAX_LENGTH = 65_536
"""Characters of a regular expression; rules that many others use are written many times."""
TOO_LONG = "it is too long when its rules are written out"

COMMON = {
    "LF": r"\n",
    "CR": r"\r",
    "NEWLINE": r"(?:\r?\n)+",
    "WS": r"[ \t\f\r\n]+",
    "WS_INLINE": r"[ \t]+",
    "DIGIT": r"[0-9]",
    "HEXDIGIT": r"[0-9a-fA-F]",
    "INT": r"[0-9]+",
    "SIGNED_INT": r"[+-]?[0-9]+",
    "DECIMAL": r"(?:[0-9]+\.[0-9]*|\.[0-9]+)",
    "FLOAT": r"(?:[0-9]+(?:[eE][+-]?[0-9]+)|(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)",
    "NUMBER": r"(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)(?:[eE][+-]?[0-9]+)?",
    "SIGNED_NUMBER": r"[+-]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)(?:[eE][+-]?[0-9]+)?",
    "LCASE_LETTER": r"[a-z]",
    "UCASE_LETTER": r"[A-Z]",
    "LETTER": r"[A-Za-z]",
    "WORD": r"[A-Za-z]+",
    "CNAME": r"[_A-Za-z][_A-Za-z0-9]*",
    "ESCAPED_STRING": r'"(?:\\.|[^"\\\n])*"',
}
"""The terminals of Lark's library `common`."""

_TOKEN = re.compile(
    r"""
    (?P<space>[ \t\r]+|//[^\n]*)
    |(?P<newline>\n)
    |(?P<string>"(?:\\.|[^"\\\n])*"i?)
    |(?P<regex>/(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\n\[])+/[a-z]*)
    |(?P<directive>%[a-z]+[^\n]*)
    |(?P<range>\.\.)
    |(?P<alias>->[ \t]*\w+)
    |(?P<name>[!?]*_?[A-Za-z]\w*)
    |(?P<number>\d+)
    |(?P<sign>[|()\[\]?*+~:.])
    """,
    re.VERBOSE,
)
_SPECIAL = re.compile(r"[\\.^$|?*+()\[\]{}]")

Token = tuple[str, str]


class NotRegularError(Exception):
    """A grammar that is no regular expression, or none that is known here. The text says why."""


def regex_of(grammar: str) -> str:
    """A regular expression for the same texts. Raises NotRegularError."""
    try:
        found = _Expansion(_rules(grammar)).of("start")
        found.encode("utf-8")
    except RecursionError:
        raise NotRegularError("its rules are nested too deep") from None
    except UnicodeEncodeError:
        raise NotRegularError("it has half a character") from None
    return found


def _rules(grammar: str) -> Mapping[str, list[Token]]:
    """The tokens of each rule, by its name."""
    rules: dict[str, list[Token]] = {}
    for line in _statements(list(_tokens(grammar))):
        if line[0][0] == "directive":
            rules |= _imported(line[0][1])
            continue
        colon = next((n for n, token in enumerate(line) if token == ("sign", ":")), None)
        if line[0][0] != "name" or colon is None:
            raise NotRegularError(f"{line[0][1]!r} does not begin a rule")
        rules[line[0][1].lstrip("!?")] = line[colon + 1 :]
    return rules


def _tokens(grammar: str) -> Iterator[Token]:
    place = 0
    while place < len(grammar):
        match = _TOKEN.match(grammar, place)
        if match is None or match.lastgroup is None:
            raise NotRegularError(f"{grammar[place : place + 20]!r} is not understood")
        place = match.end()
        if match.lastgroup != "space":
            yield match.lastgroup, match[0]


def _statements(tokens: list[Token]) -> Iterator[list[Token]]:
    """Rules and directives. A rule goes on in brackets, and after a line that begins with `|`."""
    statement: list[Token] = []
    depth = 0
    ended = False
    for kind, text in tokens:
        if kind == "newline":
            ended = not depth
            continue
        if ended and statement and (kind, text) != ("sign", "|"):
            yield statement
            statement = []
        ended = False
        depth += (text in "([") - (text in ")]") if kind == "sign" else 0
        statement.append((kind, text))
    if statement:
        yield statement


def _imported(directive: str) -> dict[str, list[Token]]:
    """The terminals that `%import` names."""
    match = re.fullmatch(
        r"%import\s+common(?:\.(\w+)(?:\s*->\s*(\w+))?|\s*\(([\w\s,]+)\))\s*(?://.*)?", directive
    )
    if match is None:
        raise NotRegularError(f"{directive.split()[0]} is used for more than common terminals")
    names = {match[1]: match[2] or match[1]} if match[1] else {}
    names |= {name.strip(): name.strip() for name in (match[3] or "").split(",") if name.strip()}
    unknown = [name for name in names if name not in COMMON]
    if unknown:
        raise NotRegularError(f"common.{unknown[0]} is not known")
    return {name: [("regex", f"/{COMMON[source]}/")] for source, name in names.items()}


class _Pieces:
    """Regular expressions that are joined later, and are not too long together."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._length = 0

    def add(self, text: str) -> None:
        """Add one. Raises NotRegularError when they are too long."""
        self.texts.append(text)
        self._length += len(text)
        if self._length > MAX_LENGTH:
            raise NotRegularError(TOO_LONG)


class _Expansion:
    """Writes rules as regular expressions."""

    def __init__(self, rules: Mapping[str, list[Token]]):
        self._rules = rules
        self._done: dict[str, str] = {}
        self._open: list[str] = []

    def of(self, name: str) -> str:
        """The regular expression of a rule."""
        if name not in self._done:
            if name in self._open:
                raise NotRegularError(f"{name} is defined by itself")
            if name not in self._rules:
                raise NotRegularError(f"{name} is not defined")
            self._open.append(name)
            tokens = self._rules[name]
            text, place = self._alternatives(tokens, 0)
            if place < len(tokens):
                raise NotRegularError(f"{tokens[place][1]!r} in {name} is not understood")
            self._open.pop()
            self._done[name] = text
        return self._done[name]

    def _alternatives(self, tokens: list[Token], place: int) -> tuple[str, int]:
        found = _Pieces()
        while True:
            text, place = self._sequence(tokens, place)
            found.add(text)
            if tokens[place : place + 1] != [("sign", "|")]:
                break
            place += 1
        whole = found.texts[0] if len(found.texts) == 1 else f"(?:{'|'.join(found.texts)})"
        if len(whole) > MAX_LENGTH:
            raise NotRegularError(TOO_LONG)
        return whole, place

    def _sequence(self, tokens: list[Token], place: int) -> tuple[str, int]:
        found = _Pieces()
        while place < len(tokens):
            kind, text = tokens[place]
            if kind == "alias":
                place += 1
            elif kind in ("string", "regex", "name") or text in ("(", "["):
                text, place = self._item(tokens, place)
                found.add(text)
            else:
                break
        return "".join(found.texts), place

    def _item(self, tokens: list[Token], place: int) -> tuple[str, int]:
        """One thing and how often it stands there."""
        kind, text = tokens[place]
        place += 1
        if kind == "sign":
            inner, place = self._alternatives(tokens, place)
            if tokens[place : place + 1] != [("sign", {"(": ")", "[": "]"}[text])]:
                raise NotRegularError(f"a {text} is not closed")
            place += 1
            found = f"(?:{inner})" + ("?" if text == "[" else "")
        elif kind == "string" and tokens[place : place + 1] == [("range", "..")]:
            last = tokens[place + 1][1] if place + 1 < len(tokens) else '""'
            found = f"[{_in_class(text)}-{_in_class(last)}]"
            place += 2
        else:
            found = {"string": _literal, "regex": _pattern}.get(kind, self._named)(text)
        return self._repeated(found, tokens, place)

    def _named(self, text: str) -> str:
        return f"(?:{self.of(text.lstrip('!?'))})"

    def _repeated(self, found: str, tokens: list[Token], place: int) -> tuple[str, int]:
        sign = tokens[place][1] if place < len(tokens) and tokens[place][0] == "sign" else ""
        if sign in ("?", "*", "+"):
            return f"(?:{found}){sign}", place + 1
        if sign != "~":
            return found, place
        least = most = tokens[place + 1][1] if place + 1 < len(tokens) else ""
        place += 2
        if tokens[place : place + 1] == [("range", "..")] and place + 1 < len(tokens):
            most = tokens[place + 1][1]
            place += 2
        if not (least.isdigit() and most.isdigit()):
            raise NotRegularError("a ~ is not followed by numbers")
        return f"(?:{found}){{{least},{most}}}", place


def _text(literal: str) -> str:
    try:
        return str(ast.literal_eval(literal))
    except (ValueError, SyntaxError):
        raise NotRegularError(f"{literal} is no text") from None


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\g<0>", text).replace("\n", r"\n").replace("\r", r"\r")


def _literal(token: str) -> str:
    if token.endswith("i"):
        return f"(?i:{_escaped(_text(token[:-1]))})"
    return _escaped(_text(token))


def _in_class(token: str) -> str:
    text = _text(token)
    if len(text) != 1:
        raise NotRegularError(f"{token} is not one character")
    return f"\\{text}" if text in "\\]^-[" else text


def _pattern(token: str) -> str:
    body, _, flags = token[1:].rpartition("/")
    body = body.replace(r"\/", "/")
    if flags.strip("imsu"):
        raise NotRegularError(f"the flags {flags} are not known")
    flags = flags.replace("u", "")
    return f"(?{flags}:{body})" if flags else f"(?:{body})"
