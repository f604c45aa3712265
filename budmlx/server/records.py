"""Records of requests for plugins: where a request comes from, and those that no engine took."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import chain

from aiohttp import web
from aiohttp.typedefs import Handler

from budmlx.engine.run.origin import RequestOrigin
from budmlx.plugins.manager import Plugins
from budmlx.server.dialects.base import Dialects
from budmlx.server.errors import failure_of
from budmlx.server.security import request_id
from budmlx.server.state import MODELS

GENERATING: web.AppKey[Mapping[str, str]] = web.AppKey("generating")
"""The documented path of every path whose requests are recorded."""
ORIGIN = web.RequestKey("origin", RequestOrigin)


def generating(dialects: Dialects) -> Mapping[str, str]:
    """The paths of all endpoints that generate text, which are those of POST with streams."""
    endpoints = chain.from_iterable(dialect.endpoints for dialect in dialects)
    return {
        re.sub(r"\{(\w+):[^}]*\}", r"{\1}", path): endpoint.path
        for endpoint in endpoints
        if endpoint.streamed is not None
        and endpoint.streamed.generated
        and endpoint.method == "POST"
        for path in endpoint.spellings
    }


@web.middleware
async def recorded(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Note where a request comes from, for the engine, and record one that it did not take."""
    resource = request.match_info.route.resource
    route = request.app[GENERATING].get(resource.canonical if resource else "")
    if route is None:
        return await handler(request)
    request[ORIGIN] = origin = RequestOrigin(request_id(request), route=route)
    try:
        return await handler(request)
    except ConnectionError:
        raise
    except Exception as exc:
        if not origin.recorded:
            _record_refusal(request.app[MODELS].plugins, origin, exc)
        raise


def _record_refusal(plugins: Plugins, origin: RequestOrigin, exc: Exception) -> None:
    failure = failure_of(exc)
    code = failure.code or ("invalid_request" if failure.status == 400 else f"{failure.status}")
    outcome = "failed" if failure.status == 500 else "refused"
    origin.response_id = ""
    plugins.request_finished(origin.record(model="", outcome=outcome, error=code))
