"""Families that write a call as an object with a name and arguments."""

from __future__ import annotations

import json
from collections.abc import Callable

from budmlx.builtin.reader import Reader, Steps
from budmlx.builtin.tool_parsers.family import Family, json_arguments
from budmlx.builtin.tool_parsers.json_text import call_object
from budmlx.builtin.tool_parsers.scanner import Calls, Form
from budmlx.plugins.parsing import CallGrammar, CallSyntax, ModelTraits, Tool


def read_objects(reader: Reader, calls: Calls, opener: str, end: str = "") -> Steps[None]:
    """Read one object, or a list of objects, and the end marker.

    opener: `{` if the brace of the first object was read with it.
    """
    marked = opener != "{"
    mark = (yield from reader.one_of("{", "[")) if marked else opener
    listed = mark == "["
    if listed:
        yield from reader.one_of("{")
    yield from call_object(reader, calls, marked)
    while listed:
        calls.end()
        mark = yield from reader.ending(",", "]")
        listed = mark == ","
        if listed:
            yield from reader.one_of("{")
            yield from call_object(reader, calls, marked)
    if end:
        yield from reader.ending(end)
    if calls.begun:
        calls.end()


def reading(end: str) -> Callable[[Reader, Calls, str], Steps[None]]:
    """`read_objects` with an end marker."""
    return lambda reader, calls, opener: read_objects(reader, calls, opener, end)


def call_text(
    before: str, after: str, name: str = "name", arguments: str = "arguments"
) -> Callable[[Tool], CallGrammar]:
    """The grammar of an object, with text around it. name, arguments: its keys."""

    def grammar(tool: Tool) -> CallGrammar:
        begin = f'{before}{{"{name}": {json.dumps(tool.name)}, "{arguments}": '
        return CallGrammar(begin, json_arguments(tool), "}" + after)

    return grammar


def _hermes_syntax(model: ModelTraits) -> CallSyntax:
    space = "" if '<tool_call>{"name"' in model.template else "\n"
    call = call_text(f"<tool_call>{space}", f"{space}</tool_call>")
    return CallSyntax("<tool_call>", call, separator="\n")


def _list_syntax(opener: str) -> CallSyntax:
    return CallSyntax(opener, call_text("", ""), open=f"{opener}[", separator=", ", close="]")


HERMES = Family(
    "hermes",
    Form(("<tool_call>",), reading("</tool_call>"), ends=("</tool_call>",)),
    signs=("<tool_call>",),
    syntax=_hermes_syntax,
)
LLAMA = Family(
    "llama",
    Form(("<|python_tag|>",), read_objects, bare="{"),
    signs=("<|python_tag|>", '{"name": function name, "parameters": '),
    # Nothing tells the beginning of a call from that of any other object.
    syntax=lambda model: CallSyntax("", call_text("", "", arguments="parameters"), separator="; "),
)
GRANITE = Family(
    "granite",
    Form(("<|tool_call|>",), read_objects),
    signs=("<|tool_call|>",),
    syntax=lambda model: _list_syntax("<|tool_call|>"),
)
COHERE = Family(
    "cohere",
    Form(("<|START_ACTION|>",), reading("<|END_ACTION|>"), ends=("<|END_ACTION|>",)),
    signs=("<|START_ACTION|>",),
    syntax=lambda model: CallSyntax(
        "<|START_ACTION|>",
        call_text("", "", "tool_name", "parameters"),
        open="<|START_ACTION|>[",
        separator=", ",
        close="]<|END_ACTION|>",
    ),
)
