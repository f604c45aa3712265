"""Budgets of reasoning through the whole engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from budmlx import Engine
from budmlx.engine.request.python_api import chat_request
from budmlx.errors import InvalidRequestError
from budmlx.types import Completion, Finished, ReasoningDelta
from tests.models import thinking_model_dir

SAID = "max_reasoning_tokens"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return thinking_model_dir(tmp_path_factory.mktemp("models") / "m")


@pytest.fixture(scope="module")
def thinker(plain: Path) -> Iterator[Engine]:
    """It never ends its reasoning itself."""
    with Engine.load(plain) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.load(cache="on-request") as loaded:
        yield loaded


def ask(engine: Engine, **options: Any) -> Completion:
    options = {
        "temperature": 1.0,
        "max_tokens": 60,
        "seed": 5,
        "cache": False,
        "chat_template_kwargs": {"enable_thinking": True},
        **options,
    }
    return engine.chat("What is 2+2?", **options)


def writing(thinker: Engine, **options: Any) -> Completion:
    """A reply of tokens that all have a text."""
    tokenizer = thinker._parts.tokenizer
    without = range(tokenizer.backend.get_vocab_size(), thinker.info.vocab_size)
    bias = dict.fromkeys([*tokenizer.hidden_ids, *without], -100)
    return ask(thinker, chat_template_kwargs={}, logit_bias=bias, **options)


def was_cut(reply: Completion) -> bool:
    return any(SAID in warning for warning in reply.warnings)


@pytest.mark.parametrize("tokens", [0, 1, 7, 30])
def test_the_reasoning_is_a_beginning_of_what_it_would_have_been(
    thinker: Engine, tokens: int
) -> None:
    free, limited = writing(thinker), writing(thinker, max_reasoning_tokens=tokens)
    assert free.usage.reasoning_tokens == 60 and not free.warnings
    assert free.reasoning.startswith(limited.reasoning.rstrip("\ufffd"))
    assert limited.usage.reasoning_tokens == tokens
    assert limited.text and "think>" not in limited.text and was_cut(limited)


def test_a_budget_that_is_not_used_up_changes_nothing(engine: Engine) -> None:
    free = ask(engine, temperature=0.0)
    assert free.reasoning and free.text
    limited = ask(engine, temperature=0.0, max_reasoning_tokens=free.usage.reasoning_tokens + 2)
    assert (limited.reasoning, limited.text, limited.warnings) == (free.reasoning, free.text, ())


def test_each_choice_has_its_own(thinker: Engine) -> None:
    alone, limited = writing(thinker, n=3), writing(thinker, n=3, max_reasoning_tokens=4)
    assert limited.usage.reasoning_tokens == 12
    for mine, whole in zip(limited.choices, alone.choices, strict=True):
        assert whole.reasoning.startswith(mine.reasoning.rstrip("\ufffd")) and mine.text


def test_the_form_follows(engine: Engine) -> None:
    form = {"type": "choice", "choice": ["yes", "no"]}
    for tokens in (0, 3, 50):
        for most in (8, 20, 60):
            reply = ask(engine, max_reasoning_tokens=tokens, max_tokens=most, response_format=form)
            assert reply.text in ("yes", "no") and reply.finish_reason == "stop"
            assert reply.usage.reasoning_tokens <= tokens


def test_a_forced_call_follows(engine: Engine) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    schema["additionalProperties"] = False
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    reply = ask(engine, max_reasoning_tokens=5, tools=[tool], tool_choice="required")
    (call,) = reply.tool_calls
    assert json.loads(call.arguments).keys() == {"a"} and reply.usage.reasoning_tokens <= 5


def test_logprobs_and_stops_are_of_the_answer(engine: Engine) -> None:
    reply = ask(engine, max_reasoning_tokens=5, logprobs=2)
    assert "".join(entry.text for entry in reply.choices[0].logprobs) == reply.text
    letter = reply.text[1]
    stopped = ask(engine, max_reasoning_tokens=5, stop=letter)
    assert stopped.text == reply.text.partition(letter)[0]
    assert stopped.reasoning == reply.reasoning


def test_the_response_cache_knows_the_budget(engine: Engine) -> None:
    asked = {"cache": True, "seed": 77}
    first = ask(engine, max_reasoning_tokens=3, **asked)
    again = ask(engine, max_reasoning_tokens=3, **asked)
    other = ask(engine, max_reasoning_tokens=4, **asked)
    assert not first.cached and again.cached and not other.cached
    assert (again.text, again.warnings) == (first.text, first.warnings) and was_cut(again)


def test_the_kv_of_what_was_cut_is_reused(engine: Engine) -> None:
    first = ask(engine, max_reasoning_tokens=3, temperature=0.0)
    again = ask(engine, max_reasoning_tokens=3, temperature=0.0)
    assert (again.text, again.reasoning) == (first.text, first.reasoning)
    assert again.usage.cached_tokens > 0


def test_streams_say_so_at_their_end(engine: Engine) -> None:
    events = list(
        engine.stream(
            "What is 2+2?",
            max_reasoning_tokens=0,
            temperature=0.0,
            max_tokens=20,
            chat_template_kwargs={"enable_thinking": True},
        )
    )
    assert not any(isinstance(event, ReasoningDelta) for event in events)
    last = events[-1]
    assert isinstance(last, Finished) and SAID in last.warnings[0]


def test_a_bias_against_the_end_is_refused(engine: Engine) -> None:
    (end, *_) = engine.tokenize("</think>", add_special=False).ids
    with pytest.raises(InvalidRequestError) as caught:
        ask(engine, max_reasoning_tokens=3, logit_bias={end: -100})
    assert caught.value.param == "logit_bias"


def test_raw_text_has_none(engine: Engine) -> None:
    reply = engine.complete("<think> a b", max_tokens=8, max_reasoning_tokens=1, seed=1)
    assert [w for w in reply.warnings if SAID in w and "raw text" in w]


def test_effort_becomes_a_budget_where_the_template_has_none(
    engine: Engine, thinker: Engine
) -> None:
    def budget(by: Engine, **variables: Any) -> int | None:
        request = chat_request("Hi", {"chat_template_kwargs": variables})
        return by._parts.pipeline.preparation.prepared(request)[0].sampling.max_reasoning_tokens

    levels = {"none": 0, "minimal": 1024, "low": 1024, "medium": 4096, "high": None, "max": None}
    assert {level: budget(thinker, reasoning_effort=level) for level in levels} == levels
    assert budget(thinker, enable_thinking=False) == 0
    assert budget(thinker, enable_thinking=True, reasoning_effort="none") is None
    # The other template reads the switch.
    assert budget(engine, enable_thinking=False) is None
    options = {"max_tokens": 30, "seed": 1, "ignore_eos": True}
    for variables in ({"reasoning_effort": "none"}, {"enable_thinking": False}):
        reply = thinker.chat("Hi", chat_template_kwargs=variables, **options)
        assert reply.usage.reasoning_tokens == 0 and len(reply.warnings) == 1 and was_cut(reply)
    high = thinker.chat("Hi", chat_template_kwargs={"reasoning_effort": "high"}, **options)
    assert high.usage.reasoning_tokens == 30
    assert high.warnings == ("reasoning_effort has no effect: the chat template does not use it.",)
    # What was said in tokens is more than a level.
    low = {"reasoning_effort": "low"}
    both = thinker.chat("Hi", chat_template_kwargs=low, max_reasoning_tokens=7, **options)
    assert both.usage.reasoning_tokens == 7
    assert any("reasoning_effort has no effect" in warning for warning in both.warnings)


def test_without_known_markup_it_has_no_effect(plain: Path) -> None:
    with Engine.load(plain, reasoning_parser="none") as engine:
        reply = engine.chat("Hi", max_tokens=8, max_reasoning_tokens=1, seed=1)
        assert [w for w in reply.warnings if w.startswith(f"{SAID} has no effect")]
