"""What the tests of this dialect need."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from budmlx.server.app import HttpServer
from tests.server.tools import Answer, exchange, post

DATA = Path(__file__).parent / "data"
PATH = "/v1/responses"

EXEC = {
    "type": "function",
    "name": "exec_command",
    "description": "Run it.",
    "strict": False,
    "parameters": {"type": "object", "properties": {"cmd": {"type": "string"}}},
}
PATCH = {"type": "custom", "name": "apply_patch", "description": "Change a file."}
AGENTS = {
    "type": "namespace",
    "name": "multi_agent_v1",
    "tools": [
        {
            "type": "function",
            "name": "spawn_agent",
            "strict": False,
            "parameters": {"type": "object", "properties": {"message": {"type": "string"}}},
        }
    ],
}


def captured(name: str) -> list[Any]:
    """The requests of a client. Long texts, which are filler, are cut: their tokens take time."""
    return _cut(json.loads((DATA / f"responses-{name}.json").read_text("utf-8"))["requests"])


def _cut(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _cut(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_cut(each) for each in value]
    return value[:200] if isinstance(value, str) and value.startswith("words that") else value


async def ask(server: HttpServer, path: str = PATH, **fields: Any) -> Answer:
    """Send a body."""
    body = {"model": "local-model", **fields}
    return await exchange(server, post(json.dumps(body).encode(), path))


def events(answer: Answer) -> list[dict[str, Any]]:
    """The events of a stream, which are numbered through."""
    assert answer.status == 200, answer.content
    assert answer.headers["Content-Type"] == "text/event-stream"
    *blocks, last = answer.content.decode().split("\n\n")
    assert last == ""
    found = []
    for number, block in enumerate(blocks):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        assert event["sequence_number"] == number
        found.append(event)
    return found


def normal(value: Any) -> Any:
    """The value without what differs from one response to the next."""
    if isinstance(value, list):
        return [normal(each) for each in value]
    if not isinstance(value, dict):
        return value
    changed = {
        "id": lambda text: re.sub("_.*", "_", text),
        "item_id": lambda text: re.sub("_.*", "_", text),
        "call_id": lambda text: "call",
        "created_at": lambda number: 0,
        "encrypted_content": lambda text: text and "sealed",
        "usage": lambda usage: usage and "counts",
    }
    return {
        key: changed[key](each) if key in changed else normal(each) for key, each in value.items()
    }


def without_deltas(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events with neighbouring pieces of one text joined, and no numbers."""
    joined: list[dict[str, Any]] = []
    for event in normal(events):
        event.pop("sequence_number")
        if joined and "delta" in event and joined[-1]["type"] == event["type"]:
            joined[-1]["delta"] += event["delta"]
        else:
            joined.append(event)
    return joined
