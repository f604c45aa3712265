"""Everything that users do, with a real model, against mlx-lm's greedy tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from budmlx import Completion, Engine
from budmlx.engine.request.grammars import grammar_of
from budmlx.engine.request.python_api import chat_request
from tests.real.reference import Greedy, Reference

QUESTIONS = (
    "What is the capital of France?",
    "Write a haiku about the sea.",
    "Name three primary colours.",
    "Explain gravity to a child in two sentences.",
    "Translate 'good morning' into Spanish, French and German.",
    "Continue: 1, 1, 2, 3, 5, 8,",
    "Schreibe einen Satz über Äpfel & Öl, bitte!",
    "Write a Python function that adds two numbers. \N{SNAKE}",
)
FORMS: dict[str, dict[str, Any]] = {
    "schema": {
        "type": "json_schema",
        "json_schema": {
            "name": "person",
            "schema": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "maxLength": 20},
                    "age": {"type": "integer", "minimum": 0, "maximum": 120},
                    "likes": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
                },
                "required": ["name", "age", "likes"],
                "additionalProperties": False,
            },
        },
    },
    "object": {"type": "json_object"},
    "choice": {"type": "choice", "choice": ["Berlin", "Paris", "Rome", "Paris, of course"]},
    "regex": {"type": "regex", "regex": r"[A-Z][a-z]+, [0-9]{4}-[0-9]{2}-[0-9]{2}"},
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather in a city",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "maxLength": 20}},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    }
]


def same(reply: Completion, expected: Greedy) -> None:
    assert (reply.text, reply.finish_reason) == (expected.text, expected.finish_reason)
    assert reply.warnings == ()


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def ask(engine: Engine, messages: Any, most: int, **options: Any) -> Completion:
    return engine.chat(messages, temperature=0, max_tokens=most, **options)


def alone(reference: Reference, engine: Engine, messages: Any, most: int) -> Greedy:
    return reference.greedy(engine.apply_template(messages).ids, most)


def grammar_for(engine: Engine, messages: Any, options: dict[str, Any], ids: Sequence[int]) -> str:
    """What the engine holds a reply to, in llguidance's language."""
    request = chat_request(messages, options)
    parsers = engine._parts.parsers
    grammar = grammar_of(request, parsers, parsers.tail(request, ids))
    assert grammar is not None
    return grammar.source


@pytest.mark.parametrize("question", QUESTIONS)
def test_chat(engine: Engine, reference: Reference, question: str) -> None:
    messages = user(question)
    same(ask(engine, messages, 24), alone(reference, engine, messages, 24))


@pytest.mark.parametrize("kind", FORMS)
def test_forms(engine: Engine, reference: Reference, kind: str) -> None:
    options = {"response_format": FORMS[kind]}
    messages = user("Who wrote Faust, and where? Answer as JSON with name, age and likes.")
    ids = engine.apply_template(messages).ids
    grammar = grammar_for(engine, messages, options, ids)
    reply = ask(engine, messages, 48, **options)
    same(reply, reference.greedy(ids, 48, grammar))
    if reply.finish_reason == "stop":
        if kind == "choice":
            assert reply.text in FORMS[kind]["choice"]
        elif kind == "regex":
            assert re.fullmatch(FORMS[kind]["regex"], reply.text)
        else:
            assert isinstance(json.loads(reply.text), dict)


def test_a_forced_call(with_tools: Engine, reference: Reference) -> None:
    messages = user("What is the weather in Oslo?")
    options: dict[str, Any] = {"tools": TOOLS, "tool_choice": "required"}
    options["parallel_tool_calls"] = False
    ids = with_tools.apply_template(messages, **options).ids
    grammar = grammar_for(with_tools, messages, options, ids)
    reply = ask(with_tools, messages, 48, **options)
    assert (reply.finish_reason, reply.text) == ("tool_calls", "")
    expected = reference.greedy(ids, 48, grammar)
    (call,) = reply.tool_calls
    written = re.fullmatch(r"<tool_call>\n(.*)\n</tool_call>", expected.text, re.DOTALL)
    assert written is not None, expected
    assert json.loads(written[1]) == {"name": call.name, "arguments": json.loads(call.arguments)}

    turn = {"role": "assistant", "content": None, "tool_calls": [call_of(call)]}
    result = {"role": "tool", "tool_call_id": call.id, "content": '{"sky": "clear", "degrees": 7}'}
    history = [*messages, turn, result]
    ids = with_tools.apply_template(history, tools=TOOLS).ids
    same(ask(with_tools, history, 16, tools=TOOLS), reference.greedy(ids, 16))


def call_of(call: Any) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


@pytest.mark.parametrize("question", QUESTIONS[:3])
def test_tools_that_it_may_leave_alone(
    with_tools: Engine, reference: Reference, question: str
) -> None:
    messages = user(question)
    ids = with_tools.apply_template(messages, tools=TOOLS).ids
    expected = reference.greedy(ids, 24)
    reply = ask(with_tools, messages, 24, tools=TOOLS)
    if reply.tool_calls:
        assert "<tool_call>" in expected.text
        assert all(call.name in expected.text for call in reply.tool_calls)
    else:
        same(reply, expected)


def test_stops(engine: Engine, reference: Reference) -> None:
    messages = user(QUESTIONS[3])
    expected = alone(reference, engine, messages, 32)
    for stop in (expected.text[10:16], expected.text[21:23], expected.text[-4:]):
        reply = ask(engine, messages, 32, stop=[stop, "never in it"])
        assert reply.text == expected.text[: expected.text.index(stop)]
        assert reply.finish_reason == "stop"


def test_a_second_turn_reuses_the_first(engine: Engine, reference: Reference) -> None:
    system = "You answer in one sentence. " + "Facts matter more than style here. " * 60
    messages = [{"role": "system", "content": system}, *user(QUESTIONS[0])]
    first = ask(engine, messages, 24)
    same(first, alone(reference, engine, messages, 24))
    messages += [{"role": "assistant", "content": first.text}, *user("And that of Norway?")]
    second = ask(engine, messages, 24)
    assert second.usage.cached_tokens >= first.usage.prompt_tokens - 256
    same(second, alone(reference, engine, messages, 24))


def test_a_long_prompt(engine: Engine, reference: Reference) -> None:
    lines = [f"{number}. Item {number * 7919 % 1000} costs {number} coins." for number in range(60)]
    messages = user("\n".join([*lines, "Which item costs 42 coins?"]))
    ids = engine.apply_template(messages).ids
    assert len(ids) > 600  # more than one prefill chunk
    same(ask(engine, messages, 24), reference.greedy(ids, 24))


def test_16_users_at_once(engine: Engine, reference: Reference) -> None:
    prompts = [user(f"{QUESTIONS[i % 8]} ({'please, ' * i}{i})") for i in range(16)]
    with ThreadPoolExecutor(16) as users:
        replies = list(users.map(lambda messages: ask(engine, messages, 16), prompts))
    for messages, reply in zip(prompts, replies, strict=True):
        same(reply, alone(reference, engine, messages, 16))
