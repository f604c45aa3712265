"""Budgets of reasoning: every family's blocks are closed as its own parser reads them."""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budmlx.builtin.reasoning import BLOCKS, CHANNELS, provide_reasoning_parser
from budmlx.engine.reply.budgets import Budgets, marker_texts
from budmlx.engine.reply.parsers import Parsers
from budmlx.engine.request.python_api import chat_request
from budmlx.engine.text.tokenizer import Tokenizer
from budmlx.errors import InvalidRequestError
from budmlx.plugins.manager import Owned
from budmlx.plugins.parsing import Content, ModelTraits, ReasoningParserSpec, Thought
from budmlx.protocol import ReasoningBudget, ReasoningMeter
from tests.tokenizers import byte_level, sentencepiece_bpe

FAMILIES = [family.name for family in (*BLOCKS, *CHANNELS)]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
# Tails of prompts: in the reply, the model may think; or it does already.
TAILS = {"harmony": "<|start|>assistant", "muse": "<|start|>assistant"}


def spec_of(family: str) -> ReasoningParserSpec:
    spec = provide_reasoning_parser(name=family, model=ModelTraits("x", ""))
    assert spec is not None and spec.markup is not None
    return spec


@cache
def parsers_of(family: str, *, control: bool = True, spm: bool = False) -> Parsers:
    """control: markers are tokens of their own; otherwise they are written as text."""
    spec = spec_of(family)
    special = tuple(dict.fromkeys(spec.visible)) if control else ()
    make = sentencepiece_bpe if spm else byte_level
    tokenizer = Tokenizer(
        make(("<s>", "</s>", "<unk>", *special), ()),
        special_tokens={"eos_token": "</s>"},
        chat_templates={},
    )
    return Parsers(tokenizer, None, Owned("built-in", spec))


def budget_of(
    parsers: Parsers, tokens: int, tail: str, options: dict[str, Any] | None = None
) -> ReasoningBudget | None:
    request = chat_request("Hi", options or {})
    return Budgets(parsers, parsers.tokenizer.eos_token_ids).of(request, tail, tokens)


def read(parsers: Parsers, tail: str, ids: list[int]) -> tuple[str, str]:
    text = parsers.tokenizer.backend.decode(ids, skip_special_tokens=False)
    assert parsers.reasoning is not None
    pieces = parsers.reasoning.value.make(tail).push(text, True)
    thought = "".join(p.text for p in pieces if isinstance(p, Thought))
    return thought, "".join(p.text for p in pieces if isinstance(p, Content))


def written(meter: ReasoningMeter, ids: list[int], *, eagerly: bool) -> list[int]:
    """What a row writes that would write these ids, if nothing were forced."""
    out: list[int] = []
    for token in ids:
        if eagerly or meter.must_follow(len(out)):
            meter.follow(out[meter.consumed :])
        forced = meter.forced(len(out))
        out.append(token if forced is None else forced)
    return out


def encoded(parsers: Parsers, text: str) -> list[int]:
    return parsers.tokenizer.encode(text, add_special=False)


@pytest.mark.parametrize("control", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_what_models_write_is_cut_where_the_budget_ends(
    family: str, control: bool, data: st.DataObject
) -> None:
    parsers = parsers_of(family, control=control)
    spec = spec_of(family)
    assert spec.markup is not None
    markup = spec.markup
    words = st.sampled_from(["word", " and", "\n", " x<", "|", "end", " 你"])
    pieces = st.one_of(words, words, st.sampled_from((*markup.begins, *markup.ends)))
    begun = data.draw(st.booleans())
    tail = TAILS.get(family, "user said") + (markup.begins[0] if begun else "")
    if family == "muse" and begun:
        tail = "<|start|>assistant " + markup.begins[0]
    text = "".join(data.draw(st.lists(pieces, max_size=30)))
    if not begun and data.draw(st.booleans()):
        text = (" " if family == "muse" else "") + markup.begins[0] + text
    ids = encoded(parsers, text)
    tokens = data.draw(st.integers(0, 12))
    budget = budget_of(parsers, tokens, tail)
    assert budget is not None and budget.begun == begun
    out = written(ReasoningMeter(budget), ids, eagerly=False)
    # Asking late, when it must be asked, comes to the same as looking at every token.
    assert out == written(ReasoningMeter(budget), ids, eagerly=True)
    replay = ReasoningMeter(budget)
    replay.follow(out)
    same = sum(
        1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(out, ids, strict=True))
    )
    if same < len(out):
        assert replay.cut and out[same] in itertools.chain(*budget.closings)


