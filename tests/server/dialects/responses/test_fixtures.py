"""Requests that clients sent get replies that they accept."""

from __future__ import annotations

import json
from typing import Any

import pytest

from budmlx.server.app import HttpServer
from tests.server.dialects.responses.tools import (
    AGENTS,
    DATA,
    EXEC,
    PATCH,
    ask,
    captured,
    events,
    normal,
    without_deltas,
)
from tests.server.tools import check_error, exchange, post

REPLY = json.loads((DATA / "reply-responses.json").read_text("utf-8"))
PLAIN = {"temperature": 1.0, "store": False, "stream": True}


async def test_a_stream_is_the_accepted_one(server: HttpServer) -> None:
    found = events(await ask(server, input="script look;", tools=[EXEC], **PLAIN))
    expected = [event["data"] for event in REPLY["stream"]]
    for event in [*found, *expected]:
        event.get("response", {})["tools"] = []
    assert without_deltas(found) == without_deltas(expected)


async def test_a_custom_call_is_the_accepted_one(server: HttpServer) -> None:
    found = events(await ask(server, input="script patch;", tools=[PATCH], **PLAIN))
    expected = [event["data"] for event in REPLY["custom_tool_call"]]
    assert without_deltas(found)[2:-1] == without_deltas(expected)


async def test_a_call_in_a_namespace_tells_it(server: HttpServer) -> None:
    found = events(await ask(server, input="script agent;", tools=[AGENTS], **PLAIN))
    item = normal(found[-1]["response"]["output"][0])
    expected = normal(REPLY["namespaced_call"])
    assert item == {**expected, "arguments": '{"message": "do"}'}


async def test_a_reply_that_was_cut(server: HttpServer) -> None:
    asked = {**PLAIN, "max_output_tokens": 5}
    *_, last = events(await ask(server, input="script long;", **asked))
    expected = normal(REPLY["incomplete"]["data"])
    assert last["type"] == "response.incomplete"
    for name in ("status", "incomplete_details", "error", "usage"):
        assert normal(last)["response"][name] == expected["response"][name]
    [item] = last["response"]["output"]
    assert item["status"] == "incomplete"
    assert last["response"]["usage"]["output_tokens"] == 5


REQUESTS = [
    pytest.param(each["body"], id=f"{name}-{number}")
    for name in (
        *("01-codex-first", "03-codex-gpt-name", "04-codex-schema-image", "05-codex-compact"),
        *("02-codex-tool-turn", "06-codex-namespace", "07-opencode", "08-python-sdk"),
        "09-agents-pydantic-litellm",
    )
    for number, each in enumerate(captured(name))
    if each["method"] == "POST"
    and each["path"] == "/v1/responses"
    and "previous_response_id" not in each["body"]
]


@pytest.mark.parametrize("body", REQUESTS)
async def test_captured_requests_are_answered(server: HttpServer, body: dict[str, Any]) -> None:
    body = {"max_output_tokens": 8, **body}
    answer = await exchange(server, post(json.dumps(body).encode(), "/v1/responses"))
    if any(
        "input_image" in json.dumps(item.get("content"))
        for item in body["input"]
        if isinstance(item, dict)
    ):
        # What the user shows is refused where the model cannot see, results are not.
        check_error(answer, 400, param="input[0].content[1]")
        return
    assert answer.status == 200, answer.content
    response = events(answer)[-1]["response"] if body.get("stream") else answer.json
    assert response["status"] in ("completed", "incomplete")
