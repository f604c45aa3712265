"""`POST /v1/log_level`: how much is logged from now on."""

from __future__ import annotations

from aiohttp import web
from msgspec import Struct
from pydantic import Field

from budmlx import logs
from budmlx.logs import Level
from budmlx.server.admin import check_admin, log_action
from budmlx.server.body import parsed
from budmlx.server.endpoints import EndpointTable
from budmlx.server.json_reply import as_json
from budmlx.server.state import MODELS
from budmlx.server.strict_body import StrictBody

endpoints = EndpointTable("/v1")


class LogLevelRequest(StrictBody):
    """The least severe messages to log."""

    level: Level = Field(description="debug has tracebacks, which may quote prompts.")


class LogLevel(Struct, frozen=True):
    """The least severe messages that are logged from now on."""

    level: Level


@endpoints.post("/v1/log_level", "Log more or less; needs admin rights", LogLevelRequest, LogLevel)
async def log_level(request: web.Request) -> web.Response:
    """Change it for the server and the processes of its loaded models, until they end."""
    check_admin(request)
    body, _ = await parsed(request, LogLevelRequest.parse)
    log_action(request, f"log level {body.level}")
    logs.set_level(body.level)
    for engine in request.app[MODELS].loaded:
        engine.set_log_level(body.level)
    return as_json(LogLevel(body.level))
