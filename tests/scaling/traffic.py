"""Requests of the tests, and what became of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.scaling.machines import KEY

HEADERS = {"Authorization": f"Bearer {KEY}"}
PATIENCE = aiohttp.ClientTimeout(total=110)


def session(url: str, headers: Mapping[str, str] = HEADERS) -> aiohttp.ClientSession:
    """A client that opens as many connections as it has requests."""
    connector = aiohttp.TCPConnector(limit=0)
    return aiohttp.ClientSession(url, headers=headers, timeout=PATIENCE, connector=connector)


def asked(text: str, tokens: int = 8, **more: Any) -> dict[str, Any]:
    """A body for `/v1/responses` whose reply has exactly so many tokens."""
    said = [{"role": "user", "content": text}]
    length = {"max_output_tokens": tokens, "min_tokens": tokens, "temperature": 0}
    return {"model": "m", "input": said, **length, **more}


async def answered(client: aiohttp.ClientSession, body: Mapping[str, Any], **headers: str) -> Any:
    """The response to a body."""
    async with client.post("/v1/responses", json=body, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


def tag_of(id: str) -> str:
    """Of the server that made an id."""
    return id.rpartition("_")[2]


@dataclass(slots=True)
class Stream:
    """A stream as its client saw it. status: 0 where it could not be opened. pieces: of text, each
    of which came as bytes of its own. ended: with its last event.
    """

    text: str = ""
    pieces: int = 0
    id: str = ""
    status: int = 0
    ended: bool = False
    numbers: list[int] = field(default_factory=list)


async def streamed(
    client: aiohttp.ClientSession,
    stream: Stream,
    body: Mapping[str, Any],
    headers: Mapping[str, str],
    began: Callable[[], object],
) -> None:
    """Read a stream to its end, whatever that is."""
    try:
        async with client.post(
            "/v1/responses", json={**body, "stream": True}, headers=headers
        ) as answer:
            stream.status = answer.status
            async for line in answer.content:
                if line.startswith(b"data: "):
                    _read(stream, json.loads(line[6:]), began)
    except aiohttp.ClientError:
        pass


def _read(stream: Stream, event: dict[str, Any], began: Callable[[], object]) -> None:
    stream.numbers.append(event["sequence_number"])
    if event["type"] == "response.created":
        stream.id = event["response"]["id"]
    elif event["type"] == "response.output_text.delta":
        stream.text += event["delta"]
        stream.pieces += 1
        if stream.pieces == 1:
            began()
    elif event["type"] in ("response.completed", "response.incomplete"):
        stream.ended = True


class Crowd:
    """Streams at once, each of a conversation of its own. begun: how many have text."""

    def __init__(self, client: aiohttp.ClientSession, bodies: Sequence[Mapping[str, Any]]):
        self.begun = 0
        self.streams = [Stream() for _ in bodies]
        self._tasks = [
            asyncio.create_task(
                streamed(client, stream, body, {"X-Conversation-Id": f"talk {place}"}, self._count)
            )
            for place, (stream, body) in enumerate(zip(self.streams, bodies, strict=True))
        ]

    def _count(self) -> None:
        self.begun += 1

    async def until_begun(self, count: int, tag: str) -> None:
        """Wait until so many have begun, one of them at least at this server."""
        while self.begun < count or not any(
            each.pieces and not each.ended and tag_of(each.id) == tag for each in self.streams
        ):
            assert not all(task.done() for task in self._tasks)
            await asyncio.sleep(0.01)

    async def over(self) -> None:
        """Wait for all of them."""
        await asyncio.gather(*self._tasks)
