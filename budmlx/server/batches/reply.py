"""Reply: what an endpoint answers to a line of a file, as a line of another one."""

from __future__ import annotations

import asyncio
import json

from aiohttp import web

from budmlx.errors import InvalidRequestError
from budmlx.server.batches.record import InputLine, one_line, output_line
from budmlx.server.errors import failure_of
from budmlx.server.line_request import LINES, LineRequest
from budmlx.server.warnings_header import NAME as WARNINGS

RETRY_SECONDS = 0.5
"""Pause before what the server could not do is tried again."""
REFUSED = ("stream", "background")
"""Fields whose replies are not whole."""


async def reply(
    app: web.Application, owner: str, endpoint: str, line: InputLine, name: str
) -> tuple[int, bytes]:
    """The status and the output line. What the server cannot do now is tried until it can.

    owner: identifies the API key. name: of the batch, for ids.
    """
    served, id = app[LINES][endpoint], f"{name}-{line.number}"
    while True:
        try:
            request = LineRequest(app, owner, id, endpoint)
            for field in REFUSED:
                if line.body.get(field):
                    raise InvalidRequestError(f"`{field}` is not for batches.", param=field)
            response = await served.answer(request, line.body, line.size)
        except Exception as error:  # A boundary: it is the line's failure.
            failure = failure_of(error)
            if failure.status in (429, 503):  # a limit of the key, or of the server
                await asyncio.sleep(RETRY_SECONDS)
                continue
            response = served.error(failure, id)
        assert isinstance(response, web.Response) and isinstance(response.body, bytes)
        warnings = json.loads(response.headers.get(WARNINGS, "[]"))
        body = one_line(response.body)
        return response.status, output_line(name, line, response.status, body, warnings)
