"""The load generator, a process of its own: reads one load as JSON, writes what it saw.

`{"url", "users", "bodies"}` is a closed loop; `{"url", "alone", "streams", "probes"}` sends
probes one after the other while the streams run; `{"url", "body", "turns"}` is a conversation.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import aiohttp

from budmlx.cli.load import Sample, closed_loop, new_session, stream_chat

# The streams have settled once each brought so many pieces of text.
SETTLED_CHUNKS = 8
# Seconds of undisturbed streaming before the first probe and between probes. The second
# is no multiple of anybody's time slice, so that probes arrive at all phases of it.
QUIET_SECONDS = 1.0
PAUSE_SECONDS = 0.27


@dataclass(slots=True)
class Turn(Sample):
    """A request of a conversation. cached_tokens: of its prompt; None if the server is silent."""

    text: str = ""
    cached_tokens: int | None = None


async def run_closed_loop(load: dict[str, Any]) -> dict[str, Any]:
    """Run a closed loop; see `budmlx.cli.load.Load`."""
    return asdict(await closed_loop(load["url"], load["bodies"], load["users"]))


async def run_join(load: dict[str, Any]) -> dict[str, Any]:
    """Samples of the requests alone, of the streams and of the probes, and phases.

    phases: `quiet` and `after` are intervals in which the streams ran without a prefill.
    """
    url = load["url"]
    alone = (await closed_loop(url, load["alone"], 1)).samples if load["alone"] else []
    streams = [Sample() for _ in load["streams"]]
    probes = [Sample() for _ in load["probes"]]
    async with new_session() as session:
        tasks = [
            asyncio.create_task(stream_chat(session, url, body, sample))
            for body, sample in zip(load["streams"], streams, strict=True)
        ]
        while not all(len(sample.chunks) >= SETTLED_CHUNKS or sample.ended for sample in streams):
            await asyncio.sleep(0.01)
        quiet_from = time.perf_counter()
        await asyncio.sleep(QUIET_SECONDS)
        quiet_to = time.perf_counter()
        for body, probe in zip(load["probes"], probes, strict=True):
            await stream_chat(session, url, body, probe)
            await asyncio.sleep(PAUSE_SECONDS)
        over = time.perf_counter()
        # Leaving instead of waiting for the end, as impatient clients do.
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return {
        "alone": [asdict(sample) for sample in alone],
        "streams": [asdict(sample) for sample in streams],
        "probes": [asdict(sample) for sample in probes],
        "quiet": [quiet_from, quiet_to],
        "over": over,
    }


async def run_turns(load: dict[str, Any]) -> dict[str, Any]:
    """Samples of a conversation, which ends early where the server fails."""
    messages: list[dict[str, str]] = []
    turns: list[Turn] = []
    async with new_session() as session:
        for said in load["turns"]:
            messages.append({"role": "user", "content": said})
            turn = Turn()
            turns.append(turn)
            await _take_turn(session, load["url"], {**load["body"], "messages": messages}, turn)
            if turn.error:
                break
            messages.append({"role": "assistant", "content": turn.text})
    return {"turns": [asdict(turn) for turn in turns]}


async def _take_turn(
    session: aiohttp.ClientSession, url: str, body: Mapping[str, Any], turn: Turn
) -> None:
    """`stream_chat` that also keeps the text, and how much of the prompt was cached."""
    turn.expected = body["max_tokens"]
    turn.sent = time.perf_counter()
    try:
        async with session.post(f"{url}/v1/chat/completions", json=body) as response:
            turn.status = response.status
            if response.status != 200:
                turn.error = (await response.text())[:500]
                return
            async for line in response.content:
                if line.startswith(b"data: {"):
                    _note(turn, json.loads(line[6:]))
        if turn.finish_reason is None:
            turn.error = turn.error or "the stream broke off"
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        turn.error = f"{type(error).__name__}: {error}"
    finally:
        turn.ended = time.perf_counter()


def _note(turn: Turn, event: Mapping[str, Any]) -> None:
    if "error" in event:
        turn.error = json.dumps(event["error"])[:500]
    for choice in event.get("choices") or ():
        if text := choice.get("delta", {}).get("content"):
            turn.text += text
            turn.chunks.append(time.perf_counter())
        turn.finish_reason = choice.get("finish_reason") or turn.finish_reason
    if usage := event.get("usage"):
        turn.prompt_tokens = usage["prompt_tokens"]
        turn.completion_tokens = usage["completion_tokens"]
        turn.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")


def main() -> None:
    """Run the load on standard input."""
    load = json.load(sys.stdin)
    runs = {"bodies": run_closed_loop, "probes": run_join, "turns": run_turns}
    run = next(run for key, run in runs.items() if key in load)
    json.dump(asyncio.run(run(load)), sys.stdout)


if __name__ == "__main__":
    main()
