"""Kimi K3's calls: elements with attributes, whose tags are made of control tokens."""

from __future__ import annotations

import re

from budmlx.builtin.reader import Broken, Reader, Steps
from budmlx.builtin.tool_parsers.bare import as_json
from budmlx.builtin.tool_parsers.family import Family, json_arguments
from budmlx.builtin.tool_parsers.json_text import parse
from budmlx.builtin.tool_parsers.scanner import Calls, Form
from budmlx.builtin.tool_parsers.schema import dumps, kinds, object_text, properties
from budmlx.plugins.parsing import CallGrammar, CallSyntax

_SEP = "<|sep|>"
_SECTION, _SECTION_END = f"<|open|>tools{_SEP}", f"<|close|>tools{_SEP}"
_CALL, _CALL_END = "<|open|>call ", f"<|close|>call{_SEP}"
_ARGUMENT, _ARGUMENT_END = "<|open|>argument ", f"<|close|>argument{_SEP}"
_JSON, _JSON_END = "<|open|>json", f"<|close|>json{_SEP}"
_ATTRIBUTE = re.compile(r'(\w+)="([^"]*)"')


def _attributes(text: str) -> dict[str, str]:
    return {
        name: value.replace("&quot;", '"').replace("&amp;", "&")
        for name, value in _ATTRIBUTE.findall(text)
    }


def _read(reader: Reader, calls: Calls, opener: str) -> Steps[None]:
    if opener == _SECTION:
        yield from reader.one_of(_CALL)
    name = _attributes((yield from reader.until(_SEP))).get("tool", "")
    schema = calls.schemas.get(name, {})
    members: dict[str, str] = {}
    whole = ""
    while True:
        yield from reader.space()
        if reader.finished and reader.cut_off(_CALL_END):
            reader.at = len(reader.buffer)
            break
        tag = yield from reader.one_of(_ARGUMENT, _JSON, _CALL_END)
        if tag == _CALL_END:
            break
        attributes = _attributes((yield from reader.until(_SEP)))
        if tag == _JSON:
            whole = (yield from reader.until(_JSON_END)).strip()
            if not isinstance(parse(whole), dict):
                raise Broken
            continue
        key = attributes.get("key")
        if key is None:
            raise Broken
        text = yield from reader.until(_ARGUMENT_END)
        allowed = kinds(properties(schema).get(key), schema)
        members[key] = dumps(text) if attributes.get("type") == "string" else as_json(text, allowed)
    calls.whole(name, whole or object_text(members))


KIMI_K3 = Family(
    "kimi-k3",
    Form((_SECTION, _CALL), _read, closers=(_SECTION_END,)),
    signs=(_SECTION, "<|end_of_msg|>"),
    syntax=lambda model: CallSyntax(
        _SECTION,
        lambda tool: CallGrammar(
            f'{_CALL}tool="{tool.name}" index="1"{_SEP}{_JSON} type="object"{_SEP}',
            json_arguments(tool),
            _JSON_END + _CALL_END,
        ),
        open=_SECTION,
        close=_SECTION_END,
    ),
    visible=("<|open|>", "<|close|>", _SEP),
)
