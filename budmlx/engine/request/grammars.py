"""Grammar of a reply: its form, its tool calls, and the reasoning before them.

Grammars are written in llguidance's Lark dialect. A control token stands as `<[id]>`, for
text never spells one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import msgspec

from budmlx.engine.reply.parsers import Parsers, active_tools
from budmlx.engine.reply.thinking import Thinking
from budmlx.engine.request.prepare import PER_VALUE, costs, exceeds
from budmlx.engine.request.schemas import SPACE, check_pattern, constrainable, unknown_formats
from budmlx.errors import InvalidRequestError
from budmlx.plugins.boundary import calling
from budmlx.plugins.parsing import CallSyntax, ToolParserSpec
from budmlx.protocol import Grammar, ReasoningBudget
from budmlx.types import Request, ResponseFormat, Tool

ANY_TEXT = r"/(.|\n)*/"
MAX_FORM = 1_048_576
"""Characters of a form, or of the schemas of all tools whose calls are constrained."""
FORMS = frozenset(["pattern", "format", "minLength", "maxLength"])
"""What a schema says of the form of a text."""
# Tokens of a reply that reasoning leaves to the form; of a short reply it leaves half.
ROOM = 512


def grammar_of(
    request: Request, parsers: Parsers, tail: str, *, budget: bool = False
) -> Grammar | None:
    """The grammar of the reply; None if any text is allowed.

    tail: the end of the prompt. budget: the reasoning is ended elsewhere, see `leaving_room`.

    Raises:
        InvalidRequestError: the model's calls cannot be forced, a pattern is wrong, or what is to
            be followed is too large.
        PluginError: a parser's syntax failed.
    """
    tools, choice = active_tools(request), request.tool_choice
    if choice.name is not None:
        tools = tuple(tool for tool in tools if tool.name == choice.name)
    forced, strict = is_forced(request), _is_strict(request)
    form = None if forced else request.response_format
    if form is None and not (forced or (strict and can_be_strict(parsers))):
        return None
    tokens = {
        token.content: token_id
        for token_id, token in parsers.tokenizer.backend.get_added_tokens_decoder().items()
    }
    _check_sizes(form, tools)
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
    thinking = parsers.thinking(request, tail)
    if thinking is None:
        writer.start(" | ".join(body))
    else:
        most = None if budget else _most_reasoning(request)
        writer.start_after(thinking, " | ".join(body), _begins_with_line_break(form), most)
    param = form.param if form is not None else "tools"
    return Grammar(source=writer.source(), param=param)


def enforced_costs(request: Request) -> Iterator[int]:
    """The costs of what a grammar may be made of, to be added up."""
    if request.response_format is not None:
        yield from costs(request.response_format.value)
    if request.response_format is not None or is_forced(request) or _is_strict(request):
        for tool in active_tools(request):
            yield from costs(tool.parameters)


def _check_sizes(form: ResponseFormat | None, tools: Sequence[Tool]) -> None:
    """Refuse what is too large to be followed. Raises InvalidRequestError."""
    if form is not None and exceeds(costs(form.value), MAX_FORM):
        raise InvalidRequestError(
            f"{form.param} is too large: it may have {MAX_FORM} characters, and each value in it "
            f"counts as {PER_VALUE} more.",
            param=form.param,
        )
    if exceeds(chain.from_iterable(costs(tool.parameters) for tool in tools), MAX_FORM):
        raise InvalidRequestError(
            f"The schemas of tools are too large: where calls are constrained they may have "
            f"{MAX_FORM} characters together, and each value in them counts as {PER_VALUE} more.",
            param="tools",
        )


def _is_strict(request: Request) -> bool:
    return any(tool.strict for tool in active_tools(request))


def is_forced(request: Request) -> bool:
    """Whether the reply must be a call, and `response_format` has no effect."""
    return bool(active_tools(request)) and request.tool_choice.mode == "required"


def _begins_with_line_break(form: ResponseFormat | None) -> bool:
    """Whether the form may begin with a line break, as far as one can tell without compiling it."""
    if form is None or form.kind.startswith("json"):
        return False
    return form.kind != "choice" or any(text.startswith("\n") for text in form.value)


def _most_reasoning(request: Request) -> int | None:
    """The tokens that reasoning before a form may take; None if the reply has no limit."""
    most = request.sampling.max_tokens
    return None if most is None else most - min(most // 2, ROOM)


def leaving_room(budget: ReasoningBudget, request: Request) -> ReasoningBudget:
    """The budget, or a smaller one where the form of the answer would have no room otherwise."""
    most = _most_reasoning(request)
    if most is None:
        return budget
    tokens = min(budget.tokens, max(most - len(budget.closings[0]), 0))
    return msgspec.structs.replace(budget, tokens=tokens)


def can_be_strict(parsers: Parsers) -> bool:
    """Whether calls that the model chooses to make can be constrained."""
    syntax = parsers.calls.value.syntax if parsers.calls is not None else None
    return syntax is not None and not syntax.only_forced


def unenforced_formats(request: Request, parsers: Parsers) -> list[str]:
    """The values of `format` that nothing enforces, in schemas that are enforced otherwise."""
    found: set[str] = set()
    for tool in _constrained(request, parsers):
        found |= unknown_formats(tool.parameters)
    form = request.response_format
    if form is not None and form.kind == "json_schema":
        found |= unknown_formats(form.value)
    return sorted(found)


def unenforced_texts(request: Request, parsers: Parsers) -> list[str]:
    """The arguments whose form this model's calls do not enforce, as `tool.argument`."""
    syntax = parsers.calls.value.syntax if parsers.calls is not None else None
    if syntax is None or not syntax.plain:
        return []
    return [
        f"{tool.name}.{name}"
        for tool in _constrained(request, parsers)
        for name, schema in _properties(tool)
        if isinstance(schema, Mapping) and "enum" not in schema and not FORMS.isdisjoint(schema)
    ]


