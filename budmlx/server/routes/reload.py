"""`POST /v1/reload`: the configuration is read again."""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web
from msgspec import Struct

from budmlx.server.admin import check_admin, log_action
from budmlx.server.body import parsed
from budmlx.server.endpoints import EndpointTable
from budmlx.server.json_reply import as_json
from budmlx.server.reload import RELOADER
from budmlx.server.strict_body import StrictBody

endpoints = EndpointTable("/v1")


class ReloadRequest(StrictBody):
    """The body, an empty object."""


class ReloadReply(Struct, frozen=True):
    """What was different.

    taken: settings that hold from now on. restart: those that hold after a restart. models: those
    that are loaded, and have other settings when they are loaded again.
    """

    taken: Sequence[str]
    restart: Sequence[str]
    models: Sequence[str]


@endpoints.post(
    "/v1/reload", "Read the configuration again; needs admin rights", ReloadRequest, ReloadReply
)
async def reload(request: web.Request) -> web.Response:
    """Read the configuration again, and take what a running server can."""
    check_admin(request)
    await parsed(request, ReloadRequest.parse)
    log_action(request, "reload the configuration")
    found = await request.app[RELOADER].reload()
    reply = ReloadReply(found.taken, found.restart, found.models)
    return as_json(reply)
