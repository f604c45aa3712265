"""Clients that get something otherwise, by their User-Agent; and what none of them disturbs."""

from __future__ import annotations

import asyncio
import importlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import openai
import pytest

from budmlx import Engine
from budmlx.config import Config
from budmlx.engine.models.models import Models
from budmlx.server.app import HttpServer
from tests.models import tiny_model_dir
from tests.server.conftest import Start
from tests.server.faults import HEADER, faulty_server
from tests.server.tools import CHAT, body, check_error, endless, events, exchange, get, post

BUD = "bud-sdk-python/0.1.0"
BEEZY = "speakeasy-sdk/python 0.5.5-alpha.2 2.361.10 0.0.2 beezy-ai"
ATOMA = "speakeasy-sdk/python 0.1.3 2.506.0 0.1.0 atoma-sdk"
EXAMPLE = Path(__file__).parents[4] / "examples" / "guardrail"


@pytest.mark.parametrize("stream", [False, True])
async def test_bud_shows_what_is_wrong_with_422_only(server: HttpServer, stream: bool) -> None:
    wrong = json.dumps(body(temperature=9, stream=stream)).encode()
    answer = await exchange(server, post(wrong, User_Agent=BUD))
    error = check_error(answer, 422, param="temperature")
    assert answer.json["errors"] == [{"param": "temperature", "message": error["message"]}]
    for agent in ("OpenAI/Python 3.3.0", BEEZY, ATOMA):
        answer = await exchange(server, post(wrong, User_Agent=agent))
        check_error(answer, 400, param="temperature")
        assert "errors" not in answer.json
    unknown = json.dumps(body(model="nope")).encode()
    check_error(await exchange(server, post(unknown, User_Agent=BUD)), 404)


@pytest.fixture
async def silenced(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[HttpServer]:
    """Every reply is ended by a filter."""
    monkeypatch.syspath_prepend(EXAMPLE)
    words = re.findall(r"\w+", engine.chat("Hello", temperature=0, max_tokens=40).text)
    rail = importlib.import_module("budmlx_guardrail").Guardrail(words)
    with Engine.load(tiny_model_dir(scale=2.0), plugins=[rail]) as engine:
        server = await HttpServer.start(Models.of(engine, ("demo",)), Config(port=0))
        yield server
        await server.drain()


async def test_beezy_does_not_know_the_finish_reason_of_filters(silenced: HttpServer) -> None:
    for agent, reason in ((BEEZY, "error"), (ATOMA, "content_filter"), ("", "content_filter")):
        whole = post(json.dumps(body(max_tokens=40)).encode(), User_Agent=agent)
        (choice,) = (await exchange(silenced, whole)).json["choices"]
        assert choice["finish_reason"] == reason
        streamed = post(json.dumps(body(max_tokens=40, stream=True)).encode(), User_Agent=agent)
        *_, last, _ = events((await exchange(silenced, streamed)).content)
        assert last["choices"][0]["finish_reason"] == reason


async def test_clients_are_told_what_to_repeat(engine: Engine) -> None:
    """The openai and cerebras packages repeat 500 unless told otherwise; bud reads integers."""
    headers = {}
    async with faulty_server(engine) as url, aiohttp.ClientSession(url) as session:
        for asked in ("500", "503 4", "429 7"):
            async with session.post(CHAT, json=body(), headers={HEADER: asked}) as response:
                headers[asked] = response.headers
    assert headers["500"]["X-Should-Retry"] == "false"
    for asked in ("503 4", "429 7"):
        assert "X-Should-Retry" not in headers[asked]
        assert headers[asked]["Retry-After"] == asked[4:]


async def test_headers_that_clients_send(server: HttpServer) -> None:
    sent = {
        "CF-RAY": "8b1f", "X-Amz-Cf-Id": "abc", "X-delay-time": "0.5", "x-stainless-lang": "python",
        "x-stainless-retry-count": "1", "x-stainless-read-timeout": "60",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "Accept-Encoding": "gzip, deflate, br", "User-Agent": "Cerebras/Python 1.91.0",
    }  # fmt: skip
    answer = await exchange(server, post(json.dumps(body()).encode(), **sent))
    assert answer.status == 200 and "warnings" not in answer.json
    answer = await exchange(server, get("/v1/models", Content_Type="application/json", **sent))
    assert answer.status == 200


async def test_openai_repeats_what_was_refused_for_now(start: Start) -> None:
    server = await start(concurrent_requests=1)
    async with (
        aiohttp.ClientSession(server.url) as session,
        openai.AsyncOpenAI(base_url=server.url, api_key="x", max_retries=8) as sdk,
    ):
        running = await session.post(CHAT, json=endless(stream=True))
        second = asyncio.create_task(
            sdk.chat.completions.with_raw_response.create(
                model="demo", messages=[{"role": "user", "content": "Hi"}], max_tokens=2
            )
        )
        done, _ = await asyncio.wait([second], timeout=0.5)
        assert not done
        running.close()
        reply = await second
        assert reply.parse().choices and reply.retries_taken > 0
        # What would fail again is not repeated, though the package repeats 500.
        banned = {str(token): -100 for token in range(512)}
        with pytest.raises(openai.InternalServerError) as caught:
            await sdk.chat.completions.create(
                model="demo", messages=[{"role": "user", "content": "Hi"}], logit_bias=banned
            )
    assert caught.value.response.request.headers["x-stainless-retry-count"] == "0"
