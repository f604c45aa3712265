"""Families that write a name, and then arguments as an object."""

from __future__ import annotations

import re

from budmlx.builtin.reader import Broken, Reader, Steps
from budmlx.builtin.tool_parsers.family import Family, json_arguments
from budmlx.builtin.tool_parsers.json_text import arguments
from budmlx.builtin.tool_parsers.objects import call_text, read_objects
from budmlx.builtin.tool_parsers.scanner import Calls, Form
from budmlx.plugins.parsing import CallGrammar, CallSyntax, ModelTraits

NAME = re.compile(r"[^\s<>\[\]{}()\"'`,;=|\uff5c]*+")


def _take(reader: Reader, calls: Calls, name: str) -> Steps[None]:
    calls.begin(name)
    yield from arguments(reader, calls.arguments)


# Mistral: [TOOL_CALLS] and a list of objects, later [TOOL_CALLS]name[ARGS]{...} for each call.


def _read_mistral(reader: Reader, calls: Calls, opener: str) -> Steps[None]:
    yield from reader.space()
    if (yield from reader.peek()) in ("[", "{"):
        yield from read_objects(reader, calls, opener)
        return
    name = yield from reader.run(NAME)
    if (yield from reader.maybe("[CALL_ID]")):
        calls.identify((yield from reader.run(NAME)))
    if not (yield from reader.maybe("[ARGS]")):
        yield from reader.space()
        if (yield from reader.peek()) != "{":
            raise Broken
    yield from _take(reader, calls, name)
    calls.end()


def _mistral_syntax(model: ModelTraits) -> CallSyntax:
    if "[ARGS]" in model.template:
        return CallSyntax(
            "[TOOL_CALLS]",
            lambda tool: CallGrammar(f"[TOOL_CALLS]{tool.name}[ARGS]", json_arguments(tool), ""),
        )
    return CallSyntax(
        "[TOOL_CALLS]", call_text("", ""), open="[TOOL_CALLS][", separator=", ", close="]"
    )


MISTRAL = Family(
    "mistral",
    Form(("[TOOL_CALLS]",), _read_mistral),
    signs=("[TOOL_CALLS]",),
    syntax=_mistral_syntax,
    visible=("[ARGS]", "[CALL_ID]"),
)

# Kimi K2: the name stands in an id, functions.name:0.

_KIMI_SECTION = "<|tool_calls_section_begin|>"
_KIMI_SECTION_END = "<|tool_calls_section_end|>"
_KIMI_CALL, _KIMI_END = "<|tool_call_begin|>", "<|tool_call_end|>"
_KIMI_ARGUMENTS = "<|tool_call_argument_begin|>"
_KIMI_ID = re.compile(r"(?:functions\.)?(.*?)(?::\d+)?")


def _read_kimi(reader: Reader, calls: Calls, opener: str) -> Steps[None]:
    if opener == _KIMI_SECTION:
        yield from reader.one_of(_KIMI_CALL)
    yield from reader.space()
    call_id = yield from reader.run(NAME)
    match = _KIMI_ID.fullmatch(call_id)
    assert match is not None
    calls.identify(call_id)
    yield from reader.one_of(_KIMI_ARGUMENTS)
    yield from _take(reader, calls, match[1])
    yield from reader.ending(_KIMI_END)
    calls.end()


KIMI = Family(
    "kimi-k2",
    Form((_KIMI_SECTION, _KIMI_CALL), _read_kimi, (_KIMI_SECTION_END,), ends=(_KIMI_END,)),
    signs=(_KIMI_SECTION,),
    syntax=lambda model: CallSyntax(
        _KIMI_SECTION,
        lambda tool: CallGrammar(
            f"{_KIMI_CALL}functions.{tool.name}:0{_KIMI_ARGUMENTS}",
            json_arguments(tool),
            _KIMI_END,
        ),
        open=_KIMI_SECTION,
        close=_KIMI_SECTION_END,
    ),
    visible=(_KIMI_ARGUMENTS,),
)

# DeepSeek: type, name and a block of code up to V3 and R1, name and arguments from V3.1 on.


def _deep(text: str) -> str:
    return f"<\uff5c{text.replace(' ', chr(0x2581))}\uff5c>"


_DEEP_SECTION, _DEEP_SECTION_END = _deep("tool calls begin"), _deep("tool calls end")
_DEEP_CALL, _DEEP_END = _deep("tool call begin"), _deep("tool call end")
_DEEP_SEPARATOR = _deep("tool sep")


def _read_deepseek(reader: Reader, calls: Calls, opener: str) -> Steps[None]:
    if opener == _DEEP_SECTION:
        yield from reader.one_of(_DEEP_CALL)
    yield from reader.space()
    name = yield from reader.run(NAME)
    yield from reader.one_of(_DEEP_SEPARATOR)
    yield from reader.space()
    # Before V3.1 the first word is a type, and the name follows it.
    name = (yield from reader.run(NAME)) or name
    yield from reader.space()
    fence = yield from reader.maybe("```json")
    yield from _take(reader, calls, name)
    if fence:
        yield from reader.ending("```")
    yield from reader.ending(_DEEP_END)
    calls.end()


def _deepseek_syntax(model: ModelTraits) -> CallSyntax:
    old = "```json" in model.template
    before, after = ("\n```json\n", "\n```") if old else (_DEEP_SEPARATOR, "")
    kind = f"function{_DEEP_SEPARATOR}" if old else ""
    return CallSyntax(
        _DEEP_SECTION,
        lambda tool: CallGrammar(
            f"{_DEEP_CALL}{kind}{tool.name}{before}", json_arguments(tool), after + _DEEP_END
        ),
        open=_DEEP_SECTION,
        separator="\n" if old else "",
        close=_DEEP_SECTION_END,
    )


DEEPSEEK = Family(
    "deepseek",
    Form((_DEEP_SECTION, _DEEP_CALL), _read_deepseek, (_DEEP_SECTION_END,), ends=(_DEEP_END,)),
    signs=(_DEEP_SECTION,),
    syntax=_deepseek_syntax,
    visible=(_DEEP_SEPARATOR,),
)

# Harmony (gpt-oss): a message to functions.name, which stands in either part of the header.

_RECIPIENT = re.compile(r"\bto=(?:functions\.)?([^\s<]+)")


def _read_harmony(reader: Reader, calls: Calls, opener: str) -> Steps[None]:
    header = opener + (yield from reader.until("<|message|>"))
    recipient = _RECIPIENT.search(header)
    if recipient is None:
        raise Broken
    yield from _take(reader, calls, recipient[1])
    yield from reader.ending("<|call|>", "<|end|>")
    calls.end()


HARMONY = Family(
    "harmony",
    Form(
        ("<|start|>assistant", "<|channel|>"),
        _read_harmony,
        bare="to=",
        ends=("<|call|>", "<|end|>"),
    ),
    signs=("<|constrain|>",),
    syntax=lambda model: CallSyntax(
        "",
        lambda tool: CallGrammar(
            f"<|channel|>commentary to=functions.{tool.name} <|constrain|>json<|message|>",
            json_arguments(tool),
            "<|call|>",
        ),
        separator="<|start|>assistant",
        only_forced=True,
    ),
    visible=("<|start|>", "<|message|>", "<|constrain|>"),
    in_reasoning=False,
)
