"""How replies end: each in exactly one way, which it says once, at its end."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.soak.world import Reply

OVER = ("message_stop", "response.completed", "response.incomplete")
FAILED = ("error", "response.failed", "response.cancelled")


EXCUSED = ("overloaded", "cancelled", "engine_unavailable", "overloaded_error")
"""Codes of what an administrator, the end of a core or too many requests do to a right request."""
_WORDS = re.compile(rb"An administrator of the server|core ended while|; (try again|retry later)")
"""Those of dialects whose errors have no such codes."""


class Unended(AssertionError):
    """A reply that has no end, two, or one that is not at its end."""


def ending(reply: Reply) -> str:
    """How a reply ended: "complete", or the code of its error. Raises Unended."""
    if reply.kind == "text/event-stream":
        return _of_events(reply.content.decode())
    if reply.kind == "application/x-ndjson":
        return _of_lines(reply.content.decode())
    if reply.status < 300:
        return "complete"
    return code_of(reply.json)


def excused(reply: Reply) -> bool:
    """Whether a reply ended early for a reason that is not the request's, nor a fault."""
    return ending(reply) in EXCUSED or _WORDS.search(reply.content) is not None


def code_of(body: Any) -> str:
    """The code of an error in the form of any dialect."""
    error = body.get("error", body)
    if isinstance(error, str):  # Ollama's
        return str(body.get("code") or error)
    return str(error.get("code") or error.get("type"))


def _of_events(text: str) -> str:
    blocks = text.split("\n\n")
    if blocks.pop() != "":
        raise Unended(f"a stream was cut: {text[-300:]!r}")
    data = [line[6:] for block in blocks for line in block.split("\n") if line[:6] == "data: "]
    ends = [(place, end) for place, each in enumerate(data) if (end := _end_of_event(each))]
    if len(ends) != 1 or ends[0][0] != len(data) - 1:
        raise Unended(f"ends at {ends} of {len(data)}: {text[-500:]!r}")
    return ends[0][1]


def _end_of_event(data: str) -> str:
    if data == "[DONE]":
        return "complete"
    event = json.loads(data)
    kind = event.get("type")
    if kind in OVER:
        return "complete"
    if kind in FAILED or event.get("error"):
        return code_of(event.get("response") or event)
    return ""


def _of_lines(text: str) -> str:
    *lines, last = text.split("\n")
    if last:
        raise Unended(f"a stream was cut: {last!r}")
    events = [json.loads(line) for line in lines]
    ends = [place for place, each in enumerate(events) if each.get("done") or "error" in each]
    if ends != [len(events) - 1]:
        raise Unended(f"ends at {ends} of {len(events)}: {text[-500:]!r}")
    return code_of(events[-1]) if "error" in events[-1] else "complete"
