"""What clients make of errors: bodies, `Retry-After`, exceptions of the SDK."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import aiohttp
import openai
import pytest

from budmlx import Engine
from tests.server.faults import HEADER, faulty_server
from tests.server.tools import CHAT, Answer, body, check_error


@pytest.fixture
async def url(engine: Engine) -> AsyncIterator[str]:
    async with faulty_server(engine) as url:
        yield url


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("asked", "status", "retry_after"),
    [("403", 403, None), ("429 7", 429, "7"), ("500", 500, None), ("503 4", 503, "4")],
)
async def test_bodies(
    url: str, asked: str, status: int, retry_after: str | None, stream: bool
) -> None:
    async with aiohttp.ClientSession(url) as session:
        async with session.post(CHAT, json=body(stream=stream), headers={HEADER: asked}) as found:
            answer = Answer(found.status, found.headers, await found.read())  # type: ignore[arg-type]
        async with session.post(CHAT, json=body()) as response:
            assert response.status == 200
    check_error(answer, status)
    assert answer.headers.get("Retry-After") == retry_after


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ("403", openai.PermissionDeniedError),
        ("429 7", openai.RateLimitError),
        ("500", openai.InternalServerError),
        ("503 4", openai.InternalServerError),
    ],
)
async def test_exceptions(url: str, asked: str, error: type[openai.APIStatusError]) -> None:
    async with openai.AsyncOpenAI(base_url=url, api_key="x", max_retries=0) as sdk:
        with pytest.raises(error) as caught:
            await sdk.chat.completions.create(
                model="demo", messages=[], extra_headers={HEADER: asked}
            )
    assert caught.value.request_id
    assert caught.value.body == json.loads(caught.value.response.content)["error"]
