"""Exchanges: HTTP requests with what became of them, for metrics, the log, and plugins."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from aiohttp import web

from budmlx.engine.run.origin import RequestOrigin
from budmlx.plugins.specs import RequestEnd, RequestRecord
from budmlx.server.endpoints import Endpoint
from budmlx.server.errors import Failure


@dataclass(slots=True, eq=False)
class Exchange:
    """One HTTP request and its answer.

    origin: what its records say of it. method, path: as the client sent them. generates: it leads
    to an endpoint that generates text. headers: of the request. records: of what engines did for
    it. failure: why it failed, also after its stream had begun. status: of the answer; 0 if there
    was none, because the client left or the connection broke. ended: seconds since 1970.
    late: it was reported before, and what went on in the background has ended now.
    batch: that it is a line of; no HTTP request then.
    """

    origin: RequestOrigin
    method: str
    path: str
    generates: bool
    headers: Mapping[str, str] = field(default_factory=dict)
    records: list[RequestRecord] = field(default_factory=list)
    failure: Failure | None = None
    status: int = 0
    ended: float = 0.0
    late: bool = False
    batch: str = ""


@dataclass(slots=True)
class BatchCounts:
    """What became of batches since the server began.

    running: batches that are not over. waiting: their lines without a reply. ended: the others, by
    their status. lines: by how they ended: completed, failed, cancelled or expired.
    """

    running: int = 0
    waiting: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    lines: Counter[str] = field(default_factory=Counter)


class Route(NamedTuple):
    """Where a request leads. path: the documented one. generates: it generates text."""

    path: str
    generates: bool


Watcher = Callable[[Exchange], object]
"""Gets every exchange when it is over, on the event loop."""

ORIGIN = web.RequestKey("request_origin", RequestOrigin)
EXCHANGE = web.RequestKey("exchange", Exchange)
PATHS: web.AppKey[Mapping[tuple[str, str], Route]] = web.AppKey("paths")
"""Where the paths of endpoints lead, by method and path, in every spelling."""
WATCHERS: web.AppKey[Sequence[Watcher]] = web.AppKey("watchers")


def paths_of(endpoints: Iterable[Endpoint]) -> Mapping[tuple[str, str], Route]:
    """See `PATHS`."""
    return {
        (endpoint.method, Endpoint.plain(path)): Route(endpoint.path, endpoint.generates)
        for endpoint in endpoints
        for path in endpoint.spellings
    }


def untaken(exchange: Exchange) -> RequestRecord | None:
    """The record of a request for text that no engine took; None if it was answered without."""
    failure, origin = exchange.failure, exchange.origin
    outcome: RequestEnd = "cancelled"
    code = None
    if failure is not None:
        code = failure.code or ("invalid_request" if failure.status == 400 else f"{failure.status}")
        outcome = "failed" if failure.status == 500 else "refused"
    elif exchange.status:
        return None
    now = time.time()
    return RequestRecord(
        model="",
        outcome=outcome,
        error=code,
        request_id=origin.request_id,
        key=origin.key,
        route=origin.route,
        started=origin.started,
        finished=now,
        waited=now - origin.started,
    )
