"""Grammar of a reply: its form, its tool calls, and the reasoning before them.

Grammars are written in llguidance's Lark dialect. A control token stands as `<[id]>`, for
text never spells one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from budmlx.engine.reply.parsers import Parsers, active_tools
from budmlx.errors import InvalidRequestError
from budmlx.plugins.boundary import calling
from budmlx.plugins.parsing import CallSyntax, ToolParserSpec
from budmlx.protocol import Grammar
from budmlx.types import Request, ResponseFormat, Tool

ANY_TEXT = r"/(.|\n)*/"
# Bounded, so that a bounded document ends: a space, or a line's end and indentation.
WHITESPACE = r" |\n {0,32}"
SPACE = " "
# After reasoning models go on with a line or two of white space.
GAP = r"/[ \n]{0,4}/"
# Doubled quantifiers, an error in ECMA 262, which llguidance takes for nested ones.
_DOUBLED = re.compile(r"[*+?}][*+]")
_NO_OPERATOR = re.compile(r"\\.|\[(?:\\.|[^\]\\])*\]", re.DOTALL)


def grammar_of(request: Request, parsers: Parsers, tail: str) -> Grammar | None:
    """The grammar of the reply; None if any text is allowed.

    tail: the end of the prompt.

    Raises:
        InvalidRequestError: the model's calls cannot be forced, or a pattern is wrong.
        PluginError: a parser's syntax failed.
    """
    tools, choice = active_tools(request), request.tool_choice
    if choice.name is not None:
        tools = tuple(tool for tool in tools if tool.name == choice.name)
    forced = bool(tools) and choice.mode == "required"
    strict = bool(tools) and any(tool.strict for tool in tools)
    form = None if forced else request.response_format
    if form is None and not (forced or (strict and can_be_strict(parsers))):
        return None
    tokens = {
        token.content: token_id
        for token_id, token in parsers.tokenizer.backend.get_added_tokens_decoder().items()
    }
    writer = _Writer(tokens)
    body: list[str] = []
    if tools:
        assert parsers.calls is not None
        syntax = _syntax(parsers.calls.value)
        with calling(parsers.calls.plugin, f"tool parser {parsers.calls.value.name}"):
            writer.calls(syntax, tools, several=request.parallel_tool_calls)
        body.append("calls" if forced or form is not None else "talk")
    if form is not None:
        writer.document(form)
        body.append("@document")
    writer.start(" | ".join(body), _thinking(request, parsers, tail))
    param = form.param if form is not None else "tools"
    return Grammar(source=writer.source(), param=param)


def can_be_strict(parsers: Parsers) -> bool:
    """Whether calls that the model chooses to make can be constrained."""
    syntax = parsers.calls.value.syntax if parsers.calls is not None else None
    return syntax is not None and not syntax.only_forced


def _syntax(spec: ToolParserSpec) -> CallSyntax:
    if spec.guessed and spec.syntax is None:
        raise InvalidRequestError(
            "tool_choice, strict and response_format cannot be used with tools here: how this "
            "model writes calls is not known. Name its format with the setting tool_parser, or "
            'send tool_choice "auto".',
            param="tool_choice",
        )
    if spec.syntax is None:
        raise InvalidRequestError(
            "This model's tool calls cannot be constrained: leave out tool_choice, strict and "
            "response_format, or send no tools.",
            param="tools",
        )
    return spec.syntax


@dataclass(frozen=True, slots=True)
class _Thinking:
    begin: str
    end: str
    begun: bool


def _thinking(request: Request, parsers: Parsers, tail: str) -> _Thinking | None:
    """The reasoning that may come first."""
    if parsers.reasoning is None or request.messages is None:
        return None
    spec = parsers.reasoning.value
    end_of_prompt = tail.rstrip()
    # A template that closes the block wants no reasoning.
    if not spec.begin or not spec.end or end_of_prompt.endswith(spec.end):
        return None
    begun = end_of_prompt.endswith(spec.begin)
    return _Thinking(spec.begin, spec.end, begun)


class _Writer:
    """Collects the rules of a grammar."""

    def __init__(self, tokens: Mapping[str, int]):
        self._tokens = tokens
        by_length = sorted(map(re.escape, tokens), key=len, reverse=True)
        self._split = re.compile(f"({'|'.join(by_length)})") if tokens else None
        self._rules: list[str] = []
        self._parts: list[dict[str, Any]] = []

    def source(self) -> str:
        """The whole grammar."""
        rules = "\n".join(["%llguidance {}", *self._rules])
        return json.dumps({"grammars": [{"lark_grammar": rules}, *self._parts]})

    def _rule(self, name: str, body: str) -> None:
        self._rules.append(f"{name}: {body}")

    def _literal(self, text: str) -> str:
        """Text with control tokens, as an expression; empty for no text."""
        pieces = self._split.split(text) if self._split else [text]
        return " ".join(
            f"<[{self._tokens[piece]}]>" if piece in self._tokens else json.dumps(piece)
            for piece in pieces
            if piece
        )

    def _until(self, name: str, marker: str) -> None:
        """A rule for any text that ends with a marker."""
        if marker in self._tokens:
            self._rule(name, f"{ANY_TEXT} <[{self._tokens[marker]}]>")
        else:
            self._rule(f"{name}[lazy]", f"{ANY_TEXT} {json.dumps(marker)}")

    def start(self, body: str, thinking: _Thinking | None) -> None:
        """The first rule, with the reasoning before the body."""
        if thinking is None:
            self._rule("start", body)
            return
        self._until("thought", thinking.end)
        before = "thought gap"
        self._rule("gap", GAP)
        if not thinking.begun:
            before = f"({self._literal(thinking.begin)} {before})?"
        self._rule("start", f"{before} body")
        self._rule("body", body)

    def document(self, form: ResponseFormat) -> None:
        """The sub-grammar of a response format."""
        part: dict[str, Any] = {"name": "document"}
        if form.kind in ("json_object", "json_schema"):
            schema = form.value if form.kind == "json_schema" else {"type": "object"}
            part["json_schema"] = _schema(schema, form.param)
        elif form.kind == "grammar":
            part["lark_grammar"] = form.value
        elif form.kind == "regex":
            _check_pattern(form.value, form.param)
            part["lark_grammar"] = f"start: /{_escaped(form.value)}/"
        else:
            part["lark_grammar"] = "start: " + " | ".join(map(json.dumps, form.value))
        self._parts.append(part)

    def calls(self, syntax: CallSyntax, tools: Sequence[Tool], *, several: bool) -> None:
        """Rules `calls` for calls alone and `talk` for text with calls in it."""
        names, continued = [], []
        for number, tool in enumerate(tools):
            schema = _schema(tool.parameters, "tools", SPACE)
            call = syntax.call(Tool(tool.name, tool.description, schema, tool.strict))
            rest = f"{call.arguments} {self._literal(call.end)}"
            self._rule(f"call_{number}", f"{self._literal(call.begin)} {rest}")
            names.append(f"call_{number}")
            if not syntax.open:
                begin = self._literal(call.begin.removeprefix(syntax.trigger))
                self._rule(f"rest_{number}", f"{begin} {rest}")
                continued.append(f"rest_{number}")
        self._rule("call", " | ".join(names))
        separator = self._literal(syntax.separator)
        chain = f"call ({separator} call)*" if several else "call"
        opening, closing = self._literal(syntax.open), self._literal(syntax.close)
        self._rule("calls", f"{opening} {chain} {closing}")
        if not syntax.trigger:
            # Calls are known by their first character alone.
            first = re.escape((syntax.open or syntax.call(tools[0]).begin)[0])
            self._rule("talk", f"calls | /[^{first}](.|\\n)*/")
            return
        self._until("lead", syntax.trigger)
        if syntax.open:
            opened = self._literal(syntax.open.removeprefix(syntax.trigger))
            self._rule("section", f"lead {opened} {chain} {closing}")
        else:
            self._rule("section", f"lead ({' | '.join(continued)})")
        self._rule("talk", f"section{'*' if several else '?'} tail")
        self._rule("tail", ANY_TEXT)


def _schema(schema: Any, param: str, whitespace: str = WHITESPACE) -> dict[str, Any]:
    """A schema as llguidance is to take it; its own switches are not the caller's to set."""
    for path, pattern in _patterns(schema, param):
        _check_pattern(pattern, path)
    options = {"whitespace_pattern": whitespace}
    if not isinstance(schema, Mapping):
        return {"x-guidance": options} if schema else {"x-guidance": options, "not": {}}
    rest = {key: value for key, value in schema.items() if key != "x-guidance"}
    return {"x-guidance": options, **rest}


def _patterns(schema: Any, path: str) -> Iterator[tuple[str, str]]:
    """Regular expressions in a schema, with their places."""
    if isinstance(schema, Mapping):
        for key, value in schema.items():
            if key == "pattern" and isinstance(value, str):
                yield f"{path}.{key}", value
            elif key not in ("enum", "const", "default", "examples"):
                yield from _patterns(value, f"{path}.{key}")
    elif isinstance(schema, list):
        for index, value in enumerate(schema):
            yield from _patterns(value, f"{path}[{index}]")


def _check_pattern(pattern: str, param: str) -> None:
    if _DOUBLED.search(_NO_OPERATOR.sub("x", pattern)):
        raise InvalidRequestError(
            f"{param} is not a regular expression: a quantifier follows a quantifier.", param=param
        )


def _escaped(pattern: str) -> str:
    """A regular expression between slashes."""
    return re.sub(
        r"\\.|/|\n",
        lambda m: {"/": r"\/", "\n": r"\n"}.get(m[0], m[0]),
        pattern,
        flags=re.DOTALL,
    )
