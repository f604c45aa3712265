"""What the OpenAPI document says of messages is what the server takes."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from budmlx.server.app import HttpServer
from tests.server.test_openapi import check
from tests.server.tools import body, check_error, exchange, post

TEXT = {"type": "text", "text": "a"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:,"}}
CALLS = [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]


@pytest.mark.parametrize("role", ["system", "assistant"])
async def test_only_messages_of_the_user_hold_images(server: HttpServer, role: str) -> None:
    request = body(messages=[{"role": role, "content": [TEXT, IMAGE]}])
    with pytest.raises(jsonschema.ValidationError):
        check(request, "ChatRequest")
    answer = await exchange(server, post(json.dumps(request).encode()))
    check_error(answer, 400, param="messages[0].content")


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": [TEXT, IMAGE]},
        {"role": "system", "content": [TEXT]},
        {"role": "assistant", "content": "a"},
        {"role": "assistant", "content": None, "tool_calls": CALLS},
        {"role": "assistant", "content": [TEXT], "tool_calls": CALLS},
    ],
)
def test_other_messages_are_described(message: dict[str, Any]) -> None:
    check(body(messages=[message]), "ChatRequest")
