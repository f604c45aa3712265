"""Reply: what an endpoint answers to a line of a file, as a line of another one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

from aiohttp import web

from budmlx.engine.run.origin import RequestOrigin
from budmlx.errors import InvalidRequestError
from budmlx.logs import REQUEST
from budmlx.server.batches.record import InputLine, one_line, output_line
from budmlx.server.errors import failure_of
from budmlx.server.line_request import LINES, LineRequest
from budmlx.server.records import PATHS, Exchange, Route
from budmlx.server.transport import report
from budmlx.server.warnings_header import NAME as WARNINGS

RETRY_SECONDS = 0.5
"""Pause before what the server could not do is tried again."""
REFUSED = ("stream", "background")
"""Fields whose replies are not whole."""
Check = Callable[[], Awaitable[None]]
LATER = (429, 503)
"""Statuses of what a limit of the key, or of the server, refuses now."""


async def reply(
    app: web.Application,
    owner: str,
    endpoint: str,
    line: InputLine,
    name: str,
    *,
    check: Check | None = None,
) -> tuple[int, bytes]:
    """The status and the output line. What the server cannot do now is tried until it can.

    owner: identifies the API key. name: of the batch, for ids. check: raises what keeps the line
    from being answered.
    """
    route = app[PATHS].get(("POST", endpoint)) or Route(endpoint, generates=False)
    id = f"{name}-{line.number}"
    REQUEST.set(id)
    while True:
        # Whoever runs lines bounds them.
        origin = RequestOrigin(id, route=endpoint, placeless=True)
        exchange = Exchange(origin, "POST", endpoint, route.generates, batch=name)
        origin.sink = exchange.records.append
        response = await _tried(app, owner, endpoint, line, exchange, check)
        if response is not None:
            break
        await asyncio.sleep(RETRY_SECONDS)
    assert isinstance(response.body, bytes)
    warnings = json.loads(response.headers.get(WARNINGS, "[]"))
    body = one_line(response.body)
    return response.status, output_line(name, line, response.status, body, warnings)


async def _tried(
    app: web.Application,
    owner: str,
    endpoint: str,
    line: InputLine,
    exchange: Exchange,
    check: Check | None,
) -> web.Response | None:
    """What an endpoint answers; None if it may do otherwise later. Reports what was done."""
    served, origin, later = app[LINES][endpoint], exchange.origin, False
    try:
        request = LineRequest(app, owner, origin)
        for field in REFUSED:
            if line.body.get(field):
                raise InvalidRequestError(f"`{field}` is not for batches.", param=field)
        if check is not None:
            await check()
        response = await served.answer(request, line.body, line.size)
        assert isinstance(response, web.Response)
    except Exception as error:  # A boundary: it is the line's failure.
        exchange.failure = failure = failure_of(error)
        later = failure.status in LATER
        response = served.error(failure, origin.request_id)
        if later:
            return None
    finally:
        if exchange.records or not later:
            report(app, exchange)
    return response
