"""Further spellings of paths, and endpoints that other services have."""

from __future__ import annotations

import asyncio
import json

import openai
import pytest

from budmlx import Engine
from budmlx.config import Config
from budmlx.engine.models.models import Models
from budmlx.server.app import HttpServer, create_app
from tests.server.conftest import Start
from tests.server.tools import body, check_error, endless, exchange, get, post, until


@pytest.mark.parametrize("prefix", ["", "/v1", "/v1/v1"])
async def test_prefixes(server: HttpServer, prefix: str) -> None:
    for name in ("org/name", "org%2Fname"):
        answer = await exchange(server, get(f"{prefix}/models/{name}"))
        assert answer.json["id"] == "org/name"
    assert (await exchange(server, get(f"{prefix}/models"))).json["object"] == "list"
    raw = post(json.dumps(body()).encode(), f"{prefix}/chat/completions?format=openrouter")
    assert (await exchange(server, raw)).json["object"] == "chat.completion"
    for suffix in ("", "/", "/v1", "/v1/v1"):
        base_url = server.url + suffix
        async with openai.AsyncOpenAI(base_url=base_url, api_key="x", max_retries=0) as sdk:
            assert (await sdk.models.retrieve("org/name")).id == "org/name"
            reply = await sdk.chat.completions.create(
                model="demo", messages=[{"role": "user", "content": "Hi"}], max_tokens=2
            )
            assert reply.usage is not None and reply.usage.completion_tokens <= 2


def test_every_route_under_v1_has_both_aliases(engine: Engine) -> None:
    app = create_app(Models.of(engine, ()), Config())
    routes = {
        (route.method, route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None
    }
    plain = {(m, p) for m, p in routes if p.startswith("/v1/") and not p.startswith("/v1/v1/")}
    assert ("POST", "/v1/chat/completions") in plain
    for method, path in plain:
        assert (method, path.removeprefix("/v1")) in routes
        assert (method, f"/v1{path}") in routes


async def test_tcp_warming_answers_while_the_model_is_busy(server: HttpServer) -> None:
    raw = post(json.dumps(endless(stream=True)).encode())
    busy = [asyncio.create_task(exchange(server, raw)) for _ in range(3)]
    await until(lambda: server.in_flight.count == 3)
    for path in ("/v1/tcp_warming", "/tcp_warming"):
        answer = await asyncio.wait_for(exchange(server, get(path)), timeout=10)
        assert answer.status == 200
    assert server.in_flight.count == 3
    for task in busy:
        task.cancel()
    await asyncio.wait(busy)
    await until(lambda: server.in_flight.count == 0)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/classify"),
        ("POST", "/classify"),
        ("POST", "/v1/v1/classify"),
        ("POST", "/v1/images/generations"),
        ("POST", "/v1/audio/speech"),
        ("POST", "/v1/confidential/chat/completions"),
        ("POST", "/v1/nodes/lock"),
        ("GET", "/v1/nodes"),
        ("POST", "/v1/uploads"),
        ("GET", "/v1/fine_tuning/jobs"),
        ("POST", "/auth/refresh-token"),
        ("GET", "/budpipeline"),
        ("GET", "/a2a/agent/1"),
    ],
)
async def test_endpoints_of_other_services(server: HttpServer, method: str, path: str) -> None:
    raw = post(b"{}", path) if method == "POST" else get(path).replace(b"GET", method.encode(), 1)
    error = check_error(await exchange(server, raw), 404, code="unsupported_endpoint")
    assert "POST /v1/chat/completions" in error["message"]


async def test_other_unknown_paths_say_nothing_of_services(server: HttpServer) -> None:
    for path in ("/v1/embeddingsx", "/v2/embeddings", "/v1", "/v1/", "/x/v1/embeddings"):
        check_error(await exchange(server, get(path)), 404, code=None)


async def test_they_need_the_key_too(start: Start) -> None:
    server = await start(api_keys=("key",))
    answer = await exchange(server, post(b"{}", "/v1/moderations"))
    check_error(answer, 401)
