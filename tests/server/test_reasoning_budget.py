"""Budgets of reasoning over HTTP: what replies and streams say of them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from budmlx import Engine
from budmlx.config import Config
from budmlx.engine.models.models import Models
from budmlx.server.app import HttpServer
from tests.models import thinking_model_dir
from tests.server.tools import CHAT, body

SAID = "max_reasoning_tokens"


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """To a server of the demo model, which thinks where it is asked to, with a core of its own."""
    with Engine.load(engine_host="process") as engine:
        server = await HttpServer.start(Models.of(engine, ["demo"]), Config(port=0))
        async with aiohttp.ClientSession(server.url) as client:
            yield client
        await server.drain()


def asking(**fields: object) -> dict[str, object]:
    thinking = {"chat_template_kwargs": {"enable_thinking": True}, "temperature": 0}
    return body(max_tokens=40, **{**thinking, **fields})


async def test_whole_replies_and_streams_say_that_reasoning_was_ended(
    session: aiohttp.ClientSession,
) -> None:
    async with session.post(CHAT, json=asking()) as response:
        free = await response.json()
    reasoning = free["choices"][0]["message"]["reasoning_content"]
    count = free["usage"]["completion_tokens_details"]["reasoning_tokens"]
    assert count > 2 and "warnings" not in free
    async with session.post(CHAT, json=asking(max_reasoning_tokens=2)) as response:
        whole = await response.json()
    message = whole["choices"][0]["message"]
    assert reasoning.startswith(message["reasoning_content"]) and message["content"]
    assert whole["usage"]["completion_tokens_details"]["reasoning_tokens"] == 2
    assert len(whole["warnings"]) == 1 and SAID in whole["warnings"][0]
    async with session.post(CHAT, json=asking(max_reasoning_tokens=2, stream=True)) as response:
        chunks = [
            json.loads(line[6:])
            for line in (await response.text()).split("\n\n")
            if line.startswith("data: {")
        ]
    assert chunks[-1]["warnings"] == whole["warnings"]
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    said = "".join(delta.get("reasoning_content") or "" for delta in deltas)
    assert said == message["reasoning_content"]


@pytest.mark.parametrize("value", [-1, "many", 1.5])
async def test_what_is_no_number_of_tokens_is_refused(
    session: aiohttp.ClientSession, value: object
) -> None:
    async with session.post(CHAT, json=asking(max_reasoning_tokens=value)) as response:
        assert response.status == 400
        assert (await response.json())["error"]["param"] == SAID


OTHERS = {
    "/v1/messages": {"thinking": {"type": "disabled"}, "max_tokens": 8},
    "/v1/responses": {"input": "Hi", "reasoning": {"effort": "none"}, "max_output_tokens": 8},
    "/api/chat": {"think": False, "stream": False, "options": {"num_predict": 8}},
}


@pytest.mark.parametrize("path", OTHERS)
async def test_other_protocols_say_it_in_a_header(path: str, tmp_path: Path) -> None:
    """The template has no switch, so that no reasoning is a budget of none."""
    asked = {"model": "demo", **OTHERS[path]}
    if "input" not in asked:
        asked["messages"] = [{"role": "user", "content": "Hi"}]
    with Engine.load(thinking_model_dir(tmp_path / "m"), engine_host="thread") as engine:
        server = await HttpServer.start(Models.of(engine, ["demo"]), Config(port=0))
        async with (
            aiohttp.ClientSession(server.url) as client,
            client.post(path, json=asked) as response,
        ):
            said = json.loads(response.headers["X-Budmlx-Warnings"])
            assert response.status == 200
        await server.drain()
    assert [warning for warning in said if SAID in warning]
