"""`GET /metrics`: the numbers of the server and its models, for Prometheus."""

from __future__ import annotations

from aiohttp import hdrs, web

from budmlx.server.endpoints import EndpointTable
from budmlx.server.errors import HttpError
from budmlx.server.state import API_KEY
from budmlx.server.telemetry.metrics import METRICS

endpoints = EndpointTable()
ALL = "The metrics tell of all models, so they need an API key that may use all models."


@endpoints.get("/metrics", "Numbers for Prometheus", content_types=("text/plain",), errors=(404,))
async def metrics(request: web.Request) -> web.Response:
    """Answer in the text format, or in that of OpenMetrics if the client prefers it.

    Raises HTTPNotFound where the setting `metrics` is off, HttpError for a key of some models.
    """
    key = request.get(API_KEY)
    if key is not None and key.models and not key.admin:
        raise HttpError(403, ALL, code="all_models_only")
    if (found := request.app.get(METRICS)) is None:
        raise web.HTTPNotFound
    text, content_type = found.text(request.headers.get(hdrs.ACCEPT, ""))
    return web.Response(body=text, headers={hdrs.CONTENT_TYPE: content_type})
