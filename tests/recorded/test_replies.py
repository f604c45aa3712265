"""Both hosts still reply to recorded requests as when the replies were recorded."""

from __future__ import annotations

import asyncio
import platform
from typing import Any

import pytest

from tests.recorded.blanks import differs
from tests.recorded.exchanges import HOSTS, REPLIES, REQUESTS, lines_of, replies

# The first test of a host waits for all its replies.
pytestmark = pytest.mark.timeout(600)

NAMES = [asked["name"] for asked in lines_of(REQUESTS)]
RECORDED = {reply["name"]: reply for reply in lines_of(REPLIES)}


# Elsewhere numbers are rounded otherwise, so that other tokens may be drawn.
SAME_ARITHMETIC = (platform.system(), platform.machine()) == ("Linux", "x86_64")


@pytest.fixture(scope="module", params=HOSTS)
def found(request: pytest.FixtureRequest) -> dict[str, Any]:
    """All replies of servers with one host."""
    return {reply["name"]: reply for reply in asyncio.run(replies(request.param))}


def test_every_request_has_one_reply() -> None:
    assert len(NAMES) >= 200 and len(set(NAMES)) == len(NAMES)
    assert list(RECORDED) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_reply_is_as_recorded(found: dict[str, Any], name: str) -> None:
    now, then = found[name], RECORDED[name]
    assert now["status"] == then["status"], now["body"]
    assert now["headers"] == then["headers"]
    if (SAME_ARITHMETIC or then["status"] != 200) and differs(now["body"], then["body"]):
        assert now["body"] == then["body"]
