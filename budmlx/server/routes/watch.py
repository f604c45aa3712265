"""Watching: what the server does now, the end of a request by an admin, the last lines of the log.

What is told of requests are names, ids and numbers, never texts.
"""

from __future__ import annotations

import re
import time

import msgspec
from aiohttp import web
from msgspec import Struct

from budmlx import logs
from budmlx.engine.engine import Engine
from budmlx.engine.models.resident import Resident, State
from budmlx.errors import InvalidRequestError
from budmlx.server.admin import check_admin, log_action
from budmlx.server.batches.record import Batch
from budmlx.server.batches.runner import BATCHES
from budmlx.server.endpoints import EndpointTable
from budmlx.server.errors import HttpError
from budmlx.server.in_flight import Holder
from budmlx.server.json_reply import as_json
from budmlx.server.records import Exchange
from budmlx.server.routes.health import Memory, memory_of
from budmlx.server.state import IN_FLIGHT, MODELS
from budmlx.server.telemetry import access_log
from budmlx.server.telemetry.history import HISTORY, Moment
from budmlx.server.telemetry.metrics import RECENT

endpoints = EndpointTable("/v1")


class RunningRequest(Struct, frozen=True):
    """A request that is running or waiting.

    places: it holds in the queue. seconds: since it came. stage: it waits for its model or a
    place in the batch (waiting), its prompt is read (prompt), its reply is written (reply).
    done, total: tokens of a long prompt that are computed. out: tokens of the reply so far.
    background: it runs on what others leave.
    """

    request_id: str
    route: str
    model: str
    key: str
    places: int
    seconds: float
    stage: str
    done: int
    total: int
    out: int
    background: bool


class WatchedBatch(Struct, frozen=True):
    """A batch that is not over. total, completed, failed: lines."""

    id: str
    key: str
    endpoint: str
    status: str
    total: int
    completed: int
    failed: int


class EndedRequest(Struct, frozen=True, omit_defaults=True, rename={"prompt": "in"}):
    """A request that ended.

    status: of the answer; 0 if the client left before. ended: seconds of the Unix clock.
    seconds: it took. key: the name of the API key. in, cached, out: tokens of the prompt, those
    of them that were not computed, and of the reply. queue, ttft: seconds, to the first token.
    rate: tokens a second of the reply. replayed: a stored reply. late: it went on without the
    client. finish: the finish reasons, or how it ended. error, reason, param: why it failed.
    """

    request_id: str
    method: str
    path: str
    status: int
    seconds: float
    ended: float = 0.0
    key: str = ""
    model: str = ""
    prompt: int = 0
    cached: int = 0
    out: int = 0
    queue: float | None = None
    ttft: float | None = None
    rate: float | None = None
    replayed: bool = False
    late: bool = False
    finish: str = ""
    error: str = ""
    reason: str = ""
    param: str = ""


class CacheUse(Struct, frozen=True):
    """The prefix cache of a model.

    stored: bytes in memory. disk_read, disk_written: bytes. The others are tokens of prompts:
    all, and those that came from memory and from disk. reasons: why no more was reused, in
    requests.
    """

    stored: int
    disk_read: int
    disk_written: int
    prompt_tokens: int
    memory_tokens: int
    disk_tokens: int
    reasons: dict[str, int]


class WatchedModel(Struct, frozen=True):
    """A model. fixed: it cannot be unloaded. running, waiting: rows. progress: of a load."""

    id: str
    state: State
    fixed: bool
    progress: str = ""
    problem: str = ""
    running: int = 0
    waiting: int = 0
    restarts: int = 0
    memory: Memory | None = None
    cache: CacheUse | None = None


class Watched(Struct, frozen=True):
    """What the server does now.

    now: seconds of the Unix clock. places, limit: in the queue, that are held and that there
    are. written: tokens of replies since the server began. replayed: requests since then that
    a stored reply answered. history: if it was asked for, a moment a second.
    """

    now: float
    places: int
    limit: int
    draining: bool
    written: int
    running: list[RunningRequest]
    batches: list[WatchedBatch]
    models: list[WatchedModel]
    ended: list[EndedRequest]
    replayed: int
    history: list[Moment]


class Cancelled(Struct, frozen=True):
    """What was cancelled. count: requests with this id, which clients may choose."""

    id: str
    count: int


class LogLine(Struct, frozen=True):
    """A line of the log."""

    number: int
    text: str


class LogLines(Struct, frozen=True):
    """Lines of the log, the oldest first."""

    lines: list[LogLine]


