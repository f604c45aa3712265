"""Tool-call parsers for models that write calls as JSON between two markers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from budmlx import hookimpl
from budmlx.plugins.parsing import (
    Call,
    CallGrammar,
    CallSyntax,
    Content,
    ModelTraits,
    Piece,
    Tool,
    ToolParserSpec,
)


@dataclass(frozen=True, slots=True)
class Form:
    """One format.

    begin, end: the markers; without `end` the calls reach to the end of the reply.
    opening: what of the JSON is part of `begin`. arguments: the key of the arguments.
    listed: the JSON is a list of calls.
    """

    name: str
    begin: str
    end: str = ""
    opening: str = ""
    arguments: str = "arguments"
    listed: bool = True

    def syntax(self) -> CallSyntax:
        """How a call of this format is forced."""
        before, after = "", ""
        if not self.listed:
            before, after = self.begin, self.end

        def grammar(tool: Tool) -> CallGrammar:
            begin = f'{before}{{"name": {json.dumps(tool.name)}, "{self.arguments}": '
            return CallGrammar(begin, f"%json {json.dumps(dict(tool.parameters))}", "}" + after)

        if not self.listed:
            return CallSyntax(self.begin, grammar)
        opening = "" if self.opening else "["
        return CallSyntax(
            self.begin, grammar, open=self.begin + opening, separator=", ", close="]" + self.end
        )

    def spec(self) -> ToolParserSpec:
        """What the format is to budmlx."""
        visible = ("<|action_start|>", "<|plugin|>", "<|action_end|>")
        if not self.begin.startswith("<|"):
            visible = tuple(mark for mark in (self.begin, self.end) if mark.startswith("<"))
        make: Callable[[Sequence[Tool], bool], MarkedParser] = partial(MarkedParser, self)
        return ToolParserSpec(self.name, make, visible=visible, syntax=self.syntax())


FORMS = (
    Form("jamba", "<tool_calls>", "</tool_calls>"),
    Form("nemotron", "<TOOLCALL>", "</TOOLCALL>"),
    Form(
        "internlm", "<|action_start|><|plugin|>", "<|action_end|>",
        arguments="parameters", listed=False,
    ),
    Form("phi4-mini", "functools[", opening="["),
)  # fmt: skip


class MarkedParser:
    """Reads calls between markers; each character is looked at a bounded number of times."""

    def __init__(self, form: Form, tools: Sequence[Tool], in_pieces: bool):
        self._form = form
        self._inside = False
        self._tail = ""  # the end of what came, which may become a marker
        self._at = 0  # its place in all the text
        self._body: list[str] = []
        self._body_start = 0

    def push(self, text: str, last: bool) -> Sequence[Piece]:
        """See `OutputParser`."""
        self._tail += text
        pieces: list[Piece] = []
        while self._inside or self._tail:
            mark = self._form.end if self._inside else self._form.begin
            found = self._tail.find(mark) if mark else -1
            if found < 0:
                self._take(len(self._tail) - (0 if last else _held(self._tail, mark)), pieces)
                break
            self._take(found, pieces)
            if self._inside:
                pieces += self._closed(mark)
            else:
                self._body, self._body_start = [], self._at
            self._inside = not self._inside
            self._at += len(mark)
            self._tail = self._tail[len(mark) :]
        if last and self._inside:
            pieces += self._closed("")
        return pieces

    def _take(self, count: int, pieces: list[Piece]) -> None:
        """Settle text: as content, or as the body of a call."""
        taken, self._tail = self._tail[:count], self._tail[count:]
        if self._inside:
            self._body.append(taken)
        elif taken:
            pieces.append(Content(taken, self._at))
        self._at += count

    def _closed(self, mark: str) -> list[Piece]:
        """The calls of a body, or its text if there are none."""
        body = "".join(self._body)
        if mark == self._form.end and (calls := calls_in(self._form, body)):
            return list(calls)
        return [Content(self._form.begin + body + mark, self._body_start)]


def _held(text: str, mark: str) -> int:
    """How many characters at the end of the text may become a marker."""
    longest = min(len(mark) - 1, len(text))
    return next((n for n in range(longest, 0, -1) if text.endswith(mark[:n])), 0)


def calls_in(form: Form, body: str) -> list[Call]:
    """The calls of a body; none if anything in it is no call."""
    try:
        value = json.loads(form.opening + body)
    except (ValueError, RecursionError):
        return []
    items = value if isinstance(value, list) else [value]
    calls = list(_calls(items))
    return calls if len(calls) == len(items) else []


def _calls(items: Sequence[Any]) -> Iterator[Call]:
    for item in items:
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            return
        arguments = item.get("arguments", item.get("parameters", {}))
        if not isinstance(arguments, dict):
            return
        yield Call(item["name"], json.dumps(arguments, ensure_ascii=False))


@hookimpl
def provide_tool_parser(name: str, model: ModelTraits) -> ToolParserSpec | None:
    """The format of this name, or for `auto` the one that the chat template shows."""
    for form in FORMS:
        if name == form.name or (name == "auto" and form.begin in model.template):
            return form.spec()
    return None
