"""Exceptions for single clients, recognised by their User-Agent."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from aiohttp import web

from budmlx.server.errors import Failure

ERRORS = {422: "The same as 400, for bud-sdk, which shows no reason for that."}
"""Sentences on statuses that only some clients get."""


def understood(request: web.BaseRequest, failure: Failure) -> Failure:
    """The failure with a status that the client handles.

    bud-sdk repeats a request after 400 and does not report the reason; it shows 422 at once.
    """
    agent = request.headers.get("User-Agent", "")
    if failure.status == 400 and agent.startswith("bud-sdk-python/"):
        return replace(failure, status=422)
    return failure


def reason_of_filters(agent: str) -> Literal["content_filter", "error"]:
    """The finish reason of a reply that a filter ended; beezy-ai fails at the usual one."""
    return "error" if agent.endswith(" beezy-ai") else "content_filter"
