"""A dialect says all that is its own on the wire, and the server does the rest."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from pydantic import SecretStr

from budmlx import Engine
from budmlx.config import Config
from budmlx.engine.models.models import Models
from budmlx.server.app import HttpServer, create_app
from budmlx.server.dialects.base import Dialects
from budmlx.server.dialects.openai.dialect import OpenAI
from budmlx.server.listening import Listening
from budmlx.server.transport import Runner
from tests.server.dialects.whisper import WhisperDialect
from tests.server.tools import Answer, body, check_error, exchange, get, post

SAY = "/whisper/v1/say"
Serve = Callable[..., Awaitable[HttpServer]]


@pytest.fixture
async def serve(engine: Engine) -> AsyncIterator[Serve]:
    """Starts a server that speaks two dialects."""
    runners = []

    async def start(**settings: Any) -> HttpServer:
        config = Config(**{"port": 0, "drain_seconds": 0, **settings})
        dialects = Dialects(OpenAI(), WhisperDialect())
        app = create_app(Models.of(engine, ("demo",)), config, dialects)
        runner = Runner(app)
        await runner.setup()
        runners.append(runner)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return HttpServer(app, runner, Listening((), "", site.port))

    yield start
    for runner in runners:
        await runner.cleanup()


async def say(server: HttpServer, **fields: Any) -> Answer:
    return await exchange(server, post(json.dumps({"text": "Hello", **fields}).encode(), SAY))


def lines(answer: Answer) -> list[dict[str, Any]]:
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    found = [json.loads(line) for line in answer.content.splitlines()]
    # Encoded in the order in which they are written, the opening first.
    assert [line["number"] for line in found] == list(range(1, len(found) + 1))
    assert found[0]["opens"]
    return found


async def test_a_stream_and_a_whole_reply(serve: Serve, engine: Engine) -> None:
    server = await serve()
    expected = engine.complete("Hello", temperature=0, max_tokens=5).text
    whole = await say(server, stream=False)
    assert whole.json == {"number": 1, "text": expected}
    streamed = await say(server)
    for answer in (whole, streamed):
        assert (answer.status, answer.headers["X-Whisper"]) == (200, "yes")
    *said, last = lines(streamed)
    assert last["done"] and "".join(line["text"] for line in said) == expected


async def test_keep_alive(serve: Serve) -> None:
    server = await serve(hold_seconds=0.01, keepalive_seconds=0.01)
    found = lines(await say(server, pause=0.5))
    assert found[1]["text"] == found[2]["text"] == "" and found[-1]["done"]


async def test_a_failure_after_the_start_is_the_last_line(serve: Serve) -> None:
    *_, last = lines(await say(await serve(), text="break"))
    assert "log says more" in last["hush"] and "done" not in last


async def test_errors_before_the_start(serve: Serve) -> None:
    server = await serve()
    answers = [
        (404, await exchange(server, get("/whisper/nobody"))),
        (405, await exchange(server, get(SAY))),
        (415, await exchange(server, post(b"{}", SAY, Content_Type="text/plain"))),
        (417, await exchange(server, post(b"{}", SAY, Expect="a miracle"))),
        (400, await exchange(server, post(b"{", SAY, X_Request_Id="mine"))),
    ]
    for status, answer in answers:
        assert answer.status == status
        assert answer.json.keys() == {"hush", "id"}
    assert answers[0][1].json["hush"] == "nobody whispers at /whisper/nobody"
    assert answers[-1][1].json["id"] == "mine"
    for path in ("/whisperer", "/v1/nobody", "/v1/models/nobody"):
        check_error(await exchange(server, get(path)), 404)


async def test_keys(serve: Serve) -> None:
    server = await serve(api_keys=(SecretStr("key"),))
    request = json.dumps({"text": "a"}).encode()
    refused = await exchange(server, post(request, SAY))
    assert refused.json["hush"] == "Whisper the key as x-whisper-key."
    for headers, status in (
        ({"x-whisper-key": "key"}, 200),
        ({"x-whisper-key": "other"}, 401),
        ({"x-whisper-key": "other\r\nx-whisper-key: key"}, 200),
        ({"Authorization": "Bearer key"}, 401),
    ):
        assert (await exchange(server, post(request, SAY, **headers))).status == status
    # What clients of all dialects ask for takes the keys of all.
    for headers in ({"x-whisper-key": "key"}, {"Authorization": "Bearer key"}):
        assert (await exchange(server, get("/v1/models", **headers))).status == 200
        chat = post(json.dumps(body()).encode(), **headers)
        assert (await exchange(server, chat)).status == 200
    check_error(await exchange(server, get("/v1/models")), 401)


async def test_the_document(serve: Serve) -> None:
    server = await serve(api_keys=(SecretStr("key"),))
    document = (await exchange(server, get("/openapi.json"))).json
    assert "It also whispers." in document["info"]["description"]
    assert document["security"] == [{"key": []}, {"whispered": []}]
    assert document["components"]["securitySchemes"].keys() == {"key", "whispered"}
    operation = document["paths"][SAY]["post"]
    assert operation["responses"]["418"]["description"] == "It is a teapot."
    done = operation["responses"]["200"]["content"]
    assert done.keys() == {"application/json", "application/x-ndjson"}
    schemas = document["components"]["schemas"]
    assert schemas["Hush"]["properties"].keys() == {"hush", "id"}
    failed = operation["responses"]["400"]["content"]["application/json"]["schema"]
    assert failed == {"$ref": "#/components/schemas/Hush"}
    assert "418" not in document["paths"]["/v1/chat/completions"]["post"]["responses"]
