"""Text taken apart into reasoning, content and calls, however it arrives."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budmlx.builtin.reasoning import provide_reasoning_parser
from budmlx.builtin.tool_parsers import provide_tool_parser
from budmlx.engine.reply.output_reader import OutputReader, Stage
from budmlx.errors import PluginError
from budmlx.plugins.parsing import (
    Call,
    CallBegun,
    Content,
    ModelTraits,
    OutputParser,
    Piece,
    Thought,
)
from budmlx.types import Tool

TRAITS = ModelTraits("qwen3", "<think> <tool_call> {{ tools }}", frozenset())
CALL = '<tool_call>{"name": "f", "arguments": {"a": "b"}}</tool_call>'


def reader(
    *, thinks: bool = True, calls: bool = True, one_call: bool = False, in_pieces: bool = False
) -> OutputReader:
    thinking = provide_reasoning_parser(name="auto", model=TRAITS)
    calling = provide_tool_parser(name="hermes", model=TRAITS)
    assert thinking is not None and calling is not None
    return OutputReader(
        Stage(thinking.make(""), "built-in", "reasoning parser") if thinks else None,
        Stage(calling.make([Tool("f")], in_pieces), "built-in", "tool parser") if calls else None,
        one_call=one_call,
        new_id=lambda: "new",
    )


def read(output: OutputReader, pieces: Sequence[str]) -> list[Piece]:
    found: list[Piece] = []
    for number, piece in enumerate(pieces):
        found += output.push(piece, last=number == len(pieces) - 1)
    return found


def joined(pieces: Iterable[Piece]) -> tuple[str, str, list[Call]]:
    pieces = list(pieces)
    return (
        "".join(p.text for p in pieces if isinstance(p, Thought)),
        "".join(p.text for p in pieces if isinstance(p, Content)),
        [p for p in pieces if isinstance(p, Call)],
    )


WHOLE = f"<think>\nlet me see\n</think>\n\nI ask. {CALL}\n{CALL} Done <b>."


def test_reasoning_content_and_calls() -> None:
    thought, content, calls = joined(read(reader(), [WHOLE]))
    assert thought == "let me see"
    assert content.split() == ["I", "ask.", "Done", "<b>."]
    assert [(c.name, json.loads(c.arguments)) for c in calls] == [("f", {"a": "b"})] * 2


@given(cuts=st.lists(st.integers(0, len(WHOLE)), max_size=12))
def test_cuts_change_nothing_and_places_are_right(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(WHOLE)]
    pieces = [WHOLE[a:b] for a, b in itertools.pairwise(edges)]
    found = read(reader(), pieces)
    assert joined(found) == joined(read(reader(), [WHOLE]))
    for piece in found:
        if isinstance(piece, Content | Thought):
            assert WHOLE[piece.start : piece.start + len(piece.text)] == piece.text


@given(cuts=st.lists(st.integers(0, len(WHOLE)), max_size=12))
def test_each_stage_alone(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(WHOLE)]
    pieces = [WHOLE[a:b] for a, b in itertools.pairwise(edges)]
    _, content, calls = joined(read(reader(calls=False), pieces))
    assert CALL in content and not calls
    found = read(reader(calls=False), pieces)
    for piece in found:
        if isinstance(piece, Content):
            assert WHOLE[piece.start : piece.start + len(piece.text)] == piece.text
    thought, content, calls = joined(read(reader(thinks=False), pieces))
    assert not thought and "let me see" in content and len(calls) == 2


def test_nothing_counts_after_the_only_call() -> None:
    output = reader(one_call=True)
    _, content, calls = joined(read(output, [WHOLE]))
    assert len(calls) == 1 and output.ended and "Done" not in content


@pytest.mark.parametrize("in_pieces", [False, True], ids=["whole", "in-pieces"])
@pytest.mark.parametrize("text", [[f"I ask. {CALL} Done."], ["I ask. ", *CALL, " Done."]])
def test_text_after_the_only_call_is_dropped(text: list[str], in_pieces: bool) -> None:
    output = reader(one_call=True, in_pieces=in_pieces)
    found = read(output, text)
    _, content, whole = joined(found)
    begun = [piece for piece in found if isinstance(piece, CallBegun)]
    assert (len(whole), len(begun)) == ((0, 1) if in_pieces else (1, 0))
    assert content.strip() == "I ask." and output.ended


def test_the_only_call_ends_the_reply_at_once_where_it_comes_whole() -> None:
    output = reader(one_call=True)
    _, _, calls = joined(output.push(CALL, last=False))
    assert len(calls) == 1 and output.ended


class Nonsense:
    def push(self, text: str, last: bool) -> list[str]:
        return ["text"]


class Raising:
    def push(self, text: str, last: bool) -> list[Piece]:
        raise RuntimeError("the prompt was: secret")


@pytest.mark.parametrize("parser", [Nonsense(), Raising()])
def test_a_broken_parser_fails_its_request(parser: OutputParser) -> None:
    output = OutputReader(None, Stage(parser, "their-plugin", "tool parser"), new_id=lambda: "new")
    with pytest.raises(PluginError, match="their-plugin"):
        list(output.push("x", last=False))
