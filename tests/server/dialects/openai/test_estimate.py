"""What a chat would take, against what it takes."""

from __future__ import annotations

import json
from typing import Any

from budmlx import Engine
from budmlx.config import Config
from budmlx.engine.models.models import Models
from budmlx.server.app import HttpServer
from tests.models import tiny_model_dir
from tests.server.tools import CHAT, Answer, body, check_error, exchange, post

PATH = "/v1/estimate"


async def ask(server: HttpServer, fields: dict[str, Any], path: str = PATH) -> Answer:
    return await exchange(server, post(json.dumps(fields).encode(), path))


async def test_an_estimate_is_what_the_request_takes_afterwards() -> None:
    with Engine.load(tiny_model_dir(scale=2.0), prefix_cache="64MiB", warmup="off") as engine:
        server = await HttpServer.start(Models.of(engine, ("demo",)), Config(port=0))
        long = body("word " * 100)
        first = (await ask(server, long)).json
        usage = (await ask(server, long, CHAT)).json["usage"]
        assert first["prompt_tokens"] == usage["prompt_tokens"]
        assert (first["cached_tokens"], first["expected_wait"]) == (0, None)
        assert (first["state"], first["to_unload"], first["fits"]) == ("loaded", [], True)
        second = (await ask(server, long)).json
        again = (await ask(server, long, CHAT)).json["usage"]
        cached = again["prompt_tokens_details"]["cached_tokens"]
        assert second["cached_tokens"] == cached > 100
        assert second["expected_wait"] > 0 and second["max_tokens"] == 8
        # Another key has nothing of it.
        salted = (await ask(server, {**long, "cache_salt": "other"})).json
        assert salted["cached_tokens"] == 0
        assert engine.estimate("word " * 100).prompt_tokens == usage["prompt_tokens"]
        check_error(await ask(server, body(temperature=-1)), 400, param="temperature")
        check_error(await ask(server, {**long, "model": "nope"}), 404)
        check_error(await ask(server, body("word " * 9000)), 400, code="context_length_exceeded")
        odd = (await ask(server, {**long, "oddity": 1})).json
        assert "oddity" in odd["warnings"][0]
        await server.drain()
