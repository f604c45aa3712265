"""Limits for each API key."""

from __future__ import annotations

import asyncio
import json
from contextlib import ExitStack
from pathlib import Path

import openai
import pytest

from budmlx.config.key_file import add_record, new_key, remove_record
from budmlx.config.keys import ApiKey, digest_of
from budmlx.server.app import HttpServer
from budmlx.server.errors import HttpError
from budmlx.server.rate_limit import RateLimiter
from tests.server.conftest import Start
from tests.server.tools import Answer, body, check_error, endless, exchange, get, post, until

KEYS = ("first-key", "second-key")


async def ask(server: HttpServer, key: str = KEYS[0]) -> Answer:
    raw = post(json.dumps(body(max_tokens=1)).encode(), Authorization=f"Bearer {key}")
    return await exchange(server, raw)


async def test_requests_per_minute(start: Start) -> None:
    server = await start(api_keys=KEYS, requests_per_minute=3)
    for _ in range(3):
        assert (await ask(server)).status == 200
    for _ in range(2):
        answer = await ask(server)
        error = check_error(answer, 429, code="rate_limit_exceeded", param=None)
        assert 1 <= int(answer.headers["Retry-After"]) <= 60
        assert "3 requests per minute" in error["message"]
    assert (await ask(server, KEYS[1])).status == 200
    raw = get("/v1/models", Authorization=f"Bearer {KEYS[0]}")
    assert (await exchange(server, raw)).status == 200
    check_error(await ask(server, "wrong"), 401)


async def test_keys_have_rates_of_their_own(start: Start, tmp_path: Path) -> None:
    file, keys = tmp_path / "keys", {name: new_key() for name in ("slow", "fast", "usual")}
    rates = {"slow": 1, "fast": 4, "usual": None}
    for name, key in keys.items():
        add_record(file, ApiKey(name, digest_of(key).hex(), rpm=rates[name]))
    server = await start(api_key_file=file, requests_per_minute=2)
    for name, most in (("slow", 1), ("fast", 4), ("usual", 2)):
        for _ in range(most):
            assert (await ask(server, keys[name])).status == 200
        error = check_error(await ask(server, keys[name]), 429, code="rate_limit_exceeded")
        assert f"{most} requests per minute" in error["message"]
    # A rate that is changed holds from the next request on.
    remove_record(file, "slow")
    add_record(file, ApiKey("slow", digest_of(keys["slow"]).hex(), rpm=2))
    assert [(await ask(server, keys["slow"])).status for _ in range(2)] == [200, 429]


async def test_requests_at_once(start: Start) -> None:
    server = await start(api_keys=KEYS, concurrent_requests=2)
    raw = post(json.dumps(endless(stream=True)).encode(), Authorization=f"Bearer {KEYS[0]}")
    running = [asyncio.create_task(exchange(server, raw)) for _ in range(2)]
    await until(lambda: server.in_flight.count == 2)
    answer = await ask(server)
    check_error(answer, 429, code="rate_limit_exceeded")
    assert answer.headers["Retry-After"] == "1"
    assert (await ask(server, KEYS[1])).status == 200
    # Agents count the tokens of many texts at once.
    for path in ("/v1/messages/count_tokens", "/v1/chat/completions/input_tokens"):
        fields = {key: value for key, value in body().items() if key in ("model", "messages")}
        raw = post(json.dumps(fields).encode(), path, Authorization=f"Bearer {KEYS[0]}")
        assert (await exchange(server, raw)).status == 200
    running.pop().cancel()
    await until(lambda: server.in_flight.count == 1)
    assert (await ask(server)).status == 200
    for _ in range(5):  # Requests one after the other never meet.
        assert (await ask(server)).status == 200
    running.pop().cancel()
    await until(lambda: server.in_flight.count == 0)


async def test_requests_that_are_wrong_count_and_end(start: Start) -> None:
    server = await start(concurrent_requests=1, requests_per_minute=4)
    for _ in range(4):
        check_error(await exchange(server, post(b"{")), 400)
    check_error(await exchange(server, post(b"{")), 429)


async def test_without_keys_all_count_as_one(start: Start) -> None:
    server = await start(requests_per_minute=1)
    assert [(await ask(server, key)).status for key in KEYS] == [200, 429]


async def test_an_sdk_raises_its_own_error(start: Start) -> None:
    server = await start(requests_per_minute=1)
    await ask(server)
    async with openai.AsyncOpenAI(base_url=server.url, api_key="x", max_retries=0) as sdk:
        with pytest.raises(openai.RateLimitError) as caught:
            await sdk.chat.completions.create(model="demo", messages=[])
    assert caught.value.type == "rate_limit_error"
    assert int(caught.value.response.headers["retry-after"]) >= 1


def test_the_window_moves() -> None:
    limiter = RateLimiter(per_minute=2, concurrent=None)

    def ask(now: float) -> str | None:
        try:
            with limiter.counted("key", now):
                return None
        except HttpError as refusal:
            return refusal.headers["Retry-After"]

    found = [ask(now) for now in (0.0, 30.5, 31.0, 59.9, 60.0, 60.1, 90.4, 90.5, 200.0)]
    assert found == [None, None, "29", "1", None, "31", "1", None, None]


def test_refused_requests_do_not_count_as_running() -> None:
    limiter = RateLimiter(per_minute=None, concurrent=2)
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(limiter.counted("key", 0.0))
        for _ in range(5):
            with pytest.raises(HttpError), limiter.counted("key", 0.0):
                pass
        with limiter.counted("other", 0.0):
            pass
    with limiter.counted("key", 0.0), limiter.counted("key", 0.0):
        pass
