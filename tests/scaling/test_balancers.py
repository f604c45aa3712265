"""nginx and HAProxy in front of two servers, with the files that docs/scaling.md shows."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from bench.fronts import Balancer, until_ready
from tests.scaling.machines import OTHER_KEY, ROWS, Servers
from tests.scaling.traffic import (
    HEADERS,
    Crowd,
    Stream,
    answered,
    asked,
    session,
    streamed,
    tag_of,
)

pytestmark = [pytest.mark.balancers, pytest.mark.timeout(300)]

STREAMS = 200
PROMPTS = [f"Tell me a story about {what}." for what in ("a cat", "a dog", "the sea", "a tree")]


def talk(number: int, turns: int, said: list[str]) -> dict[str, Any]:
    """A turn of a conversation, with the replies so far."""
    messages: list[dict[str, str]] = [{"role": "system", "content": "You tell stories. " * 5}]
    for turn in range(turns + 1):
        messages.append({"role": "user", "content": f"Story {number}, part {turn}. " * 4})
        if turn < turns:
            messages.append({"role": "assistant", "content": said[turn]})
    return {"model": "m", "messages": messages, "max_tokens": 12, "temperature": 0}


async def hit_rate(url: str, salt: str, talks: int = 10, turns: int = 3) -> float:
    """The share of tokens of prompts that were reused, over conversations that take turns."""
    said: list[list[str]] = [[] for _ in range(talks)]
    cached = total = 0
    async with session(url) as client:
        for turn in range(turns):
            for number in range(talks):
                body = {**talk(number, turn, said[number]), "cache_salt": salt}
                async with client.post("/v1/chat/completions", json=body) as answer:
                    assert answer.status == 200, await answer.text()
                    reply = await answer.json()
                said[number].append(reply["choices"][0]["message"]["content"])
                total += reply["usage"]["prompt_tokens"]
                cached += reply["usage"]["prompt_tokens_details"]["cached_tokens"]
    return cached / total


async def test_conversations_find_their_kv(balancer: Balancer, servers: Servers) -> None:
    """No header names them: their heads alone do."""
    alone = await hit_rate(f"http://127.0.0.1:{servers.ports['a']}", f"{balancer.name} alone")
    both = await hit_rate(balancer.url, balancer.name)
    assert alone > 0.5 and both >= 0.9 * alone, (both, alone)


@pytest.mark.parametrize(
    "header", ["X-Conversation-Id", "Session-Id", "X-Session-Id", "X-Claude-Code-Session-Id"]
)
async def test_a_header_names_a_conversation(balancer: Balancer, header: str) -> None:
    async with session(balancer.url) as client:
        found = [
            {
                tag_of((await answered(client, asked(f"Part {part}"), **{header: f"{name}"}))["id"])
                for part in range(3)
            }
            for name in range(12)
        ]
    assert all(len(tags) == 1 for tags in found)
    assert set.union(*found) == {"a", "b"}


async def test_what_one_server_has_is_found(balancer: Balancer) -> None:
    async with session(balancer.url) as client:
        seen = set()
        for number in range(16):
            first = await answered(client, asked(f"{balancer.name} {number}"))
            seen.add(tag := tag_of(first["id"]))
            async with client.get(f"/v1/responses/{first['id']}") as answer:
                assert answer.status == 200
            more = [
                {"input": "And then?", "previous_response_id": first["id"]},
                {"input": [{"type": "item_reference", "id": first["output"][0]["id"]}]},
                {"input": [{"id": first["output"][0]["id"], "type": "item_reference"}]},
            ]
            for fields in more:
                again = await answered(client, {**asked(""), **fields})
                assert tag_of(again["id"]) == tag
    assert seen == {"a", "b"}


async def test_files_and_batches_are_found(balancer: Balancer) -> None:
    line = {
        "custom_id": "1",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": talk(1, 0, []),
    }
    seen = set()
    for key in (HEADERS, {"Authorization": f"Bearer {OTHER_KEY}"}):
        async with session(balancer.url, key) as client:
            form = aiohttp.FormData({"purpose": "batch"})
            form.add_field("file", json.dumps(line).encode(), filename="lines.jsonl")
            async with client.post("/v1/files", data=form) as answer:
                file = await answer.json()
            seen.add(tag := tag_of(file["id"]))
            asks = {
                "input_file_id": file["id"],
                "endpoint": "/v1/chat/completions",
                "completion_window": "24h",
            }
            async with client.post("/v1/batches", json=asks) as answer:
                batch = await answer.json()
            assert tag_of(batch["id"]) == tag, batch
            while batch["status"] not in ("completed", "failed"):
                await asyncio.sleep(0.05)
                async with client.get(f"/v1/batches/{batch['id']}") as answer:
                    batch = await answer.json()
            async with client.get(f"/v1/files/{batch['output_file_id']}/content") as answer:
                assert json.loads(await answer.text())["custom_id"] == "1"
            async with client.get("/v1/files") as answer:
                assert file["id"] in [each["id"] for each in (await answer.json())["data"]]
    assert seen <= {"a", "b"}


async def test_batches_of_messages_are_found(balancer: Balancer) -> None:
    message = {"role": "user", "content": "A story"}
    params = {"model": "m", "max_tokens": 4, "messages": [message]}
    path = "/v1/messages/batches"
    async with session(balancer.url) as client:
        asks = {"requests": [{"custom_id": "1", "params": params}]}
        async with client.post(path, json=asks) as answer:
            batch = await answer.json()
        while batch["processing_status"] != "ended":
            await asyncio.sleep(0.05)
            async with client.get(f"{path}/{batch['id']}") as answer:
                batch = await answer.json()
        async with client.get(f"{path}/{batch['id']}/results") as answer:
            assert json.loads(await answer.text())["custom_id"] == "1"
        async with client.get(path) as answer:
            assert batch["id"] in [each["id"] for each in (await answer.json())["data"]]


async def test_keys_are_required(balancer: Balancer) -> None:
    async with session(balancer.url, {}) as client:
        for path in ("/v1/responses", "/v1/files", "/v1/batches"):
            async with client.post(path, json={}) as answer:
                assert answer.status == 401
        async with client.get("/ready") as answer:
            assert answer.status == 200
        async with client.get("/metrics", headers=HEADERS) as answer:
            assert answer.status == 404


async def test_streams_are_not_held_back(balancer: Balancer) -> None:
    """Text is there while the rest of it is still to be made."""
    stream, left = Stream(), []
    async with session(balancer.url) as client:
        await streamed(client, stream, asked("A story", 200), {}, lambda: left.append(stream.ended))
    assert stream.ended and stream.pieces > 100 and left == [False]


async def told(url: str, tokens: int) -> list[str]:
    """The replies to the prompts, which are the same wherever they are computed."""
    async with session(url) as client:
        replies = [await answered(client, asked(prompt, tokens)) for prompt in PROMPTS]
    return [reply["output"][0]["content"][0]["text"] for reply in replies]


def whole(stream: Stream, text: str) -> bool:
    """Whether a client got all of a reply, once, in its order."""
    ordered = stream.numbers == list(range(len(stream.numbers)))
    return stream.ended and ordered and stream.text == text


async def test_a_server_that_is_killed(balancer: Balancer, servers: Servers) -> None:
    """Its streams that had begun are cut, which are those of its rows; nobody else notices."""
    tokens = 32
    texts = await told(f"http://127.0.0.1:{servers.ports['a']}", tokens) * (STREAMS // 4)
    bodies = [asked(prompt, tokens) for prompt in PROMPTS * (STREAMS // 4)]
    async with session(balancer.url) as client:
        crowd = Crowd(client, bodies)
        await crowd.until_begun(20, "b")
        servers.end("b", kill=True)
        after = asyncio.gather(
            *(answered(client, asked(f"After {n}"), **{"Session-Id": f"{n}"}) for n in range(40))
        )
        await crowd.over()
        assert {tag_of(reply["id"]) for reply in await after} == {"a"}
    servers.wait("b")
    for stream, text in zip(crowd.streams, texts, strict=True):
        if tag_of(stream.id) == "a":
            assert whole(stream, text)
        elif not stream.ended:
            assert stream.id and text.startswith(stream.text)
    assert 0 < sum(not each.ended for each in crowd.streams) <= ROWS
    servers.start("b")
    async with session(balancer.url) as client:
        await until_used(client, "b")


async def until_used(client: aiohttp.ClientSession, tag: str) -> None:
    """Wait until new conversations come to a server again."""
    for number in range(600):
        reply = await answered(client, asked("Back?"), **{"X-Conversation-Id": f"{number}"})
        if tag_of(reply["id"]) == tag:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"{tag} gets no requests")


async def test_a_server_that_shuts_down(balancer: Balancer, servers: Servers) -> None:
    """What it has begun is finished, and nobody notices."""
    tokens = 32
    texts = await told(f"http://127.0.0.1:{servers.ports['a']}", tokens) * 10
    async with session(balancer.url) as client:
        crowd = Crowd(client, [asked(prompt, tokens) for prompt in PROMPTS * 10])
        await crowd.until_begun(10, "b")
        servers.end("b")
        for number in range(20):
            await answered(client, asked(f"Meanwhile {number}"), **{"Session-Id": f"{number}"})
        await crowd.over()
    servers.wait("b")
    assert all(map(whole, crowd.streams, texts))
    servers.start("b")
    until_ready(f"http://127.0.0.1:{servers.ports['b']}")
