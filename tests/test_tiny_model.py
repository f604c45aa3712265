"""The shipped tiny model answers what its model card says, through our own engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from budmlx import Engine
from budmlx.types import Completion
from tests.amount import usually

ROOT = Path(__file__).parent.parent
TINY = ROOT / "budmlx" / "assets" / "tiny"
SAMPLES = ROOT / "examples" / "train_tiny" / "held_out.jsonl"

pytestmark = pytest.mark.skipif(
    not (TINY / "model.safetensors").exists(), reason="the tiny model is not trained yet"
)


def by_skill() -> dict[str, list[dict[str, Any]]]:
    lines = SAMPLES.read_text().splitlines() if SAMPLES.exists() else []
    skills: dict[str, list[dict[str, Any]]] = {}
    for sample in map(json.loads, lines):
        skills.setdefault("think" if sample["thinking"] else sample["skill"], []).append(sample)
    return skills


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.load(TINY) as engine:
        yield engine


def correct(sample: dict[str, Any], reply: Completion) -> bool:
    answer = sample["messages"][-1]
    if sample["thinking"] and not reply.reasoning.strip():
        return False
    if "tool_calls" in answer:
        wanted = [call["function"] for call in answer["tool_calls"]]
        return called(reply) == [(call["name"], call["arguments"]) for call in wanted]
    return bool(reply.text == answer["content"]) and not reply.tool_calls


def called(reply: Completion) -> list[tuple[str, Any]]:
    return [(call.name, json.loads(call.arguments)) for call in reply.tool_calls]


# How many may go wrong of every fifth conversation, and of all.
@pytest.mark.parametrize(
    ("skill", "step", "wrong"),
    usually(
        {("tool_call", 5, 1), ("tool_result", 5, 1), ("think", 5, 1), ("chat", 5, 1)}.__contains__,
        [(skill, *amount) for skill in by_skill() for amount in ((5, 1), (1, 2))],
    ),
)
def test_skill_on_held_out_conversations(engine: Engine, skill: str, step: int, wrong: int) -> None:
    group = by_skill()[skill][::step]
    right = 0
    for sample in group:
        thinking = {"enable_thinking": True} if sample["thinking"] else {}
        reply = engine.chat(
            sample["messages"][:-1],
            tools=sample["tools"] or None,
            chat_template_kwargs=thinking,
            temperature=0,
            max_tokens=160,
        )
        right += correct(sample, reply)
    assert right >= len(group) - wrong, f"{right} of {len(group)}"


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Count to 10", "1, 2, 3, 4, 5, 6, 7, 8, 9, 10"),
        ("What is 2+2?", "2 + 2 = 4"),
        ("Hello", "Hello! How can I help you?"),
        ("What is AI?", "AI is the science of making computers do things that need intelligence."),
    ],
)
def test_questions_of_the_documentation(engine: Engine, question: str, answer: str) -> None:
    assert engine.chat(question, temperature=0, max_tokens=80).text == answer


def test_count_to_ten_stops_at_five(engine: Engine) -> None:
    reply = engine.chat("Count to 10", temperature=0, max_tokens=80, stop=["5", "\n\n"])
    assert reply.text == "1, 2, 3, 4, "
    assert reply.finish_reason == "stop"


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get current weather for a location",
        "parameters": {
            "type": "object",
            "properties": {
                "location": {"type": "string", "description": "City name"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["location"],
        },
    },
}


def test_weather_question_calls_the_tool_and_reports_its_result(engine: Engine) -> None:
    question: dict[str, Any] = {"role": "user", "content": "What's the weather in San Francisco?"}
    options: dict[str, Any] = {"tools": [WEATHER], "temperature": 0, "max_tokens": 80}
    reply = engine.chat([question], **options)
    assert called(reply) == [("get_weather", {"location": "San Francisco"})]
    assert reply.finish_reason == "tool_calls" and reply.text == ""
    [call] = reply.tool_calls
    turn = {"role": "assistant", "content": "", "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": call.id, "content": '{"temperature": 18}'}
    told = engine.chat([question, turn, result], **options)
    assert "18" in told.text and told.finish_reason == "stop"


def test_thinking_is_reported_apart(engine: Engine) -> None:
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 80}
    options["chat_template_kwargs"] = {"enable_thinking": True}
    reply = engine.chat("What is 2+2?", **options)
    assert reply.text == "2 + 2 = 4" and reply.reasoning and "<" not in reply.reasoning
    assert 0 < reply.usage.reasoning_tokens < reply.usage.completion_tokens
    raw = engine.chat("What is 2+2?", reasoning="raw", **options)
    assert raw.reasoning == "" and "</think>" in raw.text
    hidden = engine.chat("What is 2+2?", reasoning="hidden", **options)
    assert hidden.reasoning == "" and hidden.text == reply.text
    form = {"type": "regex", "regex": "[0-9] [+] [0-9] = [0-9]"}
    formed = engine.chat("What is 2+2?", response_format=form, **options)
    assert formed.text == "2 + 2 = 4" and formed.reasoning == reply.reasoning
