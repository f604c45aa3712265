"""The shipped tiny model answers what its model card says, through our own engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from budmlx import Engine

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


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(TINY)


def calls(text: str) -> list[Any]:
    return [json.loads(part.split("</tool_call>")[0]) for part in text.split("<tool_call>")[1:]]


def correct(sample: dict[str, Any], text: str) -> bool:
    answer = sample["messages"][-1]
    if sample["thinking"]:
        thought, _, text = text.partition("</think>\n\n")
        if not thought.strip():
            return False
    if "tool_calls" in answer:
        return calls(text) == [call["function"] for call in answer["tool_calls"]]
    return text == answer["content"]


@pytest.mark.parametrize("skill", by_skill())
def test_skill_on_held_out_conversations(engine: Engine, tokenizer: Any, skill: str) -> None:
    group = by_skill()[skill]
    right = 0
    for sample in group:
        prompt = tokenizer.apply_chat_template(
            sample["messages"][:-1],
            tools=sample["tools"] or None,
            add_generation_prompt=True,
            enable_thinking=sample["thinking"],
            return_dict=False,
        )
        right += correct(sample, engine.complete(prompt, temperature=0, max_tokens=160).text)
    assert right >= len(group) - 2, f"{right} of {len(group)}"


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


def test_weather_question_calls_the_tool(engine: Engine, tokenizer: Any) -> None:
    properties = {
        "location": {"type": "string", "description": "City name"},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
    }
    parameters = {"type": "object", "properties": properties, "required": ["location"]}
    function = {
        "name": "get_weather",
        "description": "Get current weather for a location",
        "parameters": parameters,
    }
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What's the weather in San Francisco?"}],
        tools=[{"type": "function", "function": function}],
        add_generation_prompt=True,
        return_dict=False,
    )
    text = engine.complete(prompt, temperature=0, max_tokens=80).text
    assert calls(text) == [{"name": "get_weather", "arguments": {"location": "San Francisco"}}]