@endpoints.get(
    "/v1/watch",
    "What the server does now; needs admin rights",
    Watched,
    query={"history": {"type": "boolean", "description": "The last minutes, too."}},
)
async def watched(request: web.Request) -> web.Response:
    """Look at everything once; nothing waits for it, and no model is loaded."""
    check_admin(request)
    app = request.app
    in_flight, models, recent = app[IN_FLIGHT], app[MODELS], app[RECENT]
    running = [_running(holder) for holder in in_flight.holders if holder.origin is not None]
    return as_json(
        Watched(
            now=time.time(),
            places=in_flight.count,
            limit=in_flight.limit,
            draining=in_flight.draining,
            written=recent.written + sum(each.out for each in running),
            running=running,
            batches=[_batch(*each) for each in app[BATCHES].running()],
            models=[_watched(each, models.only is not None) for each in models.residents],
            ended=[_ended(each) for each in recent.ended],
            replayed=recent.replayed,
            history=[*app[HISTORY].moments] if request.query.get("history") == "true" else [],
        )
    )


def totals(app: web.Application) -> tuple[int, int, int]:
    """The tokens of replies since the server began, and the rows that run and that wait."""
    origins = [each.origin for each in app[IN_FLIGHT].holders if each.origin is not None]
    running = [each.generation.written for each in origins if each.generation is not None]
    written = app[RECENT].written + sum(len(row) for rows in running for row in rows)
    found = [each.status() for each in app[MODELS].loaded]
    return written, sum(each.running for each in found), sum(each.waiting for each in found)


@endpoints.act(
    "/v1/requests/{id}/cancel",
    "Cancel a request that is running; needs admin rights",
    Cancelled,
    errors=(404,),
    parameters={"id": "The `X-Request-Id` of its response."},
)
async def cancel(request: web.Request) -> web.Response:
    """End a request, whoever sent it; its client gets an error that says so."""
    check_admin(request)
    name = request.match_info["id"]
    log_action(request, f"cancel {name}")
    count = request.app[IN_FLIGHT].cancel(name)
    if not count:
        raise HttpError(404, "No request with this id is running.", code="request_not_found")
    return as_json(Cancelled(name, count))


@endpoints.get(
    "/v1/log",
    "The last lines of the log; needs admin rights",
    LogLines,
    query={"after": {"type": "integer", "minimum": 0, "description": "Only those after this."}},
)
async def log_lines(request: web.Request) -> web.Response:
    """The last lines of the log, with what models' processes print. Raises InvalidRequestError."""
    check_admin(request)
    after = request.query.get("after", "0")
    if not re.fullmatch("[0-9]{1,15}", after):
        raise InvalidRequestError("`after` must be the number of a line.", param="after")
    tail = logs.tail()
    found = tail.after(int(after)) if tail is not None else []
    return as_json(LogLines([LogLine(number, text) for number, text in found]))


def _running(holder: Holder) -> RunningRequest:
    origin = holder.origin
    assert origin is not None
    generation = origin.generation
    done, total = origin.prefilled or (0, 0)
    out = sum(map(len, generation.written)) if generation is not None else 0
    begun = generation is not None and generation.begun
    return RunningRequest(
        origin.request_id,
        origin.route,
        holder.model,
        origin.key,
        holder.places,
        seconds=max(0.0, time.time() - origin.started),
        stage="reply" if out else "prompt" if begun else "waiting",
        done=done,
        total=total,
        out=out,
        background=origin.background,
    )


def _batch(key: str, batch: Batch) -> WatchedBatch:
    counts = batch.request_counts
    return WatchedBatch(
        batch.id,
        key,
        batch.endpoint,
        batch.status,
        total=counts.total,
        completed=counts.completed,
        failed=counts.failed,
    )


def _ended(exchange: Exchange) -> EndedRequest:
    found = {"ended": exchange.ended, **access_log.facts(exchange)}
    return msgspec.convert(found, EndedRequest)


def _watched(resident: Resident, fixed: bool) -> WatchedModel:
    engine, error = resident.engine, resident.error
    if engine is None:
        problem = "" if error is None else error.message
        return WatchedModel(resident.name, resident.state, fixed, resident.progress, problem)
    status = engine.status()
    return WatchedModel(
        resident.name,
        resident.state,
        fixed,
        resident.progress,
        "" if status.ready else status.reason,
        running=status.running,
        waiting=status.waiting,
        restarts=status.restarts,
        memory=memory_of(status),
        cache=_cache(engine),
    )


def _cache(engine: Engine) -> CacheUse:
    status, used = engine.status(), engine.prefix_cache_stats()
    return CacheUse(
        stored=status.stored,
        disk_read=status.counts.disk.hit_bytes,
        disk_written=status.counts.disk.written_bytes,
        prompt_tokens=used.prompt_tokens,
        memory_tokens=used.memory_tokens,
        disk_tokens=used.disk_tokens,
        reasons={str(reason): count for reason, count in used.reasons.items() if count},
    )
