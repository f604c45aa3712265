"""The load generator, a process of its own: reads one load as JSON, writes what it saw.

`{"url", "users", "bodies"}` is a closed loop; `{"url", "alone", "streams", "probes"}` sends
probes one after the other while the streams run; `{"url", "body", "turns"}` is a conversation.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict
from typing import Any

from budmlx.benchmark.load import Sample, closed_loop, new_session, stream_chat

# The streams have settled once each has brought this many pieces of text.
SETTLED_CHUNKS = 8
# Seconds of undisturbed streaming before the first probe and between probes. The second
# is no multiple of anybody's time slice, so that probes arrive at all phases of it.
QUIET_SECONDS = 1.0
PAUSE_SECONDS = 0.27


async def run_closed_loop(load: dict[str, Any]) -> dict[str, Any]:
    """Run a closed loop; see `budmlx.benchmark.load.Load`."""
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
    turns: list[Sample] = []
    async with new_session() as session:
        for said in load["turns"]:
            messages.append({"role": "user", "content": said})
            turn = Sample()
            turns.append(turn)
            await stream_chat(session, load["url"], {**load["body"], "messages": messages}, turn)
            if turn.error:
                break
            messages.append({"role": "assistant", "content": turn.text})
    return {"turns": [asdict(turn) for turn in turns]}


def main() -> None:
    """Run the load on standard input."""
    load = json.load(sys.stdin)
    runs = {"bodies": run_closed_loop, "probes": run_join, "turns": run_turns}
    run = next(run for key, run in runs.items() if key in load)
    json.dump(asyncio.run(run(load)), sys.stdout)


if __name__ == "__main__":
    main()
