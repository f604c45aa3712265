"""The captured requests of real clients, and the replies that they accept."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "captured"
FILLER = "words that stand for the prose of a prompt, as long as the original was; "


def filled(value: Any) -> Any:
    """A value with filler where `@filler:N` stands for it."""
    if isinstance(value, dict):
        return {key: filled(each) for key, each in value.items()}
    if isinstance(value, list):
        return [filled(each) for each in value]
    if isinstance(value, str) and "@filler:" in value:
        return re.sub(r"@filler:(\d+)", lambda m: (FILLER * 2000)[: int(m[1])], value)
    return value


@cache
def _text(name: str) -> str:
    return (FOLDER / name).read_text("utf-8")


def captured(number: int) -> list[dict[str, Any]]:
    """The requests of one file: method, path, headers, body."""
    [path] = FOLDER.glob(f"anthropic-{number:02}-*.json")
    requests: list[dict[str, Any]] = filled(json.loads(_text(path.name))["requests"])
    return requests


def bodies(number: int) -> list[dict[str, Any]]:
    """The bodies of the requests of one file for `/v1/messages` or its counts."""
    return [
        request["body"]
        for request in captured(number)
        if "/v1/messages" in request["path"] and "batches" not in request["path"]
    ]


def shortened(value: Any, most: int = 240) -> Any:
    """A value with the beginnings of its long texts, so that a model reads it quickly."""
    if isinstance(value, dict):
        return {k: v if k == "data" else shortened(v, most) for k, v in value.items()}
    if isinstance(value, list):
        return [shortened(each, most) for each in value]
    return value[:most] if isinstance(value, str) else value


def reply() -> Any:
    """What all clients accept."""
    return json.loads(_text("reply-anthropic.json"))


def events_of(data: bytes) -> list[dict[str, Any]]:
    """The events of a stream, each with its name and its data."""
    found = []
    for block in data.decode().removesuffix("\n\n").split("\n\n"):
        name, text = block.split("\n")
        assert name.startswith("event: ") and text.startswith("data: ")
        found.append({"event": name[7:], "data": json.loads(text[6:])})
    return found
