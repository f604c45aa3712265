"""A closed loop of users against a chat-completions server, and its measurements."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import numpy as np

WORDS = [
    *("river", "stone", "garden", "window", "paper", "morning", "letter", "silver", "mountain"),
    *("bread", "winter", "forest", "music", "market", "station", "harbour", "castle", "summer"),
    *("kitchen", "ocean", "bridge", "village", "teacher", "doctor", "engine", "planet", "island"),
    *("circle", "number", "question", "answer", "picture", "corner", "story", "valley", "summit"),
]

# Seconds after which a silent server is considered dead.
SILENCE_SECONDS = 120.0


@dataclass(slots=True)
class Sample:
    """One streamed request as its client saw it; times in seconds of one monotonic clock.

    chunks: when each piece of text arrived. status: HTTP status, 0 without an answer.
    expected: the max_tokens of the request. cached_tokens: of the prompt; None if the
    server does not say.
    """

    sent: float = 0.0
    chunks: list[float] = field(default_factory=list)
    text: str = ""
    ended: float = 0.0
    status: int = 0
    error: str = ""
    finish_reason: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int | None = None
    expected: int = 0

    @property
    def tokens_per_chunk(self) -> float:
        """The number of tokens per piece of text; 1 while the usage is not known."""
        return self.completion_tokens / len(self.chunks) if self.completion_tokens else 1.0

    @property
    def gaps(self) -> list[float]:
        """Seconds between consecutive pieces of text."""
        return [after - before for before, after in itertools.pairwise(self.chunks)]


@dataclass(slots=True)
class Load:
    """All requests of a closed loop. In [start, end] every user was busy."""

    samples: list[Sample]
    start: float
    end: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Measurements of a load: tokens per second of all users together, the rest in seconds.

    problem: why there is nothing to measure. early: replies shorter than requested.
    """

    problem: str = ""
    requests: int = 0
    prompt_tokens: int = 0
    early: int = 0
    tokens_per_second: float = 0.0
    ttft_p50: float = 0.0
    ttft_p95: float = 0.0
    itl_p50: float = 0.0
    itl_p95: float = 0.0


def new_session(headers: Mapping[str, str] | None = None) -> aiohttp.ClientSession:
    """A client without a limit on connections, since every user has one."""
    return aiohttp.ClientSession(
        headers=headers,
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=None, sock_read=SILENCE_SECONDS),
    )


def random_prompt(chance: random.Random, words: int, label: str) -> str:
    """A text that begins in a way no other does, so that no prefix cache helps."""
    start = f"{chance.randrange(10**6)} {label}"
    return " ".join([start, *chance.choices(WORDS, k=words)])


def edit_prompt(chance: random.Random, words: int, label: str) -> str:
    """A text that is to be repeated with another word in one place."""
    text = random_prompt(chance, words, label)
    word = text.split(" ")[-1]
    return f"{text}\n\nRepeat the text above, with the word lake in place of {word}. Say no more."


def chat_body(model: str, prompt: str, max_tokens: int, **options: Any) -> dict[str, Any]:
    """The JSON of a streamed chat request that reports its usage."""
    return {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
        **options,
    }


async def stream_chat(
    session: aiohttp.ClientSession, url: str, body: Mapping[str, Any], sample: Sample
) -> None:
    """Run one request and fill `sample` while its answer comes. Errors end up in it too."""
    sample.expected = body["max_tokens"]
    sample.sent = time.perf_counter()
    try:
        async with session.post(f"{url}/v1/chat/completions", json=body) as response:
            sample.status = response.status
            if response.status != 200:
                sample.error = (await response.text())[:500]
                return
            async for line in response.content:
                if line.startswith(b"data: {"):
                    _take(sample, json.loads(line[6:]), time.perf_counter())
        if sample.finish_reason is None:
            sample.error = sample.error or "the stream broke off"
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        sample.error = f"{type(error).__name__}: {error}"
    finally:
        sample.ended = time.perf_counter()


def _take(sample: Sample, event: Mapping[str, Any], now: float) -> None:
    """Record one event of a stream."""
    if "error" in event:
        sample.error = json.dumps(event["error"])[:500]
    for choice in event.get("choices") or ():
        if text := choice.get("delta", {}).get("content"):
            sample.text += text
            sample.chunks.append(now)
        sample.finish_reason = choice.get("finish_reason") or sample.finish_reason
    if usage := event.get("usage"):
        sample.prompt_tokens = usage["prompt_tokens"]
        sample.completion_tokens = usage["completion_tokens"]
        details = usage.get("prompt_tokens_details") or {}
        sample.cached_tokens = details.get("cached_tokens")


async def closed_loop(
    url: str,
    bodies: Iterable[Mapping[str, Any]],
    users: int,
    headers: Mapping[str, str] | None = None,
) -> Load:
    """Let `users` work through `bodies`, each sending the next as soon as it has an answer."""
    jobs = iter(bodies)
    samples: list[Sample] = []
    ends: list[float] = []

    async def user(session: aiohttp.ClientSession) -> None:
        for body in jobs:
            sample = Sample()
            samples.append(sample)
            await stream_chat(session, url, body, sample)
        ends.append(time.perf_counter())

    async with new_session(headers) as session:
        start = time.perf_counter()
        await asyncio.gather(*(user(session) for _ in range(users)))
    return Load(samples, start, min(ends))


def summarize(load: Load) -> Summary:
    """Throughput and latencies of a load, or the reason why there are none."""
    good = [sample for sample in load.samples if not sample.error and sample.chunks]
    if len(good) < len(load.samples) or not good:
        return Summary(problem=problem_of(load.samples))
    return Summary(
        requests=len(good),
        prompt_tokens=round(percentile([sample.prompt_tokens for sample in good], 50)),
        early=sum(sample.completion_tokens != sample.expected for sample in good),
        tokens_per_second=tokens_between(good, load.start, load.end) / (load.end - load.start),
        ttft_p50=percentile(list(first_waits(good)), 50),
        ttft_p95=percentile(list(first_waits(good)), 95),
        itl_p50=percentile([gap for sample in good for gap in sample.gaps], 50),
        itl_p95=percentile([gap for sample in good for gap in sample.gaps], 95),
    )


def problem_of(samples: Sequence[Sample]) -> str:
    """In words, why some of these requests have no good answer; empty if all have one."""
    for sample in samples:
        if sample.status == 400:
            return f"refused (400): {sample.error}"
        if sample.error:
            return f"failed ({sample.status}): {sample.error}"
        if not sample.chunks:
            return "failed: an answer without text"
    return "" if samples else "failed: no request was sent"


def first_waits(samples: Iterable[Sample]) -> Iterator[float]:
    """Seconds from each request to its first piece of text."""
    return (sample.chunks[0] - sample.sent for sample in samples)


def tokens_between(samples: Iterable[Sample], start: float, end: float) -> float:
    """Tokens that arrived in an interval, judged by the pieces of text."""
    return sum(
        sample.tokens_per_chunk * sum(start <= when <= end for when in sample.chunks)
        for sample in samples
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` percent lie; 0 when there is none."""
    return float(np.percentile(values, share)) if values else 0.0
