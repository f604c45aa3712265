"""`GET /metrics`: the numbers of the server and its models, for Prometheus."""

from __future__ import annotations

from aiohttp import hdrs, web

from budmlx.server.endpoints import EndpointTable
from budmlx.server.telemetry.metrics import METRICS

endpoints = EndpointTable()


@endpoints.get("/metrics", "Numbers for Prometheus", content_types=("text/plain",), errors=(404,))
async def metrics(request: web.Request) -> web.Response:
    """Answer in the text format, or in that of OpenMetrics if the client prefers it.

    Raises HTTPNotFound where the setting `metrics` is off.
    """
    if (found := request.app.get(METRICS)) is None:
        raise web.HTTPNotFound
    text, content_type = found.text(request.headers.get(hdrs.ACCEPT, ""))
    return web.Response(body=text, headers={hdrs.CONTENT_TYPE: content_type})
