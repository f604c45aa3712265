"""Families that write a call as tags, with a tag for each argument."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from budmlx.builtin.reader import Broken, Reader, Steps
from budmlx.builtin.tool_parsers.bare import as_json
from budmlx.builtin.tool_parsers.family import Family
from budmlx.builtin.tool_parsers.named import NAME
from budmlx.builtin.tool_parsers.scanner import Calls, Form
from budmlx.builtin.tool_parsers.schema import kinds, object_text, properties
from budmlx.builtin.tool_parsers.tag_values import KEY, Values
from budmlx.builtin.tool_parsers.tags import TagGrammar, Tags
from budmlx.plugins.parsing import CallGrammar, CallSyntax, ModelTraits, Tool

_SECTION = re.compile(r"<!\[CDATA\[(.*?)\]\]>", re.DOTALL)
_CDATA = re.compile(rf"(?:{_SECTION.pattern})+", re.DOTALL)


def _reading(tags: Tags) -> Callable[[Reader, Calls, str], Steps[None]]:
    def read(reader: Reader, calls: Calls, opener: str) -> Steps[None]:
        if opener != tags.begin:
            yield from reader.one_of(tags.begin)
        name = yield from reader.run(NAME)
        if not name:
            raise Broken
        if tags.named:
            yield from reader.one_of(tags.named)
        schema = calls.schemas.get(name, {})
        members: dict[str, str] = {}
        keys = set(properties(schema)) or None
        marked = bool(tags.outer[0]) and opener == tags.outer[0]
        values = Values(reader, tags, marked, keys)
        while (yield from _next_key(reader, tags, marked, bool(members) or name in calls.schemas)):
            key = (yield from reader.run(KEY)).strip()
            for text in tags.keyed:
                yield from reader.one_of(text)
            value = yield from values.read()
            if tags.padded:
                value = value.removeprefix("\n").removesuffix("\n")
            if tags.cdata and _CDATA.fullmatch(value.strip()):
                value = "".join(_SECTION.findall(value))
            if keys:
                keys.discard(key)
            members[key] = as_json(value, kinds(properties(schema).get(key), schema))
        calls.whole(name, object_text(members))

    return read


def _next_key(reader: Reader, tags: Tags, marked: bool, complete: bool) -> Steps[bool]:
    """Read the tag before a key, or the end of the call.

    marked: as in `Values`; the tag around the call may stand in for its end.
    complete: what was read may be a call that lacks its end, if the model ended the reply.
    """
    yield from reader.space()
    closing = tags.outer[1] if marked and complete else tags.end
    begun = reader.place
    tag = yield from reader.maybe(tags.key, tags.end, closing)
    if tag == closing != tags.end:
        reader.back(begun)
    elif not tag:
        if not (complete and reader.finished and reader.cut_off(tags.key, tags.end)):
            raise Broken
        reader.at = len(reader.buffer)
    return tag == tags.key


def _syntax(tags: Tags, model: ModelTraits) -> CallSyntax:
    # Later models of some families leave the white space out, as their templates show.
    if len(tags.keyed) > 1 and "".join(tags.keyed) in model.template:
        tags = replace(tags, line="")
    line, (opening, closing) = tags.line, tags.outer
    if not opening:
        call = TagGrammar(tags, model.tokens).call
        return CallSyntax(tags.begin, call, separator=line, plain=True)
    if tags.alone:
        call = TagGrammar(tags, model.tokens, opening + line, line + closing).call
        return CallSyntax(opening, call, separator=line, plain=True)
    # No separator: it would be the beginning of what closes the section, and win over it.
    call = TagGrammar(tags, model.tokens, after=line).call
    return CallSyntax(opening, call, open=opening + line, close=closing, plain=True)


def _family(name: str, tags: Tags, *signs: str) -> Family:
    outer = [text for text in tags.outer if text]
    return Family(
        name,
        Form((*outer[:1], tags.begin), _reading(tags), closers=tuple(outer[1:])),
        signs,
        lambda model: _syntax(tags, model),
        (tags.key, *tags.keyed, tags.valued, tags.end),
    )


def _keys_and_values(prefix: str) -> Tags:
    """Calls as <arg_key>...</arg_key><arg_value>...</arg_value>."""
    return Tags(
        begin=f"<{prefix}tool_call>",
        named="",
        key=f"<{prefix}arg_key>",
        keyed=(f"</{prefix}arg_key>", f"<{prefix}arg_value>"),
        valued=f"</{prefix}arg_value>",
        end=f"</{prefix}tool_call>",
    )


_QWEN = Tags(
    begin="<function=",
    named=">",
    key="<parameter=",
    keyed=(">",),
    valued="</parameter>",
    end="</function>",
    outer=("<tool_call>", "</tool_call>"),
    alone=True,
    padded=True,
)


def _invokes(prefix: str, section: str) -> Tags:
    """Calls as <invoke name="..."><parameter name="...">...</parameter></invoke>."""
    return Tags(
        begin=f'<{prefix}invoke name="',
        named='">',
        key=f'<{prefix}parameter name="',
        keyed=('">',),
        valued=f"</{prefix}parameter>",
        end=f"</{prefix}invoke>",
        outer=(f"<{section}>", f"</{section}>"),
    )


_ATEM = _invokes("atem:", "atem:function_calls")
_REPLY, _MESSAGE, _MORE, _END = "<|start|>assistant", "<|message|>", "<|eom|>", "<|eot|>"


def _read_muse(reader: Reader, calls: Calls, opener: str) -> Steps[None]:
    """Read a call, and the header of its message if that is the opener."""
    if opener in ("to=", _REPLY):
        yield from reader.until(_MESSAGE)
        opener = yield from reader.one_of(_ATEM.outer[0])
    yield from _reading(_ATEM)(reader, calls, opener)


def _muse_syntax(model: ModelTraits) -> CallSyntax:
    opening, closing = _ATEM.outer
    line = _ATEM.line
    write = TagGrammar(_ATEM, model.tokens, opening + line, line + closing).call

    def call(tool: Tool) -> CallGrammar:
        written = write(tool)
        return replace(written, begin=f" to={tool.name}{_MESSAGE}{written.begin}")

    return CallSyntax("", call, separator=_MORE + _REPLY, only_forced=True, plain=True)


QWEN3_CODER = _family("qwen3-coder", _QWEN, "<tool_call>\\n<function=", "<tool_call>\n<function=")
GLM = _family("glm", _keys_and_values(""), "<arg_key>")
LONGCAT = _family("longcat", _keys_and_values("longcat_"), "<longcat_arg_key>")
MINIMAX = _family("minimax-m2", _invokes("", "minimax:tool_call"), "<minimax:tool_call>")
MINICPM5 = _family(
    "minicpm5",
    Tags(
        begin='<function name="',
        named='">',
        key='<param name="',
        keyed=('">',),
        valued="</param>",
        end="</function>",
        line="",
        cdata=True,
    ),
    '<param name="',
)
MUSE = Family(
    "muse",
    Form(
        (_REPLY, _ATEM.outer[0], _ATEM.begin),
        _read_muse,
        closers=(_ATEM.outer[1], _MORE, _END),
        bare="to=",
    ),
    ("<atem:function_calls>",),
    _muse_syntax,
    ("<|start|>", _MESSAGE),
)
