"""Tool calls through the engine: forced ones are always valid, streamed ones equal whole ones."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from llguidance import LLMatcher, LLTokenizer

from budmlx import Engine
from budmlx.engine.reply.completion import tool_calls
from budmlx.engine.request.grammars import grammar_of
from budmlx.engine.request.python_api import chat_request
from budmlx.errors import InvalidRequestError
from budmlx.types import ChoiceFinished, Completion, TextDelta, ToolCallDelta
from tests.models import tiny_model_dir

SCHEMAS: dict[str, dict[str, Any]] = {
    "get_weather": {
        "type": "object",
        "properties": {
            "city": {"enum": ["Paris", "São Paulo", "東京"]},
            "unit": {"enum": ["c", "f"]},
        },
        "required": ["city"],
        "additionalProperties": False,
    },
    "add": {
        "type": "object",
        "properties": {
            "a": {"type": "integer", "minimum": -9, "maximum": 99},
            "b": {"type": "integer", "minimum": -9, "maximum": 99},
            "exact": {"type": "boolean"},
        },
        "required": ["a", "b", "exact"],
        "additionalProperties": False,
    },
    "note": {
        "type": "object",
        "properties": {"text": {"type": "string", "maxLength": 12}},
        "required": ["text"],
        "additionalProperties": False,
    },
}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": schema}}
    for name, schema in SCHEMAS.items()
]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.load(tiny_model_dir(scale=2.0), max_rows=64) as loaded:
        yield loaded


def check(reply: Completion, names: set[str]) -> None:
    assert reply.finish_reason == "tool_calls", reply
    assert reply.text == "" and reply.tool_calls
    for call in reply.tool_calls:
        assert call.name in names and call.id.startswith("call_")
        jsonschema.validate(json.loads(call.arguments), SCHEMAS[call.name])


@pytest.mark.parametrize(
    "count",
    [40, pytest.param(150, marks=pytest.mark.long), pytest.param(500, marks=pytest.mark.soak)],
)
def test_forced_calls_beside_free_text(engine: Engine, count: int) -> None:
    free: dict[str, Any] = {"temperature": 1.0, "max_tokens": 40}
    alone = [engine.chat(f"Text {i}", seed=i, **free).text for i in range(8)]

    async def all_of_them() -> tuple[list[Completion], list[Completion]]:
        async def call(number: int) -> Completion:
            name = list(SCHEMAS)[number % 4 - 1] if number % 4 else None
            choice = {"type": "function", "function": {"name": name}} if name else "required"
            return await engine.achat(
                f"Do {number}",
                tools=[tool for tool in TOOLS if name in (None, tool["function"]["name"])],
                tool_choice=choice,
                parallel_tool_calls=False,
                temperature=1.5,
                seed=number,
                max_tokens=400,
            )

        texts = asyncio.gather(
            *(engine.achat(f"Text {i}", seed=i, **free) for i in range(len(alone)))
        )
        calls = await asyncio.gather(*(call(number) for number in range(count)))
        return calls, await texts

    calls, texts = asyncio.run(all_of_them())
    for number, reply in enumerate(calls):
        check(reply, {list(SCHEMAS)[number % 4 - 1]} if number % 4 else set(SCHEMAS))
        assert len(reply.tool_calls) == 1
    assert len({reply.tool_calls[0].name for reply in calls[::4]}) > 1
    assert [reply.text for reply in texts] == alone


@pytest.mark.parametrize("incremental", [False, True])
def test_streamed_calls_equal_whole_ones(engine: Engine, incremental: bool) -> None:
    options: dict[str, Any] = {
        "tools": TOOLS,
        "tool_choice": "required",
        "temperature": 1.5,
        "seed": 11,
        "max_tokens": 600,
        "n": 2,
    }
    whole = engine.chat("Do it", **options)
    events = list(engine.stream("Do it", incremental_calls=incremental, **options))
    assert not any(isinstance(event, TextDelta) and event.text for event in events)
    pieces = [event for event in events if isinstance(event, ToolCallDelta)]
    for number, choice in enumerate(whole.choices):
        streamed = tool_calls(piece for piece in pieces if piece.choice == number)
        assert [(call.name, call.arguments) for call in streamed] == [
            (call.name, call.arguments) for call in choice.tool_calls
        ]
    calls = sum(len(choice.tool_calls) for choice in whole.choices)
    assert (len(pieces) > calls) if incremental else (len(pieces) == calls)
    ended = [event.reason for event in events if isinstance(event, ChoiceFinished)]
    assert set(ended) <= {"tool_calls", "length"}


def test_a_call_in_the_history_and_its_result(engine: Engine) -> None:
    first = engine.chat("Weather?", tools=TOOLS, tool_choice="required", max_tokens=400, seed=1)
    [call, *_] = first.tool_calls
    history = [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
            ],
        },
        {"role": "tool", "tool_call_id": call.id, "content": '{"sky": "blue"}'},
    ]
    reply = engine.chat(history, tools=TOOLS, tool_choice="none", max_tokens=8)
    assert reply.finish_reason == "length" and not reply.tool_calls
    with pytest.raises(InvalidRequestError, match=r"messages\[2\]"):
        engine.chat([*history[:2], {**history[2], "tool_call_id": "other"}], max_tokens=2)


def accepted(engine: Engine, source: str, text: str) -> tuple[bool, bool]:
    """Whether a grammar takes a text as a beginning, and as a whole."""
    tokenizer = engine._tokenizer.backend
    matcher = LLMatcher(LLTokenizer(tokenizer.to_str()), source, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    return matcher.consume_tokens(tokenizer.encode(text).ids), matcher.is_accepting()


def test_strict_arguments_are_constrained_once_a_call_begins(engine: Engine) -> None:
    strict = [{**tool["function"], "strict": True} for tool in TOOLS]
    request = chat_request("Go", {"tools": strict})
    grammar = grammar_of(request, engine._parts.parsers, "")
    assert grammar is not None and grammar.param == "tools"

    def call(name: str, arguments: str) -> str:
        return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'

    good = call("add", '{"a": 1, "b": 99, "exact": true}')
    assert accepted(engine, grammar.source, "Nothing to call.") == (True, True)
    assert accepted(engine, grammar.source, f"I add. {good}") == (True, True)
    assert accepted(engine, grammar.source, f"{good}\n{good} done") == (True, True)
    assert accepted(engine, grammar.source, good[:-3]) == (True, False)
    for bad in (
        call("add", '{"a": 1, "b": 100, "exact": true}'),
        call("add", '{"a": 1}'),
        call("other", "{}"),
    ):
        assert accepted(engine, grammar.source, bad)[0] is False
    one = chat_request("Go", {"tools": strict, "parallel_tool_calls": False})
    single = grammar_of(one, engine._parts.parsers, "")
    assert single is not None
    assert accepted(engine, single.source, good)[0]
    free = chat_request("Go", {"tools": TOOLS})
    assert grammar_of(free, engine._parts.parsers, "") is None


def test_form_or_call(engine: Engine) -> None:
    form = {
        "type": "json_schema",
        "json_schema": {"name": "x", "schema": {"enum": ["only this"]}},
    }
    reasons = set()
    for seed in range(10):
        reply = engine.chat(
            "x", tools=TOOLS, response_format=form, temperature=1.5, seed=seed, max_tokens=400
        )
        reasons.add(reply.finish_reason)
        if reply.finish_reason == "tool_calls":
            check(reply, set(SCHEMAS))
        elif reply.finish_reason == "stop":
            assert reply.text == '"only this"'
    assert reasons >= {"tool_calls", "stop"}


def test_settings() -> None:
    path = tiny_model_dir(scale=2.0)
    with Engine.load(path, tool_parser="none") as engine:
        with pytest.raises(InvalidRequestError) as caught:
            engine.chat("x", tools=TOOLS, max_tokens=2)
        assert caught.value.param == "tools"
        assert engine.chat("x", tools=TOOLS, tool_choice="none", max_tokens=2).text is not None
