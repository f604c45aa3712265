"""Stops count in what follows the reasoning, however the text arrives."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budmlx.builtin.reasoning import provide_reasoning_parser
from budmlx.engine.reply.answer import Answer, AnswerStops
from budmlx.engine.reply.output_reader import Stage
from budmlx.engine.reply.thinking import thinking_before
from budmlx.plugins.manager import Owned
from budmlx.plugins.parsing import Content, ModelTraits, ReasoningParserSpec, Thought

HARMONY = "<|channel|>analysis<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>"
BEGINS = {
    "think": "<think>{}</think>\n\n",
    "gemma4": "<|channel>thought{}<channel|>",
    "magistral": "[THINK]{}[/THINK]",
    "seed": "<seed:think>{}</seed:think>",
    "harmony": HARMONY,
}
STOP = 7  # a token id
THOUGHT = "They ask Q: what?\n\nEND Fine."


def spec(kind: str) -> ReasoningParserSpec:
    found = provide_reasoning_parser(name=kind, model=ModelTraits("x", ""))
    assert found is not None
    return found


def answer(kind: str, stops: AnswerStops | None, *, verbatim: bool = False) -> Answer:
    stage = Stage(spec(kind).make("<|start|>assistant"), "built-in", "reasoning parser")
    return Answer(stage, stops, verbatim=verbatim)


def read(found: Answer, tokens: Sequence[str | int]) -> tuple[str, str]:
    """Reasoning and content of tokens: texts, or ids without one."""
    thought = content = ""
    place = 0
    for number, token in enumerate(tokens):
        text = token if isinstance(token, str) else ""
        found.token(token if isinstance(token, int) else 0, place, place + len(text))
        place += len(text)
        for piece in found.push(text, number == len(tokens) - 1):
            thought += piece.text if isinstance(piece, Thought) else ""
            content += piece.text if isinstance(piece, Content) else ""
    return thought, content


def cut(text: str, places: Sequence[int]) -> list[str]:
    ends = [0, *sorted(places), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(ends)]


@pytest.mark.parametrize("kind", BEGINS)
@given(data=st.data())
def test_strings_stop_the_answer_alone(kind: str, data: st.DataObject) -> None:
    text = BEGINS[kind].format(THOUGHT) + "Four. Q: END"
    pieces = cut(text, data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    stops = AnswerStops(["Q:", "END"], (), 0)
    found = answer(kind, stops)
    assert read(found, pieces) == (THOUGHT, "Four. ") and found.stopped


@pytest.mark.parametrize("kind", BEGINS)
def test_token_ids_stop_the_answer_alone(kind: str) -> None:
    before, after = BEGINS[kind].format("a|b").split("|b") if kind != "harmony" else ("", "")
    if kind == "harmony":
        before, after = "<|channel|>analysis<|message|>a", HARMONY.partition("{}")[2]
    tokens = [before, STOP, f"b{after}", "Four", ".", STOP, " more"]
    found = answer(kind, AnswerStops((), [STOP], 0))
    assert read(found, tokens) == ("ab", "Four.") and found.stopped


def test_the_text_of_a_token_that_stops_is_left_out() -> None:
    found = answer("think", AnswerStops(["zz"], [STOP], 0))
    for text, token_id, begin in (
        ("<think>fox</think>\n\n", 0, 0),
        ("A z", 0, 20),
        ("fox", STOP, 23),
    ):
        found.token(token_id, begin, begin + len(text))
        pieces = found.push(text, False)
    # What was held back as the beginning of "zz" comes out.
    assert [piece.text for piece in pieces if isinstance(piece, Content)] == ["z"]
    assert found.stopped and not found.push("more", True)


def test_a_line_break_that_follows_the_thought_is_not_the_answer() -> None:
    found = answer("think", AnswerStops((), [STOP], 0))
    found.token(0, 0, 16)
    found.push("<think>a</think>", False)
    found.token(STOP, 16, 18)
    found.push("\n\n", False)
    found.token(0, 18, 19)
    assert [p.text for p in found.push("b", True) if isinstance(p, Content)] == ["b"]


def test_nothing_stops_before_the_least_number_of_tokens() -> None:
    tokens: list[str | int] = ["<think>a</think>", "x", STOP, "x", "y", "x"]
    assert read(answer("think", AnswerStops(["x"], [STOP], 4)), tokens) == ("a", "xxy")
    assert read(answer("think", AnswerStops(["x"], [STOP], 0)), tokens) == ("a", "")


@pytest.mark.parametrize("form", ["\nyes", "a<think>b</think>c", "</think>", "  x", "\n\n"])
@given(places=st.lists(st.integers(0, 60), max_size=8))
def test_a_form_is_all_that_follows(form: str, places: list[int]) -> None:
    text = f"<think>reason\n</think>\n\n{form}"
    pieces = cut(text, [min(place, len(text)) for place in places])
    assert read(answer("think", None, verbatim=True), pieces) == ("reason", form)


@pytest.mark.parametrize("kind", ["think", "gemma4", "cohere", "magistral", "granite", "seed"])
def test_the_gap_that_a_grammar_allows_is_what_the_parser_takes_away(kind: str) -> None:
    owned = Owned("built-in", spec(kind))
    thinking = thinking_before(owned, "")
    assert thinking is not None and not thinking.begun and thinking.newlines == 2
    begun = thinking_before(owned, f"{thinking.begin}so far " + "and on " * 200)
    assert begun is not None and begun.begun
    assert thinking_before(owned, f"{thinking.begin}done{thinking.end}\n\n") is None
    assert thinking_before(Owned("built-in", spec("harmony")), "<|start|>assistant") is None
