"""Tags: the literal texts of calls that are written as tags, and a grammar of such calls."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from budmlx.builtin.tool_parsers.schema import Schema, kinds, part, properties, required
from budmlx.plugins.parsing import CallGrammar, Tool

_ON = r"[ \t]*[^<\s]"
_ANY_KEY = r'/[^<>"\s]+/'


@dataclass(frozen=True, slots=True)
class Tags:
    """The literal texts of a call, in their order.

    outer: around calls, where there is such a text; around each one if `alone`.
    begin, named: before and after the name. key, keyed, valued: before a key, between it and
    its value, and after the value.
    padded: one newline on each side of a value is not part of it.
    line: the white space that models write between tags.
    cdata: values may stand in CDATA sections.
    """

    begin: str
    named: str
    key: str
    keyed: tuple[str, ...]
    valued: str
    end: str
    outer: tuple[str, str] = ("", "")
    alone: bool = False
    padded: bool = False
    line: str = "\n"
    cdata: bool = False


class TagGrammar:
    """Lark expressions of calls. tokens: those texts are tokens and are written as such."""

    def __init__(self, tags: Tags, tokens: frozenset[str], before: str = "", after: str = ""):
        self._tags = tags
        self._before, self._after = before, after
        marked = [token for token in tokens if re.fullmatch(r"<[^<>\s]+>", token)]
        self._tokens = re.compile("|".join(map(re.escape, marked)) or r"(?!)")

    def call(self, tool: Tool) -> CallGrammar:
        """The grammar of a call."""
        tags = self._tags
        begin = f"{self._before}{tags.begin}{tool.name}{tags.named}{tags.line}"
        return CallGrammar(begin, self._arguments(tool.parameters), tags.end + self._after)

    def _arguments(self, schema: Schema) -> str:
        """All arguments in the order of the schema; any, if it names none."""
        if not properties(schema):
            if schema.get("additionalProperties") is False:
                return '""'
            return f"({self._argument(_ANY_KEY, self._text())})*"
        parts = []
        for key, inner in properties(schema).items():
            written = self._argument(_quoted(key), self._value(inner, schema))
            parts.append(written if key in required(schema) else f"({written})?")
        return " ".join(parts)

    def _argument(self, key: str, value: str) -> str:
        tags = self._tags
        between = tags.line.join(tags.keyed) + ("\n" if tags.padded else "")
        before, middle, after = map(self._literal, (tags.key, between, tags.line))
        return f"{before} {key} {middle} {value} {after}"

    def _value(self, schema: object, root: Schema) -> str:
        """A value and the tag after it."""
        allowed = kinds(schema, root)
        end = self._literal(("\n" if self._tags.padded else "") + self._tags.valued)
        if isinstance(schema, dict) and allowed == {"string"} and "enum" in schema:
            return f"({' | '.join(map(_quoted, schema['enum']))}) {end}"
        if not allowed or "string" in allowed:
            return self._text()
        return f"%json {json.dumps(part(schema, root))} {end}"

    def _text(self) -> str:
        """Any text up to the tag after a value, and the tag.

        The text may hold that tag where other text follows it on the same line, as readers do not
        take it for the end then.
        """
        tag = self._tags.valued
        if self._tokens.fullmatch(tag):
            return f"/(?s:.*)/ {tag} (/{_ON}(?s:.*)/ {tag})*"
        text = f"[^<]*(<{_not_followed_by(tag[1:])})*{_escaped(tag)}"
        return f"/{text}({_ON}{text})*/"

    def _literal(self, text: str) -> str:
        """A text as a sequence of quoted texts and tokens."""
        parts, at = [], 0
        for match in self._tokens.finditer(text):
            parts += [_quoted(text[at : match.start()]), match[0]]
            at = match.end()
        parts.append(_quoted(text[at:]))
        return " ".join(part for part in parts if part != '""')


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _escaped(text: str) -> str:
    return re.escape(text).replace("/", r"\/")


def _not_followed_by(rest: str) -> str:
    """A pattern of text without `<` that does not begin with `rest`."""
    char = _escaped(rest[0])
    deeper = f"|{char}{_not_followed_by(rest[1:])}" if rest[1:] else ""
    return f"([^<{char}][^<]*{deeper})?"
