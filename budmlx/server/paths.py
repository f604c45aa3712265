"""Paths beside the documented ones: further spellings, and endpoints of other services."""

from __future__ import annotations

import re
from collections.abc import Iterable

from aiohttp import web

from budmlx.server.errors import HttpError

PREFIX = "/v1"

ELSEWHERE = re.compile(
    r"/(embeddings|responses|classify|fim|images|audio|confidential|nodes|files|fine_tuning"
    r"|moderations|batches|auth|budpipeline|prompts|clusters|benchmark|audit|a2a|messages"
    r"|events|event-triggers)(/.*)?"
)
"""What the services whose clients are served here also have, and this server has not."""


def with_aliases(routes: Iterable[web.AbstractRouteDef]) -> list[web.AbstractRouteDef]:
    """The routes; those under /v1 also without it and under /v1/v1.

    Some clients append /v1 to the address that they are given and others do not, so that
    users give the address with /v1 or without it.
    """
    result = list(routes)
    for route in list(result):
        if isinstance(route, web.RouteDef) and route.path.startswith(f"{PREFIX}/"):
            for path in (route.path.removeprefix(PREFIX), PREFIX + route.path):
                result.append(web.RouteDef(route.method, path, route.handler, route.kwargs))
    return result


def not_found(path: str) -> HttpError | None:
    """What to say where the router finds nothing but clients expect something.

    The status is 404, since clients repeat a request after 501.
    """
    inner = path
    while inner.startswith(f"{PREFIX}/"):
        inner = inner.removeprefix(PREFIX)
    match = ELSEWHERE.fullmatch(inner)
    if match is None:
        return None
    return HttpError(
        404,
        f"This server has no {match[1]} endpoint. It offers POST /v1/chat/completions, "
        "POST /v1/completions and GET /v1/models.",
        code="unsupported_endpoint",
    )
