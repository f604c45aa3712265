"""Lark grammars, read as rules whose smallest parts are regular expressions."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

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
    """A grammar that no regular expression is made of, or that is not understood. The text says
    why.
    """


@dataclass(frozen=True, slots=True)
class Terminal:
    """Texts of a regular expression."""

    regex: str


@dataclass(frozen=True, slots=True)
class Use:
    """Texts of another rule."""

    name: str


@dataclass(frozen=True, slots=True)
class Repeated:
    """Texts of a part, one after the other. times: as a regular expression says it."""

    part: Part
    times: str

    @property
    def optional(self) -> bool:
        """Whether it may be left out."""
        return self.times in ("?", "*") or self.times.startswith("{0,")


@dataclass(frozen=True, slots=True)
class Sequential:
    """Texts of all parts, in their order."""

    parts: Sequence[Part]


@dataclass(frozen=True, slots=True)
class Either:
    """Texts of any of the parts."""

    parts: Sequence[Part]


Part = Terminal | Use | Repeated | Sequential | Either


def read_rules(grammar: str) -> Mapping[str, Either]:
    """The alternatives of each rule, by its name. Raises NotRegularError, RecursionError."""
    rules: dict[str, Either] = {}
    for line in _statements(list(_tokens(grammar))):
        if line[0][0] == "directive":
            rules |= _imported(line[0][1])
            continue
        colon = next((n for n, token in enumerate(line) if token == ("sign", ":")), None)
        if line[0][0] != "name" or colon is None:
            raise NotRegularError(f"{line[0][1]!r} does not begin a rule")
        name = line[0][1].lstrip("!?")
        body = line[colon + 1 :]
        rules[name], place = _alternatives(body, 0)
        if place < len(body):
            raise NotRegularError(f"{body[place][1]!r} in {name} is not understood")
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


def _imported(directive: str) -> dict[str, Either]:
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
    return {
        name: Either([Sequential([Terminal(f"(?:{COMMON[source]})")])])
        for source, name in names.items()
    }


def _alternatives(tokens: list[Token], place: int) -> tuple[Either, int]:
    found: list[Part] = []
    while True:
        part, place = _sequence(tokens, place)
        found.append(part)
        if tokens[place : place + 1] != [("sign", "|")]:
            return Either(found), place
        place += 1


def _sequence(tokens: list[Token], place: int) -> tuple[Sequential, int]:
    found: list[Part] = []
    while place < len(tokens):
        kind, text = tokens[place]
        if kind == "alias":
            place += 1
        elif kind in ("string", "regex", "name") or text in ("(", "["):
            part, place = _item(tokens, place)
            found.append(part)
        else:
            break
    return Sequential(found), place


def _item(tokens: list[Token], place: int) -> tuple[Part, int]:
    """One thing and how often it stands there."""
    kind, text = tokens[place]
    place += 1
    found: Part
    if kind == "sign":
        found, place = _alternatives(tokens, place)
        if tokens[place : place + 1] != [("sign", {"(": ")", "[": "]"}[text])]:
            raise NotRegularError(f"a {text} is not closed")
        place += 1
        found = Repeated(found, "?") if text == "[" else found
    elif kind == "string" and tokens[place : place + 1] == [("range", "..")]:
        last = tokens[place + 1][1] if place + 1 < len(tokens) else '""'
        found = Terminal(f"[{_in_class(text)}-{_in_class(last)}]")
        place += 2
    elif kind == "name":
        found = Use(text.lstrip("!?"))
    else:
        found = Terminal(_literal(text) if kind == "string" else _pattern(text))
    times, place = _times(tokens, place)
    return (Repeated(found, times) if times else found), place


def _times(tokens: list[Token], place: int) -> tuple[str, int]:
    """How often the part before stands there; empty for once."""
    sign = tokens[place][1] if place < len(tokens) and tokens[place][0] == "sign" else ""
    if sign in ("?", "*", "+"):
        return sign, place + 1
    if sign != "~":
        return "", place
    least = most = tokens[place + 1][1] if place + 1 < len(tokens) else ""
    place += 2
    if tokens[place : place + 1] == [("range", "..")] and place + 1 < len(tokens):
        most = tokens[place + 1][1]
        place += 2
    if not (least.isdigit() and most.isdigit()):
        raise NotRegularError("a ~ is not followed by numbers")
    return f"{{{int(least)},{int(most)}}}", place


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
