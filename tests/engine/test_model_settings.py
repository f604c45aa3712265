"""A model's system prompt and context limit, in Python and over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from budmlx import Engine, hookimpl
from budmlx.client import BudAPIError, BudClient
from budmlx.engine.load.hub import SHIPPED_MODEL
from budmlx.errors import ContextLengthError
from budmlx.plugins.specs import MessageTransform
from budmlx.testing.tiny_random import LLAMA
from budmlx.types import Message
from tests.models import tiny_model_dir

PROMPT = "Answer in one word."
LIMIT = 64
USER = {"role": "user", "content": "Why is the sky blue?"}
SYSTEM = {"role": "system", "content": PROMPT}


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.load(system_prompt=PROMPT, context_limit=LIMIT) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def plain() -> Iterator[Engine]:
    with Engine.load() as loaded:
        yield loaded


@pytest.mark.parametrize(
    "messages",
    [
        [USER],
        [USER, {"role": "assistant", "content": "Air."}, USER],
        [USER, {"role": "assistant", "content": "It", "prefix": True}],
    ],
)
def test_the_system_prompt_begins_conversations_without_one(
    engine: Engine, plain: Engine, messages: list[dict[str, Any]]
) -> None:
    wanted = plain.apply_template([SYSTEM, *messages])
    assert engine.apply_template(messages) == wanted != plain.apply_template(messages)


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "system", "content": "Be kind."}, USER],
        [{"role": "developer", "content": "Be kind."}, USER],
        [{"role": "system", "content": ""}, USER],
        [USER, {"role": "system", "content": "Be kind."}, USER],
    ],
)
def test_instructions_of_a_request_win(
    engine: Engine, plain: Engine, messages: list[dict[str, Any]]
) -> None:
    assert engine.apply_template(messages) == plain.apply_template(messages)


def test_a_table_has_its_own_system_prompt(plain: Engine) -> None:
    tables = {"a": {"model": str(SHIPPED_MODEL), "system_prompt": PROMPT}, "b": {}}
    with Engine.load("a", models=tables, system_prompt="For all.") as loaded:
        assert loaded.apply_template([USER]) == plain.apply_template([SYSTEM, USER])


def test_replies_follow_the_system_prompt_over_http(engine: Engine, plain: Engine) -> None:
    with BudClient(engine=engine) as client:
        reply = client.chat.completions.create(
            model="any", messages=[USER], temperature=0, max_tokens=8
        )
        wanted = plain.chat([SYSTEM, USER], temperature=0, max_tokens=8)
        assert reply.choices[0].message.content == wanted.text
        assert reply.usage.prompt_tokens == wanted.usage.prompt_tokens
        # Places in errors are those of the request.
        result = {"role": "tool", "content": "1", "tool_call_id": "a"}
        with pytest.raises(BudAPIError) as caught:
            client.chat.completions.create(model="any", messages=[USER, result])
        assert caught.value.param == "messages[1]"


def test_raw_prompts_have_no_system_prompt(engine: Engine, plain: Engine) -> None:
    usage = engine.complete("Once", max_tokens=1).usage
    assert usage.prompt_tokens == plain.complete("Once", max_tokens=1).usage.prompt_tokens


def test_explanations_count_the_messages_of_the_request() -> None:
    words = " ".join(["word"] * 100)
    with Engine.load(system_prompt=words) as engine:
        first, answer = [{"role": "user", "content": words}], {"role": "assistant", "content": "A"}
        engine.chat([*first, answer, USER], max_tokens=1, explain_cache=True)
        changed = {"role": "user", "content": "How deep is the sea?"}
        reply = engine.chat([*first, answer, changed], max_tokens=1, explain_cache=True)
        assert reply.cache_explanation is not None
        assert reply.cache_explanation.message == 2


def instructed(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """A transform that writes instructions."""
    return (Message(role="system", content="Of a plugin."), *messages)


class Instructing:
    @hookimpl
    def add_message_transforms(self) -> list[MessageTransform]:
        return [instructed]


def test_instructions_of_a_plugin_win(plain: Engine) -> None:
    with Engine.load(system_prompt=PROMPT, plugins=[Instructing()]) as engine:
        own = {"role": "system", "content": "Of a plugin."}
        assert engine.apply_template([USER]) == plain.apply_template([own, USER])


def test_a_context_limit_bounds_prompt_and_reply(engine: Engine) -> None:
    assert engine.info.context_length == LIMIT
    endless: dict[str, Any] = {"ignore_eos": True, "temperature": 0}
    reply = engine.chat([USER], **endless, n=2)
    assert [choice.finish_reason for choice in reply.choices] == ["length", "length"]
    assert reply.usage.prompt_tokens + reply.usage.completion_tokens // 2 == LIMIT
    for params in ({"max_tokens": 5000}, {"min_tokens": -1}):
        assert engine.complete([5, 6, 7], **endless, **params).usage.total_tokens == LIMIT
    short = engine.complete([5, 6, 7], **endless, max_tokens=4)
    assert short.usage.completion_tokens == 4
    last = engine.complete([5] * (LIMIT - 1), **endless)
    assert last.usage.completion_tokens == 1
    with pytest.raises(ContextLengthError, match=f"takes at most {LIMIT} together"):
        engine.complete([5] * LIMIT)


def test_a_context_limit_is_told_over_http(engine: Engine) -> None:
    with BudClient(engine=engine) as client:
        with pytest.raises(BudAPIError) as caught:
            client.chat.completions.create(
                model="any", messages=[{"role": "user", "content": "many words " * 40}]
            )
        assert caught.value.code == "context_length_exceeded"
        reply = client.chat.completions.create(model="any", messages=[USER], ignore_eos=True)
        assert reply.choices[0].finish_reason == "length"
        assert reply.usage.total_tokens == LIMIT


def test_a_limit_is_as_a_model_of_that_size_and_never_more() -> None:
    small = tiny_model_dir({**LLAMA, "max_position_embeddings": LIMIT})
    asked: dict[str, Any] = {"ignore_eos": True, "seed": 1}
    with Engine.load(small, context_limit=LIMIT * 2) as own:
        assert own.info.context_length == LIMIT
        wanted = own.complete([5, 6, 7], **asked)
    with Engine.load(tiny_model_dir(), context_limit=LIMIT, engine_host="process") as limited:
        assert limited.info.context_length == LIMIT
        reply = limited.complete([5, 6, 7], **asked)
    assert (reply.text, reply.finish_reason) == (wanted.text, wanted.finish_reason)
    assert reply.usage.total_tokens == wanted.usage.total_tokens == LIMIT
