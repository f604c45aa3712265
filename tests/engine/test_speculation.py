"""Replies with drafts and without them, through the Python API."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import budmlx
from budmlx.engine.engine import Engine
from budmlx.errors import InvalidRequestError
from budmlx.types import Completion, TextDelta
from tests.models import tiny_model_dir

# A random model repeats itself soon, so that it drafts.
TINY = Path(budmlx.__file__).parent / "assets" / "tiny"
QUESTIONS = [f"{word} and {word} and {word} and" for word in ("one", "two", "three", "four")]
PARAMETERS: Sequence[Mapping[str, Any]] = (
    {"temperature": 0, "max_tokens": 48},
    {"temperature": 0, "max_tokens": 48, "logprobs": 2},
    {"temperature": 0.3, "seed": 3, "top_p": 0.5, "n": 3, "max_tokens": 20},
    {"temperature": 0, "max_tokens": 40, "min_tokens": 9},
)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.load(tiny_model_dir(scale=4.0), engine_host="thread", speculation=4) as engine:
        yield engine


def said(replies: Sequence[Completion]) -> list[Any]:
    """All choices but for their logprobs, and how many tokens they took."""
    return [
        ([replace(each, logprobs=()) for each in reply.choices], reply.usage.completion_tokens)
        for reply in replies
    ]


def logprobs(replies: Sequence[Completion]) -> list[float]:
    entries = (e for reply in replies for choice in reply.choices for e in choice.logprobs)
    return [one.logprob for e in entries for one in (e, *e.top)]


@pytest.mark.parametrize("parameters", PARAMETERS)
def test_replies_are_the_same(engine: Engine, parameters: Mapping[str, Any]) -> None:
    without = engine.chat_many(QUESTIONS, progress=False, speculation=False, **parameters)
    drafting = engine.chat_many(QUESTIONS, progress=False, **parameters)
    assert said(drafting) == said(without)
    assert logprobs(drafting) == pytest.approx(logprobs(without), abs=1e-4)


def test_several_tokens_come_at_once_and_stops_end_among_them(engine: Engine) -> None:
    reply = engine.chat(QUESTIONS[0], temperature=0, max_tokens=60)
    deltas = [
        event.text
        for event in engine.stream(QUESTIONS[0], temperature=0, max_tokens=60)
        if isinstance(event, TextDelta)
    ]
    assert "".join(deltas) == reply.text
    for begin in range(20, 32):
        stop = reply.text[begin : begin + 2]
        cut = engine.chat(QUESTIONS[0], temperature=0, max_tokens=60, stop=stop)
        assert cut.text == reply.text[: reply.text.index(stop)]
        assert cut.finish_reason == "stop"


@pytest.fixture(scope="module")
def trained() -> Iterator[Engine]:
    with Engine.load(str(TINY), engine_host="thread", speculation=4) as engine:
        yield engine


@pytest.mark.parametrize("right", [True, False])
def test_a_prediction_is_drafted_and_counted(trained: Engine, right: bool) -> None:
    engine = trained
    options: Mapping[str, Any] = {"temperature": 0.2, "seed": 5, "max_tokens": 30}
    question = "Count to 10"
    without = engine.chat(question, speculation=False, **options)
    told = without.text if right else without.text[: len(without.text) // 2] + "x" * 40
    reply = engine.chat(question, prediction=told, **options)
    usage = reply.usage
    assert (reply.text, reply.finish_reason) == (without.text, without.finish_reason)
    assert usage.completion_tokens == without.usage.completion_tokens and not reply.warnings
    assert usage.completion_tokens // 4 < usage.accepted_prediction_tokens <= usage.accepted_tokens
    assert usage.accepted_tokens <= usage.drafted_tokens
    assert usage.accepted_prediction_tokens <= usage.completion_tokens
    assert right or usage.rejected_prediction_tokens > 0
    unused = engine.chat(question, prediction=told, speculation=False, **options)
    assert unused.text == without.text and unused.usage.drafted_tokens == 0
    assert [warning.split()[0] for warning in unused.warnings] == ["prediction"]
    only_own = engine.chat("one two three " * 9, temperature=0, max_tokens=60).usage
    assert only_own.accepted_prediction_tokens == only_own.rejected_prediction_tokens == 0
    with pytest.raises(InvalidRequestError) as wrong:
        engine.chat("x", prediction="\ud800")
    assert wrong.value.param == "prediction"


def test_what_was_said_is_drafted_within_its_namespace(trained: Engine) -> None:
    options: Mapping[str, Any] = {"temperature": 0, "max_tokens": 40}
    question = "Who are you?"
    first = trained.chat(question, cache_salt="one", **options)
    again = trained.chat(question, cache_salt="one", **options)
    other = trained.chat(question, cache_salt="two", **options)
    assert first.text == again.text == other.text
    assert again.usage.accepted_tokens > first.usage.accepted_tokens
    assert other.usage.accepted_tokens == first.usage.accepted_tokens


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_what_a_form_forces_is_drafted(trained: Engine, temperature: float) -> None:
    names = ["customer_identification_number", "shipping_address_line"]
    schema = {
        "type": "object",
        "properties": {name: {"enum": ["yes", "no"]} for name in names},
        "required": names,
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "order", "schema": schema}}
    options: Mapping[str, Any] = {
        "temperature": temperature,
        "seed": 2,
        "response_format": form,
        "max_tokens": 200,
    }
    without = trained.chat("An order, please", speculation=False, **options)
    reply = trained.chat("An order, please", **options)
    assert reply.text == without.text and set(json.loads(reply.text)) == set(names)
    assert reply.usage.completion_tokens == without.usage.completion_tokens
    if not temperature:
        assert reply.usage.accepted_tokens > reply.usage.completion_tokens // 3


def test_who_may_draft_is_told(engine: Engine) -> None:
    assert engine.info.speculation == "4"
    with pytest.raises(InvalidRequestError, match="speculation") as wrong:
        engine.chat("x", speculation="no")
    assert wrong.value.param == "speculation"


def test_of_its_own_accord_a_reply_that_repeats_itself_tries_drafts() -> None:
    with Engine.load(tiny_model_dir(scale=4.0), engine_host="thread", speculation="auto") as auto:
        options = {"temperature": 0, "max_tokens": 300, "ignore_eos": True}
        without = auto.chat(QUESTIONS[0], speculation=False, **options)
        assert auto.chat(QUESTIONS[0], **options).text == without.text
        # What is counted is told when nothing is left to do.
        for _ in range(100):
            if auto.status().counts.drafts.steps:
                return
            time.sleep(0.05)
        pytest.fail("nothing was drafted")
