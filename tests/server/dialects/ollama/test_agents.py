"""Conversations of agents over Ollama's protocol, with a model that says what scripts say."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest

from budmlx import Engine
from budmlx.config import Config
from budmlx.core.reuse.tree import BLOCK
from budmlx.engine.models.models import Models
from budmlx.server.app import HttpServer
from tests.agent_model import agent_model, calling, thinking

TURNS = 40
TOOL = {
    "type": "function",
    "function": {
        "name": "Bash",
        "description": "Run a command. " * 40,
        "parameters": {
            "type": "object",
            "required": ["command"],
            "properties": {"command": {"type": "string"}},
        },
    },
}
SCRIPTS = {
    "two": [
        f"{calling('Bash', {'command': 'ls'})}\n{calling('Bash', {'command': 'pwd'})}",
        "Both are done.",
    ],
    "long": [
        thinking(f"Step {turn} of many.", calling("Bash", {"command": f"step {turn}"}))
        for turn in range(TURNS)
    ],
}


@pytest.fixture(scope="module")
def agent() -> Iterator[Engine]:
    with Engine.load(agent_model(SCRIPTS), engine_host="thread", warmup="off") as engine:
        yield engine


@pytest.fixture
async def client(agent: Engine) -> AsyncIterator[aiohttp.ClientSession]:
    config = Config(port=0, drain_seconds=0)
    server = await HttpServer.start(Models.of(agent, ("local-model",)), config)
    async with aiohttp.ClientSession(server.url) as session:
        yield session
    await server.drain()


async def reply_to(
    client: aiohttp.ClientSession, messages: list[dict[str, Any]], **fields: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The message of a stream, as a client puts it together, and the last line."""
    body = {"model": "local-model", "messages": messages, "tools": [TOOL], **fields}
    async with client.post("/api/chat", json=body) as response:
        text = await response.text()
        assert response.status == 200, text
    lines = [json.loads(line) for line in text.splitlines()]
    message: dict[str, Any] = {"role": "assistant", "content": ""}
    for line in lines:
        for key, value in line["message"].items():
            if key != "role":
                message[key] = message.get(key, type(value)()) + value
    return message, lines[-1]


def without_ids(message: dict[str, Any]) -> dict[str, Any]:
    """A message as most clients send it back."""
    calls = message.get("tool_calls", [])
    for call in calls:
        assert call.pop("id") and call["function"].pop("index") is not None
    return message


async def test_forty_turns_compute_each_token_once(client: aiohttp.ClientSession) -> None:
    messages = [{"role": "user", "content": "script long; Go on and on."}]
    computed = 0
    for turn in range(TURNS):
        message, last = await reply_to(client, messages, explain_cache=True)
        [call] = message["tool_calls"]
        assert call["function"]["arguments"] == {"command": f"step {turn}"}
        assert message["thinking"] == f"Step {turn} of many." and message["content"] == ""
        matched = last["cache_explanation"]["matched_tokens"]
        computed += last["prompt_eval_count"] - matched + last["eval_count"]
        result = {"role": "tool", "content": f"output {turn} " * 20}
        messages += [without_ids(message), result]
    distinct = last["prompt_eval_count"] + last["eval_count"]
    assert distinct > 2_500
    assert distinct <= computed <= distinct + BLOCK * TURNS


async def test_results_belong_to_calls_by_their_order(client: aiohttp.ClientSession) -> None:
    messages = [{"role": "user", "content": "script two; What is here?"}]
    message, last = await reply_to(client, messages)
    assert [call["function"]["index"] for call in message["tool_calls"]] == [0, 1]
    assert last["done_reason"] == "stop"
    messages += [without_ids(message), *({"role": "tool", "content": each} for each in "ab")]
    message, _ = await reply_to(client, messages)
    assert message == {"role": "assistant", "content": "Both are done."}
    whole = {"model": "local-model", "messages": messages, "tools": [TOOL], "stream": False}
    async with client.post("/api/chat", json=whole) as response:
        assert (await response.json())["message"] == message
