"""Routes of plugins: served, behind the key, and never in place of the server's."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from pydantic import SecretStr

from budmlx import Engine, hookimpl
from budmlx.config import Config
from budmlx.config.key_file import add_record, new_key
from budmlx.config.keys import ApiKey, digest_of
from budmlx.engine.models.models import Models
from budmlx.errors import ConfigError, InvalidRequestError, OverloadedError
from budmlx.plugins.routes import ENGINE, FIND
from budmlx.plugins.specs import Route
from budmlx.server.app import HttpServer, create_app
from budmlx.server.security import OPEN_ROUTES
from budmlx.server.state import MODELS
from tests.models import tiny_model_dir
from tests.plugins.packages import Site
from tests.server.tools import check_error, exchange, get, post


async def names(request: web.Request) -> web.Response:
    return web.json_response(request.app[MODELS].names)


async def broken(request: web.Request) -> web.Response:
    raise RuntimeError("secret words")


async def nonsense(request: web.Request) -> web.Response:
    return "text"  # type: ignore[return-value]


async def gone(request: web.Request) -> web.Response:
    raise web.HTTPNotFound


async def varied(request: web.Request) -> web.Response:
    return web.Response(headers={"Vary": "Accept"})


async def busy(request: web.Request) -> web.Response:
    raise OverloadedError("Later.")


async def picky(request: web.Request) -> web.Response:
    raise InvalidRequestError("Not so.", param="x")


async def summary(request: web.Request) -> web.Response:
    engine = request.app[ENGINE]
    reply = await engine.achat("Hello", max_tokens=2)
    found = {
        "model": engine.info.name,
        "tokens": reply.usage.completion_tokens,
        "running": engine.status().running,
        "prompts": engine.prefix_cache_stats().requests,
        "loop": id(asyncio.get_running_loop()),
    }
    return web.json_response(found)


async def moved(request: web.Request) -> web.Response:
    raise web.HTTPFound("/health")


async def done(request: web.Request) -> web.Response:
    raise web.HTTPAccepted(text="Later.")


async def limited(request: web.Request) -> web.Response:
    raise web.HTTPTooManyRequests(text="Once a day.", headers={"Retry-After": "9"})


async def halfway(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"half")
    raise RuntimeError


async def found(request: web.Request) -> web.Response:
    model = await request.app[FIND](request, request.query["model"])
    return web.json_response(model.name)


class Routes:
    @hookimpl
    def add_routes(self) -> Sequence[Route]:
        handlers = {"names": names, "broken": broken, "nonsense": nonsense, "gone": gone}
        handlers |= {"busy": busy, "summary": summary, "moved": moved, "done": done}
        handlers |= {"varied": varied, "found": found}
        handlers |= {"limited": limited, "halfway": halfway}
        routes = [web.get(f"/extra/{name}", handler) for name, handler in handlers.items()]
        return [*routes, web.post("/extra/picky", picky)]


async def test_routes_of_plugins(caplog: pytest.LogCaptureFixture) -> None:
    with Engine.load(tiny_model_dir(), plugins=[Routes()]) as engine:
        config = Config(port=0, drain_seconds=0)
        server = await HttpServer.start(Models.of(engine, ("demo",)), config)
        try:
            answer = await exchange(server, get("/extra/names"))
            assert answer.status == 200 and "demo" in answer.json
            answer = await exchange(server, get("/extra/summary"))
            assert answer.json["model"] == engine.info.name and answer.json["tokens"] == 2
            assert answer.json["prompts"] == 1 and answer.json["loop"] == id(
                asyncio.get_running_loop()
            )
            for path in ("broken", "nonsense"):
                answer = await exchange(server, get(f"/extra/{path}"))
                check_error(answer, 500, code="plugin_error")
                assert "Plugin Routes-0" in caplog.messages[-1] and path in caplog.messages[-1]
            assert "secret" not in caplog.text
            error = check_error(await exchange(server, get("/extra/gone")), 404)
            assert error["message"] == "Not Found"
            check_error(await exchange(server, get("/extra/busy")), 503, code="overloaded")
            answer = await exchange(server, post(b"{}", "/extra/picky"))
            check_error(answer, 400, param="x")
        finally:
            await server.drain()


async def test_responses_that_handlers_raise() -> None:
    with Engine.load(tiny_model_dir(), plugins=[Routes()]) as engine:
        config = Config(port=0, drain_seconds=0)
        server = await HttpServer.start(Models.of(engine, ("demo",)), config)
        try:
            answer = await exchange(server, get("/extra/moved"))
            assert (answer.status, answer.headers["Location"]) == (302, "/health")
            answer = await exchange(server, get("/extra/done"))
            assert (answer.status, answer.content) == (202, b"Later.")
            answer = await exchange(server, get("/extra/limited"))
            assert check_error(answer, 429)["message"] == "Once a day."
            assert answer.headers["Retry-After"] == "9"
        finally:
            await server.drain()


async def test_pages_of_other_origins_read_what_varies() -> None:
    with Engine.load(tiny_model_dir(), plugins=[Routes()]) as engine:
        config = Config(port=0, drain_seconds=0, allow_origin=("http://ui.example",))
        server = await HttpServer.start(Models.of(engine, ("demo",)), config)
        try:
            answer = await exchange(server, get("/extra/varied", Origin="http://ui.example"))
            assert answer.headers.get_all("Vary") == ["Accept", "Origin"]
        finally:
            await server.drain()


async def test_a_response_that_fails_halfway_is_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    with Engine.load(tiny_model_dir(), plugins=[Routes()]) as engine:
        config = Config(port=0, drain_seconds=0)
        server = await HttpServer.start(Models.of(engine, ("demo",)), config)
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(get("/extra/halfway"))
            assert (await reader.read()).endswith(b"\r\n\r\n4\r\nhalf\r\n")
            writer.close()
            assert "Routes-0 failed in its route GET /extra/halfway" in caplog.text
        finally:
            await server.drain()


async def test_keys_have_their_models_and_pay_for_what_is_asked(tmp_path: Path) -> None:
    file, secrets = tmp_path / "keys", {name: new_key() for name in ("poor", "other")}
    limits: dict[str, dict[str, Any]] = {
        "poor": {"tokens_per_day": 50},
        "other": {"models": ("x",)},
    }
    for name, key in secrets.items():
        add_record(file, ApiKey(name, digest_of(key).hex(), **limits[name]))
    bearer = {name: {"Authorization": f"Bearer {key}"} for name, key in secrets.items()}
    with Engine.load(tiny_model_dir(), plugins=[Routes()]) as engine:
        config = Config(port=0, drain_seconds=0, api_key_file=file)
        server = await HttpServer.start(Models.of(engine, ("demo",)), config)
        try:
            for name, status in (("poor", 200), ("other", 404)):
                answer = await exchange(server, get("/extra/found?model=demo", **bearer[name]))
                assert answer.status == status
            statuses = []
            while len(statuses) < 20 and 429 not in statuses:
                answer = await exchange(server, get("/extra/summary", **bearer["poor"]))
                statuses.append(answer.status)
            assert statuses[0] == 200 and statuses[-1] == 429
            check_error(answer, 429, code="insufficient_quota")
        finally:
            await server.drain()


async def test_they_need_the_key_like_all_others() -> None:
    keys = (SecretStr("key"),)
    with Engine.load(tiny_model_dir(), plugins=[Routes()]) as engine:
        models, config = Models.of(engine, ()), Config(port=0, drain_seconds=0, api_keys=keys)
        app = create_app(models, config)
        server = await HttpServer.start(models, config)
        try:
            paths = {r.resource.canonical for r in app.router.routes() if r.resource is not None}
            assert "/extra/names" in paths
            for path in paths - OPEN_ROUTES:
                answer = await exchange(server, get(path.replace("{id}", "demo")))
                # Each protocol has an error form of its own.
                assert answer.status == 401 and "error" in answer.json
        finally:
            await server.drain()


BAD_ROUTE = """
    from aiohttp import web
    from budmlx import hookimpl

    async def handler(request):
        return web.Response(text="mine")

    @hookimpl
    def add_routes():
        return [web.get("/fine", handler), web.METHOD("PATH", handler)]
"""


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("post", "/v1/chat/completions"),
        ("get", "/health"),
        ("post", "/ready"),
        ("get", "no-slash"),
        ("get", "/fine"),
        ("get", "/{"),
    ],
)
def test_a_bad_route_leaves_the_plugins_routes_out(
    site: Site, caplog: pytest.LogCaptureFixture, method: str, path: str
) -> None:
    site.install("routes", BAD_ROUTE.replace("METHOD", method).replace("PATH", path))
    with Engine.load(tiny_model_dir()) as engine:
        app = create_app(Models.of(engine, ()), Config())
    assert "Plugin routes has a route that cannot be served" in caplog.text
    paths = [r.resource.canonical for r in app.router.routes() if r.resource is not None]
    assert "/fine" not in paths
    with (
        Engine.load(tiny_model_dir(), plugins=["routes"]) as engine,
        pytest.raises(ConfigError, match="Plugin routes has a route"),
    ):
        create_app(Models.of(engine, ()), Config())
