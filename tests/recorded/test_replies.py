"""Both hosts still reply to recorded requests as when the replies were recorded.

The usual run asks the host that servers have by default.
"""

from __future__ import annotations

import asyncio
import platform
from typing import Any

import pytest

from tests.amount import usually
from tests.recorded.blanks import differs
from tests.recorded.exchanges import HOSTS, REPLIES, REQUESTS, lines_of, replies

NAMES = [asked["name"] for asked in lines_of(REQUESTS)]
RECORDED = {reply["name"]: reply for reply in lines_of(REPLIES)}


CHANGED = {"DELETE", "embeddings", "responses", "service_tier"}
"""Requests of what was missing when they were recorded."""

# Elsewhere numbers are rounded otherwise, so that other tokens may be drawn.
SAME_ARITHMETIC = (platform.system(), platform.machine()) == ("Linux", "x86_64")


def test_every_request_has_one_reply() -> None:
    assert len(NAMES) >= 200 and len(set(NAMES)) == len(NAMES)
    assert list(RECORDED) == NAMES


def problem(now: dict[str, Any], then: dict[str, Any]) -> str:
    """What of a reply is not as recorded: what it is now, and what it was; empty if all is."""
    if now["status"] != then["status"]:
        return f"status {now['status']}, not {then['status']}: {now['body']}"
    if now["headers"] != then["headers"]:
        return f"headers {now['headers']}, not {then['headers']}"
    if (SAME_ARITHMETIC or then["status"] != 200) and differs(now["body"], then["body"]):
        return f"{now['body']}\nnot\n{then['body']}"
    return ""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("host", usually("process".__eq__, HOSTS))
def test_the_replies_are_as_recorded(host: str) -> None:
    found = asyncio.run(replies(host))
    assert [reply["name"] for reply in found] == NAMES
    kept = [now for now in found if now["name"] not in CHANGED]
    problems = {now["name"]: problem(now, RECORDED[now["name"]]) for now in kept}
    wrong = [f"{name}: {text}" for name, text in problems.items() if text]
    assert not wrong, "\n\n".join(wrong)
