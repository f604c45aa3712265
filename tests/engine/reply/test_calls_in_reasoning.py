"""A complete call in a block of reasoning is a call; a mention of one stays reasoning."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budmlx.builtin.reasoning import provide_reasoning_parser
from budmlx.builtin.tool_parsers import provide_tool_parser
from budmlx.engine.reply.output_reader import OutputReader, Stage
from budmlx.plugins.parsing import Call, Content, ModelTraits, Piece, Thought
from budmlx.types import Tool
from tests.amount import examples

TOOL = Tool("f", "", {"type": "object", "properties": {"a": {"type": "integer"}}})
QWEN = "<tool_call>\n<function={}>\n<parameter=a>\n{}\n</parameter>\n</function>\n</tool_call>"
HERMES = '<tool_call>\n{{"name": "{}", "arguments": {{"a": {}}}}}\n</tool_call>'
GLM = "<tool_call>{}<arg_key>a</arg_key><arg_value>{}</arg_value></tool_call>"
KIMI = (
    "<|tool_calls_section_begin|><|tool_call_begin|>functions.{}:0<|tool_call_argument_begin|>"
    '{{"a": {}}}<|tool_call_end|><|tool_calls_section_end|>'
)
GEMMA = "<|tool_call>call:{}{{a:{}}}<tool_call|>"
# Reasoning parser, the texts around a block, tool parser, a call, how a call begins.
FAMILIES = [
    ("think", "<think>", "</think>", "qwen3-coder", QWEN, "<tool_call>\n<function=f>"),
    ("think", "<think>", "</think>", "hermes", HERMES, "<tool_call>"),
    ("think", "<think>", "</think>", "glm", GLM, "<tool_call>f<arg_key>"),
    ("think", "<think>", "</think>", "kimi-k2", KIMI, "<|tool_call_begin|>functions.f"),
    ("gemma4", "<|channel>thought", "<channel|>", "gemma4", GEMMA, "<|tool_call>call:f{"),
]
FAMILY = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: str(family[3]))
Family = tuple[str, str, str, str, str, str]


def reader(family: Family, *, one_call: bool = False) -> OutputReader:
    model = ModelTraits("", "")
    thinking = provide_reasoning_parser(family[0], model)
    calling = provide_tool_parser(family[3], model)
    assert thinking is not None and calling is not None and calling.in_reasoning is not None
    make = calling.in_reasoning
    return OutputReader(
        Stage(thinking.make(""), "built-in", "reasoning parser"),
        Stage(calling.make((TOOL,), False), "built-in", "tool parser"),
        drafts=lambda: Stage(make((TOOL,)), "built-in", "tool parser"),
        one_call=one_call,
        new_id=lambda: "new",
    )


def read(output: OutputReader, pieces: Sequence[str]) -> tuple[str, str, list[object]]:
    """The reasoning, the content and the arguments of all calls."""
    found: list[Piece] = []
    for number, piece in enumerate(pieces, 1):
        found += output.push(piece, last=number == len(pieces), finished=number == len(pieces))
    text = "".join(pieces)
    for part in found:
        if isinstance(part, Content | Thought):
            assert text[part.start : part.start + len(part.text)] == part.text
    return (
        "".join(part.text for part in found if isinstance(part, Thought)),
        "".join(part.text for part in found if isinstance(part, Content)),
        [json.loads(part.arguments) for part in found if isinstance(part, Call)],
    )


@FAMILY
@pytest.mark.parametrize("pieces", [False, True], ids=["whole", "streamed"])
def test_a_complete_call_counts(family: Family, pieces: bool) -> None:
    _, begin, end, _, call, _ = family
    one, two = call.format("f", 1), call.format("f", 2)
    for text, expected in [
        (f"{begin}I call.\n{one}", ("I call.", "", [{"a": 1}])),
        (f"{begin}I call.\n{one}\n{end}\n\nDone.", ("I call.", "Done.", [{"a": 1}])),
        (f"{begin}I call.\n{one}{two}\nand wait", ("I call.\nand wait", "", [{"a": 1}, {"a": 2}])),
        (f"{begin}{one}{end}{two}", ("", "", [{"a": 1}, {"a": 2}])),
        (f"{begin}I draft: {one}{end}\n\n{one}", ("I draft:", "", [{"a": 1}])),
    ]:
        assert read(reader(family), [*text, ""] if pieces else [text]) == expected


@FAMILY
def test_a_mention_stays_reasoning(family: Family) -> None:
    _, begin, end, _, call, opening = family
    other = call.format("no_tool", 1)
    for thought in (f"I may use {opening} or not.", f"As in {other}, perhaps.", opening, other):
        text = f"{begin}{thought}{end}No."
        for pieces in ([text], [*text, ""]):
            assert read(reader(family), pieces) == (thought, "No.", [])


@FAMILY
@settings(max_examples=examples(10), deadline=None)
@given(data=st.data())
def test_it_is_read_the_same_however_it_is_cut(family: Family, data: st.DataObject) -> None:
    _, begin, end, _, call, opening = family
    parts = [begin, end, call.format("f", 1), call.format("g", 1), opening, "\n", " ", "So.", "<"]
    text = begin + "".join(data.draw(st.lists(st.sampled_from(parts), max_size=8)))
    places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    cut = [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]
    for one_call in (False, True):
        whole = read(reader(family, one_call=one_call), [text])
        assert read(reader(family, one_call=one_call), cut) == whole


@FAMILY
def test_reasoning_within_what_was_no_call(family: Family) -> None:
    _, begin, end, _, _, opening = family
    text = f"{begin}{end}{opening}{begin}{end}{end}"
    whole = read(reader(family), [text])
    assert read(reader(family), [*text]) == whole
    assert opening in whole[1]


def test_the_only_call_may_be_in_reasoning() -> None:
    for family in FAMILIES:
        _, begin, end, _, call, _ = family
        output = reader(family, one_call=True)
        text = f"{begin}I call.{call.format('f', 1)} So {end} Done. {call.format('f', 2)}"
        assert read(output, [text]) == ("I call.", "", [{"a": 1}])
        assert output.ended


def test_channels_tell_calls_from_reasoning() -> None:
    harmony = provide_tool_parser("harmony", ModelTraits("", ""))
    assert harmony is not None and harmony.in_reasoning is None
