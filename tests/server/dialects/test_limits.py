"""The limits of the protocols of agents, which send whole sessions with pictures."""

from __future__ import annotations

import json
from typing import Any

import pytest

from budmlx.server.app import HttpServer
from tests.server.conftest import Start
from tests.server.tools import exchange, post

MIB = 2**20
USER = {"role": "user", "content": "Hello"}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/messages": {"model": "demo", "max_tokens": 2, "messages": [USER]},
    "/v1/messages/count_tokens": {"model": "demo", "messages": [USER]},
    "/v1/responses": {"model": "demo", "max_output_tokens": 2, "input": [USER]},
    "/v1/responses/input_tokens": {"model": "demo", "input": [USER]},
    "/api/chat": {"model": "demo", "options": {"num_predict": 2}, "messages": [USER]},
}


@pytest.mark.parametrize("path", BODIES)
async def test_bodies_are_larger(server: HttpServer, path: str) -> None:
    filled = {**BODIES[path], "filler": "a" * 9 * MIB}
    answer = await exchange(server, post(json.dumps(filled).encode(), path))
    assert answer.status == 200, answer.content
    head = post(b"", path, Content_Length=str(64 * MIB + 1))
    assert (await exchange(server, head)).status == 413


async def test_the_configuration_goes_before(start: Start) -> None:
    server = await start(max_body=1000)
    for path, fields in BODIES.items():
        filled = json.dumps({**fields, "filler": "a" * 1000}).encode()
        assert (await exchange(server, post(filled, path))).status == 413


@pytest.mark.parametrize("path", BODIES)
async def test_a_text_has_a_mebibyte_at_most(server: HttpServer, path: str) -> None:
    key = "input" if "responses" in path else "messages"
    for length, refused in ((MIB, False), (MIB + 1, True)):
        filled = {**BODIES[path], key: [{"role": "user", "content": "a" * length}]}
        answer = await exchange(server, post(json.dumps(filled).encode(), path))
        # The longest that is taken is too long for this model, which is another error.
        named = "1048576 characters" in answer.content.decode()
        assert named is refused, answer.content
