"""How API keys share the places and the rows of a server."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from budmlx import Engine
from budmlx.config import Config
from budmlx.engine.models.models import Models
from budmlx.server.app import HttpServer
from tests.models import tiny_model_dir
from tests.server.conftest import Start
from tests.server.tools import Answer, body, check_error, exchange, post, until

KEYS = ("first-key", "second-key")


async def ask(server: HttpServer, key: str, **fields: Any) -> Answer:
    raw = post(json.dumps(body(**fields)).encode(), Authorization=f"Bearer {key}")
    return await exchange(server, raw)


async def test_a_full_queue_refuses_the_key_that_filled_it(start: Start) -> None:
    server = await start(api_keys=KEYS, max_rows=1, max_queue=3)
    endless = {"max_tokens": 8000, "ignore_eos": True}
    tasks = [asyncio.create_task(ask(server, KEYS[0], **endless)) for _ in range(4)]
    await until(lambda: server.in_flight.count == 4)
    check_error(await ask(server, KEYS[0]), 503, code="overloaded")
    tasks += [asyncio.create_task(ask(server, KEYS[1], **endless)) for _ in range(2)]
    await until(lambda: server.in_flight.count == 6)
    for key in KEYS:  # The second key has its half of the places now.
        check_error(await ask(server, key), 503, code="overloaded")
    for task in tasks:
        task.cancel()
    await until(lambda: server.in_flight.count == 0)


async def test_keys_take_turns_though_they_share_kv_and_whatever_their_salts() -> None:
    path = tiny_model_dir(scale=2.0)
    with Engine.load(path, engine_host="thread", max_rows=2, prefix_cache_shared=True) as engine:
        config = Config(port=0, drain_seconds=0, api_keys=KEYS)
        server = await HttpServer.start(Models.of(engine, ("demo",)), config)
        long = {"max_tokens": 120, "ignore_eos": True}
        flood = [
            asyncio.create_task(ask(server, KEYS[0], cache_salt=str(n), **long)) for n in range(12)
        ]
        await until(lambda: engine.status().waiting == 10)
        answer = await ask(server, KEYS[1], max_tokens=1)
        assert answer.status == 200
        assert sum(task.done() for task in flood) <= 6
        assert {each.status for each in await asyncio.gather(*flood)} == {200}
        await server.drain()


# LIMITS 98
async def test_a_second_key_does_not_wait_for_a_reply_of_the_first_to_end(start: Start) -> None:
    server = await start(api_keys=KEYS, max_rows=1)
    long = asyncio.create_task(ask(server, KEYS[0], max_tokens=6000, ignore_eos=True))
    await until(lambda: server.in_flight.count == 1)
    answer = await ask(server, KEYS[1], max_tokens=1)
    assert answer.status == 200 and not long.done()
    long.cancel()
    await until(lambda: server.in_flight.count == 0)
