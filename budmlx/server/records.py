"""Records of requests for plugins: where a request comes from, and those that no engine took."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import chain

from aiohttp import web

from budmlx.engine.run.outcome import RequestOrigin
from budmlx.server.dialects.base import Dialects
from budmlx.server.errors import failure_of
from budmlx.server.security import request_id
from budmlx.server.state import MODELS

GENERATING: web.AppKey[Mapping[str, str]] = web.AppKey("generating")
"""The documented path of every path whose requests are recorded."""
ORIGIN = web.RequestKey("origin", RequestOrigin)


def generating(dialects: Dialects) -> Mapping[str, str]:
    """The paths of all endpoints that generate text, which are those with streams."""
    endpoints = chain.from_iterable(dialect.endpoints for dialect in dialects)
    return {
        re.sub(r"\{(\w+):[^}]*\}", r"{\1}", path): endpoint.path
        for endpoint in endpoints
        if endpoint.streamed is not None
        for path in endpoint.spellings
    }


def arrived(request: web.Request) -> None:
    """Note the arrival of a request, if its end is recorded."""
    resource = request.match_info.route.resource
    route = request.app.get(GENERATING, {}).get(resource.canonical if resource else "")
    if route is not None:
        request[ORIGIN] = RequestOrigin(request_id(request), route=route)


def origin_of(request: web.Request, response_id: str) -> RequestOrigin | None:
    """The origin of a request, for the engine. response_id: that of the reply to it."""
    origin = request.get(ORIGIN)
    if origin is not None:
        origin.response_id = response_id
    return origin


def record_refusal(request: web.Request, exc: Exception) -> None:
    """Record a request that failed before an engine took it."""
    origin = request.get(ORIGIN)
    if origin is None or origin.recorded:
        return
    plugins = request.app[MODELS].engine.plugins
    if not plugins.observed:
        return
    failure = failure_of(exc)
    code = failure.code or ("invalid_request" if failure.status == 400 else f"{failure.status}")
    outcome = "failed" if failure.status == 500 else "refused"
    origin.response_id = ""
    plugins.request_finished(origin.record(model="", outcome=outcome, error=code))
