"""Forms, stops and continued replies of a model that thinks first."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from budmlx import Engine
from budmlx.types import ReasoningDelta, TextDelta

FORMS: dict[str, tuple[Any, str]] = {
    "choice": ({"type": "choice", "choice": ["yes", "no"]}, "yes|no"),
    "blank choice": ({"type": "choice", "choice": ["\n yes", "\n\n\nno"]}, "\n yes|\n\n\nno"),
    "regex": ({"type": "regex", "regex": "\\n?[ab]{1,3}"}, "\n?[ab]{1,3}"),
    "grammar": ({"type": "grammar", "grammar": 'start: "a" "a"? "a"?'}, "a{1,3}"),
    "markup": ({"type": "choice", "choice": ["<b>a</thinkb"]}, "<b>a</thinkb"),
}


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.load() as loaded:
        yield loaded


def ask(engine: Engine, form: Any, **options: Any) -> Any:
    options = {
        "max_tokens": 60,
        "temperature": 1.0,
        "chat_template_kwargs": {"enable_thinking": True},
        **options,
    }
    return engine.chat("What is 2+2?", response_format=form, **options)


@pytest.mark.parametrize("reasoning", ["parsed", "hidden", "raw"])
@pytest.mark.parametrize("form", FORMS)
def test_the_content_is_the_form(engine: Engine, form: str, reasoning: str) -> None:
    asked, pattern = FORMS[form]
    for seed in (1, 2, 3):
        reply = ask(engine, asked, seed=seed, reasoning=reasoning)
        assert reply.finish_reason == "stop"
        assert re.fullmatch(pattern, reply.text), repr(reply.text)
        assert bool(reply.reasoning) == (reasoning != "hidden")


def test_raw_reasoning_beside_a_form_is_a_warning(engine: Engine) -> None:
    form = FORMS["choice"][0]
    assert any("raw" in warning for warning in ask(engine, form, reasoning="raw").warnings)
    assert not ask(engine, form).warnings


def test_reasoning_leaves_room_for_the_form(engine: Engine) -> None:
    # No thought of a random walk ends by itself within so few tokens.
    reply = ask(engine, FORMS["choice"][0], max_tokens=16, temperature=2.0, seed=5)
    assert reply.finish_reason == "stop" and reply.text in ("yes", "no")


@pytest.mark.parametrize("words", [3, 120])
def test_continued_reasoning_of_any_length_is_reasoning(engine: Engine, words: int) -> None:
    messages = [
        {"role": "user", "content": "What is 2+2?"},
        {"role": "assistant", "content": "<think>\n" + "two and " * words, "prefix": True},
    ]
    events = list(
        engine.stream(messages, max_tokens=40, seed=3, response_format=FORMS["choice"][0])
    )
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    assert text in ("yes", "no")
    assert any(isinstance(event, ReasoningDelta) for event in events)


def test_stops_are_for_the_answer(engine: Engine) -> None:
    options = {"seed": 1, "temperature": 0.0, "max_tokens": 200}
    whole = engine.chat("What is 2+2?", chat_template_kwargs={"enable_thinking": True}, **options)
    assert whole.reasoning and whole.text
    letter = next(letter for letter in whole.text if letter in whole.reasoning)
    stopped = engine.chat(
        "What is 2+2?", chat_template_kwargs={"enable_thinking": True}, stop=letter, **options
    )
    assert stopped.reasoning == whole.reasoning
    assert stopped.text == whole.text.partition(letter)[0] and stopped.finish_reason == "stop"
    ids = engine.tokenize(whole.text, add_special=False).ids
    by_id = engine.chat(
        "What is 2+2?",
        chat_template_kwargs={"enable_thinking": True},
        stop_token_ids=[ids[0], *engine.tokenize(whole.reasoning, add_special=False).ids],
        **options,
    )
    assert by_id.reasoning == whole.reasoning and by_id.finish_reason == "stop"
    assert whole.text.startswith(by_id.text) and by_id.text != whole.text
