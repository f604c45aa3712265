"""Conversations of agents: what they computed once is not computed again."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import aiohttp

from budmlx import Engine
from budmlx.core.reuse.tree import BLOCK
from tests.server.dialects.anthropic.captures import bodies, events_of, shortened
from tests.server.dialects.anthropic.conftest import TURNS

Body = dict[str, Any]
TOOLS = ("Bash", "Read", "ToolSearch", "DeferredToolPlaceholder")


async def reply_to(client: aiohttp.ClientSession, body: Body) -> Body:
    """The message of a stream, as a client puts it together."""
    async with client.post("/v1/messages?beta=true", json=body) as response:
        assert response.status == 200, await response.text()
        events = [event["data"] for event in events_of(await response.read())]
    message: Body = events[0]["message"]
    begun = counts(message)
    for data in events[1:]:
        if data["type"] == "content_block_start":
            message["content"].append(data["content_block"])
            parts: list[str] = []
        elif data["type"] == "content_block_delta":
            delta, block = data["delta"], message["content"][data["index"]]
            if delta["type"] == "input_json_delta":
                parts.append(delta["partial_json"])
                block["input"] = json.loads("".join(parts))
            else:
                [(key, text)] = [item for item in delta.items() if item[0] != "type"]
                block[key] += text
        elif data["type"] == "message_delta":
            message["usage"] = data["usage"]
            message["stop_reason"] = data["delta"]["stop_reason"]
    assert events[-1] == {"type": "message_stop"}
    assert sum(begun) > 0 and begun == counts(message)
    return message


def result(call: Body, content: Any = "hello") -> Body:
    return {"type": "tool_result", "tool_use_id": call["id"], "content": content}


def calls_of(message: Body) -> list[Body]:
    return [block for block in message["content"] if block["type"] == "tool_use"]


def claude_code(question: str) -> Body:
    """The first request of Claude Code as it was captured, with less prose, another question."""
    [first] = deepcopy(shortened(bodies(1)))
    first["tools"] = [tool for tool in first["tools"] if tool["name"] in TOOLS]
    first["messages"][0]["content"][1]["text"] = question
    return first


def next_turn(body: Body, message: Body, *content: Body, hidden: bool = True) -> Body:
    """The request for the next turn as Claude Code makes it.

    The mark has moved, what was a list of one text is a text, the line for the service is another
    one, and the reasoning is in its signature alone.
    """
    body = deepcopy(body)
    body["system"][0]["text"] = body["system"][0]["text"].replace(".abc;", ".def;")
    for each in body["messages"]:
        if isinstance(each["content"], list):
            for block in each["content"]:
                block.pop("cache_control", None)
            if len(each["content"]) == 1 and each["content"][0]["type"] == "text":
                each["content"] = each["content"][0]["text"]
    blocks = [
        {**block, "thinking": ""} if hidden and block["type"] == "thinking" else block
        for block in message["content"]
    ]
    content[-1]["cache_control"] = {"type": "ephemeral"}
    body["messages"] += [
        {"role": "assistant", "content": blocks},
        {"role": "user", "content": list(content)},
    ]
    return body


def counts(message: Body) -> tuple[int, int, int]:
    usage = message["usage"]
    names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    rest, written, read = (usage[name] for name in names)
    return rest, written, read


async def test_the_second_turn_computes_its_new_tokens_only(
    agent_client: aiohttp.ClientSession,
) -> None:
    first = claude_code("script look; What is here?")
    message = await reply_to(agent_client, first)
    assert [block["type"] for block in message["content"]] == ["thinking", "text", "tool_use"]
    assert message["stop_reason"] == "tool_use"
    rest, written, read = counts(message)
    # All but the last token is stored.
    assert (rest, read) == (1, 0) and written > 800
    second = next_turn(first, message, result(*calls_of(message)))
    answer = await reply_to(agent_client, second)
    assert [block.get("text") for block in answer["content"]] == ["There is a cat."]
    before, after = sum(counts(message)), sum(counts(answer))
    computed = sum(counts(answer)[:2])
    new = after - before - message["usage"]["output_tokens"]
    assert 0 < new < 40
    assert new <= computed <= new + BLOCK
    # Another session has the same tools and instructions.
    other = await reply_to(agent_client, claude_code("Say hi"))
    assert counts(other)[2] > written // 2


async def test_forty_turns_compute_each_token_once(
    agent_client: aiohttp.ClientSession, agent: Engine
) -> None:
    body = {**claude_code("script long; Go on and on."), "cache_salt": "alone"}
    computed = 0
    for turn in range(TURNS):
        message = await reply_to(agent_client, body)
        [call] = calls_of(message)
        assert call["input"] == {"command": f"step {turn}"}
        computed += sum(counts(message)[:2]) + message["usage"]["output_tokens"]
        extra = [{"type": "text", "text": f"Note {turn}."}] if turn % 7 == 3 else []
        body = next_turn(body, message, result(call, f"output {turn} " * 20), *extra)
    distinct = sum(counts(message)) + message["usage"]["output_tokens"]
    assert distinct > 3_000
    assert distinct <= computed <= distinct + BLOCK * TURNS


async def test_results_in_another_order_than_the_calls(
    agent_client: aiohttp.ClientSession,
) -> None:
    body = claude_code("script two; What is here?")
    message = await reply_to(agent_client, body)
    one, two = calls_of(message)
    picture = bodies(2)[0]["messages"][3]["content"][0]["content"]
    body = next_turn(body, message, result(two, picture), result(one))
    async with agent_client.post("/v1/messages", json={**body, "stream": False}) as response:
        answer = await response.json()
        warnings = json.loads(response.headers["x-budmlx-warnings"])
    assert answer["content"] == [{"type": "text", "text": "Seen."}]
    assert "The pictures of messages[3].content[0] were left out" in str(warnings)


async def test_tools_that_were_found(agent_client: aiohttp.ClientSession) -> None:
    body = claude_code("script search; Fetch it.")
    message = await reply_to(agent_client, body)
    [later] = shortened(bodies(7))
    found = [tool for tool in later["tools"] if tool["name"] in ("WebFetch", "WebSearch")]
    assert all(tool["defer_loading"] for tool in found)
    body["tools"][1:1] = found
    content = [{"type": "tool_reference", "tool_name": "WebFetch"}]
    turn = next_turn(body, message, result(*calls_of(message), content))
    answer = await reply_to(agent_client, turn)
    assert answer["content"] == [{"type": "text", "text": "Found."}]
    # They came into the middle of the list, and the beginning of the prompt is the same.
    assert counts(answer)[2] >= sum(counts(message)) - 1


async def test_captured_agents_are_answered(agent_client: aiohttp.ClientSession) -> None:
    for number in (1, 2, 3, 4, 5, 7, 8, 10, 11, 12, 13, 14, 15):
        for body in shortened(bodies(number), most=40):
            given = {**body, "tools": body.get("tools", [])[:2], "max_tokens": 4, "stream": True}
            message = await reply_to(agent_client, given)
            assert message["role"] == "assistant" and message["stop_reason"], number


async def test_whole_captured_prompts_are_counted(agent_client: aiohttp.ClientSession) -> None:
    for number, least in ((1, 9_000), (6, 20_000), (7, 5_000), (14, 10_000)):
        body = bodies(number)[0]
        kept = {key: body[key] for key in ("messages", "system", "tools") if key in body}
        path = "/v1/messages/count_tokens"
        async with agent_client.post(path, json={"model": "local-model", **kept}) as response:
            assert (await response.json())["input_tokens"] > least, number


async def test_counts_are_those_of_the_prompt(agent_client: aiohttp.ClientSession) -> None:
    body = claude_code("Count this")
    message = await reply_to(agent_client, body)
    kept = {key: body[key] for key in ("model", "messages", "system", "tools", "thinking")}
    async with agent_client.post("/v1/messages/count_tokens?beta=true", json=kept) as response:
        assert await response.json() == {"input_tokens": sum(counts(message))}


async def test_a_stop_in_the_answer_after_reasoning(agent_client: aiohttp.ClientSession) -> None:
    body = claude_code("script look; What is here?")
    message = await reply_to(agent_client, {**body, "stop_sequences": ["look", "king"]})
    # The reasoning says `look`, where it does not count.
    assert [block["type"] for block in message["content"]] == ["thinking", "text"]
    assert message["content"][1]["text"] == "Loo"
    assert message["stop_reason"] == "stop_sequence"


async def test_reuse_is_explained_on_request(agent_client: aiohttp.ClientSession) -> None:
    body = {**claude_code("Explain"), "explain_cache": True, "stream": False}
    for first in (True, False):
        async with agent_client.post("/v1/messages", json=body) as response:
            found = await response.json()
        explained, (rest, written, read) = found["cache_explanation"], counts(found)
        assert read == explained["matched_tokens"]
        assert (explained["reason"] == "complete") is not first
        assert (written > 0) is first and rest == 1