@pytest.mark.parametrize("control", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_parser_reads_the_closing_as_the_end(family: str, control: bool) -> None:
    parsers = parsers_of(family, control=control)
    begin = spec_of(family).markup.begins[0]  # type: ignore[union-attr]
    tail = TAILS.get(family, "user said")
    lead = encoded(parsers, (" " if family == "muse" else "") + begin)
    words = encoded(parsers, "one two three four five six seven eight")
    answer = encoded(parsers, "The answer")
    for tokens in (0, 1, 5):
        budget = budget_of(parsers, tokens, tail)
        assert budget is not None and not budget.begun
        closing = budget.closings[-1]
        # In the forced tokens' places stands what the model would have written.
        ids = [*lead, *words[:tokens], *[words[0]] * len(closing), *answer]
        out = written(ReasoningMeter(budget), ids, eagerly=False)
        assert out == [*lead, *words[:tokens], *closing, *answer]
        thought, content = read(parsers, tail, out)
        assert thought.strip() == parsers.tokenizer.backend.decode(words[:tokens]).strip()
        assert content.strip() == "The answer"


@pytest.mark.parametrize("family", ["harmony", "muse"])
def test_a_model_with_tools_chooses_once_what_follows(family: str) -> None:
    parsers = parsers_of(family)
    budget = budget_of(parsers, 0, TAILS[family], {"tools": TOOLS})
    assert budget is not None and len(budget.closings) == 2
    first, last = budget.closings
    assert last[: len(first)] == first and len(last) > len(first)
    begin = encoded(parsers, (" " if family == "muse" else "") + budget.begins[0])
    # It thinks again, and so the answer is begun for it.
    ids = [*begin, *[0] * len(first), *begin, *[0] * len(last), 5]
    out = written(ReasoningMeter(budget), ids, eagerly=False)
    assert out == [*begin, *first, *begin, *last, 5]


def test_a_closed_block_needs_no_budget() -> None:
    parsers = parsers_of("think")
    assert budget_of(parsers, 3, "<think>\n\n</think>\n\n") is None
    assert budget_of(parsers, 3, "assistant\n") is not None


def test_text_before_a_block_is_none() -> None:
    parsers = parsers_of("think")
    budget = budget_of(parsers, 0, "assistant\n")
    assert budget is not None
    ids = encoded(parsers, "Say <think> to think")
    assert written(ReasoningMeter(budget), ids, eagerly=False) == ids
    ids = encoded(parsers, "\n<think>thinking thinking")
    assert written(ReasoningMeter(budget), ids, eagerly=False) != ids


def test_a_bias_against_the_end_is_refused() -> None:
    parsers = parsers_of("think")
    end = parsers.tokenizer.backend.token_to_id("</think>")
    with pytest.raises(InvalidRequestError) as caught:
        budget_of(parsers, 3, "<think>", {"logit_bias": {end: -100}})
    assert caught.value.param == "logit_bias"
    assert budget_of(parsers, 3, "<think>", {"logit_bias": {end: -50}}) is not None


@pytest.mark.parametrize("spm", [True, False])
@pytest.mark.parametrize("control", [True, False])
def test_closings_are_what_they_say(control: bool, spm: bool) -> None:
    parsers = parsers_of("think", control=control, spm=spm)
    budget = budget_of(parsers, 3, "<think>")
    assert budget is not None
    backend = parsers.tokenizer.backend
    text = backend.decode([*encoded(parsers, "a"), *budget.closings[0]], skip_special_tokens=False)
    assert text == "a\n</think>\n\n"


@pytest.mark.parametrize("spm", [True, False])
def test_every_token_that_can_be_of_a_marker_is_known(spm: bool) -> None:
    tokenizer = parsers_of("think", control=False, spm=spm).tokenizer
    found = marker_texts(tokenizer, ["</think>"])
    plain = tokenizer.backend
    for text in ("a</think>b", "x < </think>", "é</think>\n\n", "<</think>>"):
        ids = tokenizer.encode(text, add_special=False)
        known = "".join(found.get(token, "\0") for token in ids)
        assert "</think>" in known, (text, [plain.id_to_token(i) for i in ids])
