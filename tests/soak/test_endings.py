"""What counts as the end of a reply, in every dialect."""

from __future__ import annotations

import json

import pytest

from tests.soak.endings import Unended, ending
from tests.soak.world import Reply

SSE, LINES = "text/event-stream", "application/x-ndjson"
PART = 'data: {"choices": []}\n\n'


def event(**fields: object) -> str:
    return f"event: x\ndata: {json.dumps(fields)}\n\n"


@pytest.mark.parametrize(
    ("kind", "text", "how"),
    [
        (SSE, PART + "data: [DONE]\n\n", "complete"),
        (SSE, PART + event(error={"code": "cancelled"}), "cancelled"),
        (SSE, event(type="ping") + event(type="message_stop"), "complete"),
        (SSE, event(type="error", error={"type": "overloaded_error"}), "overloaded_error"),
        (SSE, event(type="response.completed", response={}), "complete"),
        (SSE, event(type="response.failed", response={"error": {"code": "x"}}), "x"),
        (LINES, '{"done": false}\n{"done": true}\n', "complete"),
        (LINES, '{"done": false}\n{"error": "gone"}\n', "gone"),
    ],
)
def test_ends(kind: str, text: str, how: str) -> None:
    assert ending(Reply(200, kind, text.encode())) == how


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (SSE, PART),
        (SSE, ""),
        (SSE, PART + "data: [DONE]"),
        (SSE, "data: [DONE]\n\ndata: [DONE]\n\n"),
        (SSE, "data: [DONE]\n\n" + PART),
        (SSE, event(error={"code": "x"}) + "data: [DONE]\n\n"),
        (LINES, '{"done": false}\n'),
        (LINES, '{"done": true}\n{"done": true}\n'),
        (LINES, '{"done": true}'),
    ],
)
def test_ends_that_are_none(kind: str, text: str) -> None:
    with pytest.raises(Unended):
        ending(Reply(200, kind, text.encode()))
