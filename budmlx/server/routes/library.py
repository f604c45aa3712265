"""Admin routes of models: load, unload, fetch from the hub, delete from its cache."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Literal, Self

import msgspec
from aiohttp import web
from msgspec import Struct
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from budmlx.config.explain import explain
from budmlx.engine.load.library.pull import PullProgress, pull
from budmlx.engine.load.library.removal import Removal
from budmlx.errors import BudmlxError, InvalidRequestError, ModelNotFoundError
from budmlx.server.admin import check_admin
from budmlx.server.answer import HEADERS
from budmlx.server.body import parsed
from budmlx.server.endpoints import EndpointTable, Streamed
from budmlx.server.errors import failure_of
from budmlx.server.routes.models import Model, entry_of
from budmlx.server.state import MODELS

endpoints = EndpointTable("/v1")


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Self:
        """Validate a body. Raises InvalidRequestError naming the first wrong parameter."""
        try:
            return cls.model_validate(body)
        except ValidationError as error:
            param = ".".join(map(str, error.errors()[0]["loc"])) or None
            text = explain(error, names=cls.model_fields)
            raise InvalidRequestError(f"{text}.", param=param) from None


class ModelRequest(_Body):
    """A model that is served."""

    model: str = Field(description="A name that `GET /v1/models` lists.")


class PullRequest(_Body):
    """A repository of the hub."""

    model: str = Field(description="A repository of the hub, such as org/name.")
    revision: str | None = Field(None, description="Branch, tag or commit.")


class PullEvent(Struct, frozen=True):
    """How far a pull is. done, total: bytes. error: why it ended, in its last event."""

    stage: Literal["checking", "downloading", "done", "failed"]
    done: int = 0
    total: int = 0
    error: str | None = None


class Removed(Struct, frozen=True):
    """A model that is gone. freed: bytes on disk."""

    id: str
    freed: int
    object: str = "model"
    deleted: bool = True


@endpoints.post("/v1/models/load", "Load a model; needs admin rights", ModelRequest, Model)
async def load(request: web.Request) -> web.Response:
    """Load a model now, and answer when it is loaded."""
    check_admin(request)
    body, _ = await parsed(request, ModelRequest.parse)
    models = request.app[MODELS]
    async with models.find(body.model).aengine(patient=True):
        pass
    return _json(entry_of(body.model, models.find(body.model)))


@endpoints.post("/v1/models/unload", "Unload a model; needs admin rights", ModelRequest, Model)
async def unload(request: web.Request) -> web.Response:
    """Unload a model when its running requests have ended, and answer when it is gone."""
    check_admin(request)
    body, _ = await parsed(request, ModelRequest.parse)
    models = request.app[MODELS]
    if models.only is not None:
        raise InvalidRequestError(
            f"{body.model} is the only model, and stays loaded.", param="model"
        )
    await asyncio.wrap_future(models.unload(body.model))
    return _json(entry_of(body.model, models.find(body.model)))


@endpoints.post(
    "/v1/models/pull",
    "Fetch a model from the hub; needs admin rights",
    PullRequest,
    reply=PullEvent,
    streamed=Streamed(
        "text/event-stream", "Server-sent events: `data:` lines with the progress.", PullEvent
    ),
)
async def pull_model(request: web.Request) -> web.StreamResponse:
    """Fetch a model into the hub's cache; ends with the connection, and can be resumed."""
    check_admin(request)
    body, _ = await parsed(request, PullRequest.parse)
    loop, news = asyncio.get_running_loop(), asyncio.Queue[PullProgress]()
    cancelled = threading.Event()

    def report(progress: PullProgress) -> None:
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(news.put_nowait, progress)

    response = web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream"})
    work = asyncio.create_task(
        asyncio.to_thread(pull, body.model, body.revision, report, cancelled)
    )
    try:
        # What cannot be fetched is known after the check, and has its own status.
        while (latest := await _next(news, work)) is not None and latest.stage == "checking":
            pass
        if latest is not None:
            await response.prepare(request)
        while latest is not None:
            await response.write(_event(PullEvent(latest.stage, latest.done, latest.total)))
            latest = await _next(news, work)
        await work
    except BudmlxError as error:
        if not response.prepared:
            raise InvalidRequestError(error.message, param="model") from error
        await response.write(_event(PullEvent("failed", error=failure_of(error).message)))
    finally:
        cancelled.set()
    await asyncio.to_thread(request.app[MODELS].refresh)
    return response


async def _next(news: asyncio.Queue[PullProgress], work: asyncio.Task[Any]) -> PullProgress | None:
    """The latest progress; None when the work has ended and nothing is left to be told."""
    waiting = asyncio.create_task(news.get())
    await asyncio.wait([waiting, work], return_when=asyncio.FIRST_COMPLETED)
    if not waiting.done():
        waiting.cancel()
        return None
    latest = waiting.result()
    while not news.empty():
        latest = news.get_nowait()
    return latest


@endpoints.delete(
    "/v1/models/{id:.+}",
    "Delete a model from the hub's cache; needs admin rights",
    Removed,
    errors=(404,),
    parameters={"id": "It may hold slashes, escaped or not."},
)
async def delete(request: web.Request) -> web.Response:
    """Delete a model that is not loaded from the hub's cache."""
    check_admin(request)
    name, models = request.match_info["id"], request.app[MODELS]
    with suppress(ModelNotFoundError):
        if not models.resident(name).idle:
            raise InvalidRequestError(f"{name} is loaded; unload it first.", param="model")
    return _json(await asyncio.to_thread(_remove, request, name))


def _remove(request: web.Request, name: str) -> Removed:
    models = request.app[MODELS]
    try:
        removal = Removal.of(models.library, name)
        removal.execute()
    except ModelNotFoundError:
        raise
    except BudmlxError as error:
        raise InvalidRequestError(error.message, param="model") from error
    models.refresh()
    return Removed(name, removal.freed)


def _event(event: PullEvent) -> bytes:
    return b"data: " + msgspec.json.encode(event) + b"\n\n"


def _json(reply: Struct) -> web.Response:
    return web.json_response(msgspec.to_builtins(reply))
