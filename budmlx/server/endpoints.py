"""Endpoints: routes with their entries in the OpenAPI document."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler
from msgspec import Struct
from pydantic import BaseModel

ERRORS = {
    400: "The request is wrong; `error.param` says where.",
    401: "The API key is missing or wrong.",
    403: "The Host is not served here, or the request comes from a foreign web page.",
    404: "Nothing answers to this model name, or there is no such path.",
    408: "The body arrived too slowly.",
    413: "The body is too large.",
    415: "The body is not JSON in UTF-8, or its compression is unknown.",
    417: "Only `Expect: 100-continue` is understood.",
    429: "The API key made too many requests, or has too few tokens left.",
    500: "This request failed; it would fail again.",
    503: "Too many requests, or the model is not available now.",
}
"""A sentence on each status that is an error."""

ALWAYS = (400, 401, 403, 417, 500)
"""Statuses that every endpoint may answer with."""

WITH_BODY = (404, 408, 413, 415, 429, 503)
"""Further statuses of endpoints with a body."""

Decorator = Callable[[Handler], Handler]


@dataclass(frozen=True, slots=True)
class Streamed:
    """A reply as a stream. event: the type of its events; description: their framing.

    generated: it is what a model writes.
    """

    content_type: str
    description: str
    event: type[Struct]
    generated: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Endpoint:
    """A route and its entry in the OpenAPI document.

    spellings: every path that leads here, the documented one first.
    body: the model of a JSON body, if the endpoint takes one.
    reply: the JSON reply; None for other content types, or for an empty reply without one.
    errors: a sentence on each status that is an error.
    parameters: a sentence on each variable of the path.
    query: the schema of each field of the query string that is read, with its description.
    brief: it waits for no other request, so that many at once are no load.
    form: the schema of a body of multipart/form-data, if the endpoint takes one.
    """

    method: str
    spellings: tuple[str, ...]
    handler: Handler
    summary: str
    body: type[BaseModel] | None = None
    reply: type[Struct] | None = None
    content_types: tuple[str, ...] = ()
    streamed: Streamed | None = None
    errors: Mapping[int, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    brief: bool = False
    form: Mapping[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """The documented path, its variables without patterns."""
        return self.plain(self.spellings[0])

    @property
    def generates(self) -> bool:
        """Whether it generates text, as those of POST with streams of generated text do."""
        streamed = self.streamed
        return streamed is not None and streamed.generated and self.method == "POST"

    @staticmethod
    def plain(path: str) -> str:
        """A path, its variables without patterns."""
        return re.sub(r"\{(\w+):[^}]*\}", r"{\1}", path)

    def routes(self) -> Iterator[web.RouteDef]:
        """A route for each spelling."""
        for path in self.spellings:
            yield web.RouteDef(self.method, path, self.handler, {})


class EndpointTable:
    """Collects endpoints by decorators, in the order of the document.

    prefix: paths that begin with it answer without it, and with it twice, too: some clients
    append it to the address that they get and others do not.
    body_errors: sentences on statuses that only endpoints with a body have, here alone.
    """

    def __init__(self, prefix: str = "", body_errors: Mapping[int, str] | None = None):
        self._prefix = prefix
        self._body_errors = body_errors or {}
        self._endpoints: list[Endpoint] = []

    def __iter__(self) -> Iterator[Endpoint]:
        return iter(self._endpoints)

    def get(
        self,
        path: str,
        summary: str,
        reply: type[Struct] | None = None,
        *,
        content_types: tuple[str, ...] = (),
        streamed: Streamed | None = None,
        errors: tuple[int, ...] = (),
        parameters: Mapping[str, str] | None = None,
        query: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Decorator:
        """Serve `GET path`. See `Endpoint`; errors: statuses beyond `ALWAYS`."""
        return self._adding(
            "GET",
            path,
            summary=summary,
            reply=reply,
            content_types=("application/json",) if reply else content_types,
            streamed=streamed,
            errors={status: ERRORS[status] for status in (*ALWAYS, *errors)},
            parameters=parameters or {},
            query=query or {},
        )

    def post(
        self,
        path: str,
        summary: str,
        body: type[BaseModel],
        reply: type[Struct],
        streamed: Streamed | None = None,
        *,
        brief: bool = False,
    ) -> Decorator:
        """Serve `POST path`. See `Endpoint`."""
        errors = {status: ERRORS[status] for status in (*ALWAYS, *WITH_BODY)}
        return self._adding(
            "POST",
            path,
            summary=summary,
            body=body,
            reply=reply,
            content_types=("application/json",),
            streamed=streamed,
            errors={**errors, **self._body_errors},
            brief=brief,
        )

    def act(
        self,
        path: str,
        summary: str,
        reply: type[Struct],
        *,
        errors: tuple[int, ...] = (),
        parameters: Mapping[str, str] | None = None,
    ) -> Decorator:
        """Serve `POST path` without a JSON body. See `Endpoint`; errors: beyond `ALWAYS`."""
        return self._simple("POST", path, summary, reply, errors, parameters)

    def upload(
        self, path: str, summary: str, form: Mapping[str, Any], reply: type[Struct]
    ) -> Decorator:
        """Serve `POST path` with a form. See `Endpoint`."""
        errors = (*ALWAYS, 408, 413, 415, 429, 503)
        return self._adding(
            "POST",
            path,
            summary=summary,
            form=form,
            reply=reply,
            content_types=("application/json",),
            errors={status: ERRORS[status] for status in errors},
        )

    def delete(
        self,
        path: str,
        summary: str,
        reply: type[Struct],
        *,
        body: type[BaseModel] | None = None,
        errors: tuple[int, ...] = (),
        parameters: Mapping[str, str] | None = None,
    ) -> Decorator:
        """Serve `DELETE path`. See `Endpoint`; errors: statuses beyond `ALWAYS`."""
        errors = (*errors, *(WITH_BODY if body else ()))
        return self._simple("DELETE", path, summary, reply, errors, parameters, body)

    def _simple(
        self,
        method: str,
        path: str,
        summary: str,
        reply: type[Struct],
        errors: tuple[int, ...],
        parameters: Mapping[str, str] | None,
        body: type[BaseModel] | None = None,
    ) -> Decorator:
        return self._adding(
            method,
            path,
            summary=summary,
            body=body,
            reply=reply,
            content_types=("application/json",),
            errors={status: ERRORS[status] for status in (*ALWAYS, *errors)},
            parameters=parameters or {},
        )

    def _adding(self, method: str, path: str, **entry: Any) -> Decorator:
        def add(handler: Handler) -> Handler:
            paths = spellings(path, self._prefix)
            self._endpoints.append(Endpoint(method, paths, handler, **entry))
            return handler

        return add


def spellings(path: str, prefix: str) -> tuple[str, ...]:
    """A path that begins with the prefix, then without the prefix, then with it twice."""
    if not prefix or not path.startswith(f"{prefix}/"):
        return (path,)
    return path, path.removeprefix(prefix), prefix + path
