"""Admin rights: who may load, unload, fetch and delete models over HTTP, and watch others."""

from __future__ import annotations

import ipaddress
import logging

from aiohttp import web

from budmlx.server.errors import HttpError
from budmlx.server.records import ORIGIN
from budmlx.server.state import DIALECTS, KEYS

log = logging.getLogger(__name__)

FORWARDED = ("forwarded", "via", "x-real-ip")
"""Headers of proxies, behind which everybody comes from this machine; and `x-forwarded-*`."""
MOST = 300
"""Characters of what an admin does."""


def check_admin(request: web.Request) -> None:
    """Refuse a request that does not have the right; see `is_admin`.

    Raises:
        HttpError: 403.
    """
    if problem := _problem(request):
        raise HttpError(403, problem, code="admin_only")


def log_action(request: web.Request, what: str) -> None:
    """Write what an admin does, and who it is. what: a verb and its object."""
    peer = request.get_extra_info("peername")
    where = str(peer[0]) if peer else "a local socket"
    log.info("Admin %s from %s: %s", request[ORIGIN].key or "without a key", where, what[:MOST])


def is_admin(request: web.Request) -> bool:
    """Whether a request has the right.

    It has it with an admin key, where one is set. Where no key of any kind is, requests from this
    machine have it that came through no proxy.
    """
    return not _problem(request)


def _problem(request: web.Request) -> str:
    """Why a request does not have the right; empty if it has."""
    keys = request.app[KEYS]
    if keys.has_admin:
        key = keys.find(request.app[DIALECTS].keys(request.path, request.headers))
        if key is not None and key.admin and not key.expired():
            return ""
        return (
            "This needs an admin key: send one of BUDMLX_ADMIN_KEY, or of `budmlx keys add NAME "
            "--admin`, as the API key."
        )
    if keys.required:
        return (
            "This needs an admin key; start the server with BUDMLX_ADMIN_KEY set, or make one with "
            "`budmlx keys add NAME --admin`."
        )
    headers = [name.lower() for name in request.headers]
    forwarded = any(name in FORWARDED or name.startswith("x-forwarded-") for name in headers)
    if forwarded or not _is_local(request):
        return (
            "Without an admin key this is answered on this machine only, and not through a proxy; "
            "start the server with BUDMLX_ADMIN_KEY set."
        )
    return ""


def _is_local(request: web.Request) -> bool:
    peer = request.get_extra_info("peername")
    # A local socket has no address.
    if not peer:
        return True
    address = str(peer[0]).split("%")[0].removeprefix("::ffff:")
    return ipaddress.ip_address(address).is_loopback
