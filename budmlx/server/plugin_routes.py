"""Routes of plugins: behind the same middlewares as ours, and never in place of ours."""

from __future__ import annotations

import asyncio
import logging
from itertools import groupby
from types import FrameType

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from budmlx.engine.run.origin import CALLER
from budmlx.errors import BudmlxError, ConfigError
from budmlx.plugins.boundary import guarded, is_interrupt, wrong_type
from budmlx.plugins.manager import Owned, Plugins
from budmlx.plugins.specs import Route
from budmlx.server.errors import HttpError
from budmlx.server.records import ORIGIN
from budmlx.server.security import OPEN_ROUTES
from budmlx.server.state import IN_FLIGHT

log = logging.getLogger(__name__)

PASSED = (web.HTTPException, BudmlxError, ConnectionError)
"""Exceptions that a handler may raise to answer with a status, or when its client is gone."""

_OF_BODY = (hdrs.CONTENT_TYPE, hdrs.CONTENT_LENGTH)


def add_plugin_routes(app: web.Application, plugins: Plugins) -> None:
    """Add the routes of every plugin, or none of a plugin's if one of them is unusable.

    Raises:
        ConfigError: a plugin that the configuration names has an unusable route.
    """
    added = plugins.added("add_routes")
    for plugin, group in groupby(added, key=lambda owned: owned.plugin):
        routes = list(group)
        try:
            definitions = _checked(app, routes)
        except BaseException as error:
            if is_interrupt(error):
                raise
            problem = f"Plugin {plugin} has a route that cannot be served: {error}"
            if plugins.required(plugin):
                raise ConfigError(problem, param="plugin") from error
            log.error("%s; its routes are left out", problem)
        else:
            app.add_routes(definitions)


def _checked(app: web.Application, routes: list[Owned[Route]]) -> list[web.RouteDef]:
    """The routes as guarded definitions. Raises ValueError or RuntimeError for a bad one."""
    definitions = [
        web.RouteDef(
            owned.value.method,
            owned.value.path,
            _handler(owned.plugin, owned.value),
            dict(owned.value.kwargs),
        )
        for owned in routes
    ]
    taken = {(route.method, _path(route)) for route in app.router.routes()}
    trial = web.UrlDispatcher()
    for route in trial.add_routes(definitions):
        if _path(route) in OPEN_ROUTES or (route.method, _path(route)) in taken:
            raise ValueError(f"{route.method} {_path(route)} is the server's own")
    return definitions


def _path(route: web.AbstractRoute) -> str:
    return "" if route.resource is None else route.resource.canonical


def _handler(plugin: str, route: Route) -> Handler:
    what = f"route {route.method} {route.path}"

    async def handler(request: web.Request) -> web.StreamResponse:
        task = asyncio.current_task()
        response: object = None
        # What it asks of engines is paid for by its client's key.
        caller = CALLER.set(request.get(ORIGIN))
        with guarded(plugin, what):
            try:
                response = await route.handler(request)
            except PASSED as raised:
                response = raised
            except (asyncio.CancelledError, GeneratorExit) as raised:
                if not _is_given_up(task, request):
                    raise
                response = raised
            finally:
                CALLER.reset(caller)
        if isinstance(response, asyncio.CancelledError | GeneratorExit):
            raise response
        if isinstance(response, web.HTTPException):
            response = _answer(response)
        if isinstance(response, PASSED):
            raise response
        if not isinstance(response, web.StreamResponse):
            raise wrong_type(plugin, what, response, "a response")
        return response

    return handler


def route_of(frame: FrameType) -> tuple[str, str] | None:
    """The plugin and the route that a frame of the interpreter answers, if it does."""
    if frame.f_code.co_qualname != f"{_handler.__name__}.<locals>.handler":
        return None
    if frame.f_code.co_filename != _handler.__code__.co_filename:
        return None
    return frame.f_locals["plugin"], frame.f_locals["what"]


def _is_given_up(task: asyncio.Task[object] | None, request: web.Request) -> bool:
    """Whether a task was cancelled, or is being thrown away with its event loop.

    A handler that cancels its own task is not: its client is there, and waits for an answer.
    """
    try:
        current = asyncio.current_task()
    except RuntimeError:  # there is no loop any more
        return True
    if current is None or current is not task:
        return True
    if not current.cancelling():
        return False
    transport = request.transport
    if transport is None or transport.is_closing() or request.app[IN_FLIGHT].draining:
        return True
    while current.uncancel():
        pass
    return False


def _answer(raised: web.HTTPException) -> web.Response | HttpError:
    """The response that a handler raised; as an error it gets the server's own body."""
    if raised.status < 400:
        return web.Response(
            status=raised.status, reason=raised.reason, headers=raised.headers, body=raised.body
        )
    text = raised.text or ""
    message = raised.reason if text.startswith(f"{raised.status}: ") else text or raised.reason
    headers = {name: value for name, value in raised.headers.items() if name not in _OF_BODY}
    return HttpError(raised.status, message, code=None, headers=headers)
