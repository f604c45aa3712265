"""A question, a call, its result, an answer: with the shipped model and real client packages."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import pytest

from budmlx import Engine
from budmlx.config import Config
from budmlx.engine.load.hub import SHIPPED_MODEL
from budmlx.engine.models.models import Models
from budmlx.server.app import HttpServer

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "strict": True,
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
QUESTION: Any = {"role": "user", "content": "What's the weather in San Francisco?"}


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.load(SHIPPED_MODEL, engine_host="thread") as engine:
        yield engine


@pytest.fixture
async def sdk(engine: Engine) -> AsyncIterator[openai.AsyncOpenAI]:
    server = await HttpServer.start(Models.of(engine, ()), Config(port=0, drain_seconds=0))
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as sdk:
        yield sdk
    await server.drain()


@pytest.mark.parametrize("streaming", [False, True])
async def test_an_agent_asks_calls_and_answers(sdk: openai.AsyncOpenAI, streaming: bool) -> None:
    models = await sdk.models.list()
    options: Any = {"model": models.data[0].id, "temperature": 0, "max_tokens": 80}
    messages = [QUESTION]
    for _ in range(4):
        if streaming:
            async with sdk.chat.completions.stream(
                messages=messages, tools=[WEATHER], **options
            ) as stream:
                choice: Any = (await stream.get_final_completion()).choices[0]
        else:
            done = await sdk.chat.completions.create(messages=messages, tools=[WEATHER], **options)
            choice = done.choices[0]
        messages.append(choice.message.model_dump(exclude={"parsed"}))
        if choice.finish_reason != "tool_calls":
            break
        for call in choice.message.tool_calls:
            assert json.loads(call.function.arguments)["location"] == "San Francisco"
            result = {"role": "tool", "tool_call_id": call.id, "content": '{"temperature": 18}'}
            messages.append(result)
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "assistant"]
    assert "18" in messages[-1]["content"]


@pytest.mark.parametrize("streaming", [False, True])
async def test_two_calls_at_once(sdk: openai.AsyncOpenAI, streaming: bool) -> None:
    models = await sdk.models.list()
    options: Any = {"model": models.data[0].id, "temperature": 0, "max_tokens": 120}
    options["messages"] = [{"role": "user", "content": "What is the weather in Paris and Tokyo?"}]
    if streaming:
        async with sdk.chat.completions.stream(tools=[WEATHER], **options) as stream:
            choice: Any = (await stream.get_final_completion()).choices[0]
    else:
        choice = (await sdk.chat.completions.create(tools=[WEATHER], **options)).choices[0]
    assert choice.finish_reason == "tool_calls"
    calls = choice.message.tool_calls
    places = [json.loads(call.function.arguments)["location"] for call in calls]
    assert places == ["Paris", "Tokyo"] and len({call.id for call in calls}) == 2
    one = await sdk.chat.completions.create(tools=[WEATHER], parallel_tool_calls=False, **options)
    assert len(one.choices[0].message.tool_calls or ()) == 1