def _properties(tool: Tool) -> Iterable[tuple[str, Any]]:
    found = tool.parameters.get("properties")
    return found.items() if isinstance(found, Mapping) else ()


def _constrained(request: Request, parsers: Parsers) -> list[Tool]:
    """The tools whose calls are constrained."""
    strict, form = can_be_strict(parsers), request.response_format
    every = request.tool_choice.mode == "required" or form is not None
    return [tool for tool in active_tools(request) if every or (strict and tool.strict)]


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

    def start(self, body: str) -> None:
        """The first rule, without reasoning before the body."""
        self._rule("start", body)

    def start_after(self, thinking: Thinking, body: str, fixed: bool, most: int | None) -> None:
        """The first rule, with the reasoning before the body.

        fixed: there is one gap only, since the body may begin with what could be one.
        most: tokens of reasoning, where a control token ends it.
        """
        least = thinking.newlines if fixed else 0
        if most is not None and thinking.end in self._tokens:
            self._rule(f"words[max_tokens={most}]", ANY_TEXT)
            self._rule("thought", f"words <[{self._tokens[thinking.end]}]>")
        else:
            self._until("thought", thinking.end)
        self._rule("gap", f"/\\n{{{least},{thinking.newlines}}}/")
        before = "thought gap"
        if not thinking.begun:
            before = f"({self._literal(thinking.begin)} {before})?"
        self._rule("start", f"{before} body")
        self._rule("body", body)

    def document(self, form: ResponseFormat) -> None:
        """The sub-grammar of a response format."""
        part: dict[str, Any] = {"name": "document"}
        if form.kind in ("json_object", "json_schema"):
            schema = form.value if form.kind == "json_schema" else {"type": "object"}
            part["json_schema"] = constrainable(schema, form.param)
        elif form.kind == "grammar":
            part["lark_grammar"] = form.value
        elif form.kind == "regex":
            check_pattern(form.value, form.param)
            part["lark_grammar"] = f"start: /{_escaped(form.value)}/"
        else:
            part["lark_grammar"] = "start: " + " | ".join(map(json.dumps, form.value))
        self._parts.append(part)

    def calls(self, syntax: CallSyntax, tools: Sequence[Tool], *, several: bool) -> None:
        """Rules `calls` for calls alone and `talk` for text with calls in it."""
        names, continued = [], []
        for number, tool in enumerate(tools):
            schema = constrainable(tool.parameters, "tools", SPACE)
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


def _escaped(pattern: str) -> str:
    """A regular expression between slashes."""
    return re.sub(
        r"\\.|/|\n",
        lambda m: {"/": r"\/", "\n": r"\n"}.get(m[0], m[0]),
        pattern,
        flags=re.DOTALL,
    )
