"""`POST /api/pull` and `DELETE /api/delete`: the files of models."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from contextlib import aclosing

from aiohttp import web
from msgspec import UNSET, Struct, UnsetType
from pydantic import Field

from budmlx.engine.load.library.pull import PullProgress
from budmlx.errors import BudmlxError, ModelNotFoundError
from budmlx.server.admin import check_admin, log_action
from budmlx.server.answer import HEADERS
from budmlx.server.dialects.ollama.names import meant
from budmlx.server.dialects.ollama.reply import NDJSON, OllamaError, line_of
from budmlx.server.dialects.ollama.request_body import NamedModel, read
from budmlx.server.endpoints import EndpointTable, Streamed
from budmlx.server.errors import failure_of
from budmlx.server.json_reply import as_json
from budmlx.server.model_files import pulling, removed
from budmlx.server.security import find_model
from budmlx.server.state import CONFIG, MODELS
from budmlx.server.warnings_header import warnings_header

endpoints = EndpointTable()


class OllamaPull(NamedModel):
    """The body of `/api/pull`."""

    stream: bool | None = Field(None, description="Answer with lines; so it is if absent, too.")
    insecure: bool = Field(False, description="Changes nothing.")


class OllamaDelete(NamedModel):
    """The body of `/api/delete`."""


class PullStatus(Struct, frozen=True):
    """How far it is. digest: stands for the model. completed, total: bytes."""

    status: str
    digest: str | UnsetType = UNSET
    total: int | UnsetType = UNSET
    completed: int | UnsetType = UNSET


SUCCESS = PullStatus("success")


@endpoints.post(
    "/api/pull",
    "Fetch a model from the hub; needs admin rights, unless it is here",
    OllamaPull,
    reply=PullStatus,
    streamed=Streamed(NDJSON, "Lines, each the JSON of a PullStatus.", PullStatus, generated=False),
)
async def pull(request: web.Request) -> web.StreamResponse:
    """Fetch a model into the hub's cache; ends with the connection, and can be resumed."""
    body, _ = await read(request, OllamaPull.parse)
    headers = warnings_header(body.review(strict=request.app[CONFIG].strict))
    models = request.app[MODELS]
    name = meant(body.model, models)
    if not await _is_here(request, name):
        check_admin(request)
        log_action(request, f"pull {name}")
        async with aclosing(pulling(models, name)) as progress:
            if body.stream is not False:
                return await _streamed(request, name, progress, headers)
            async for _ in progress:
                pass
    if body.stream is False:
        return as_json(SUCCESS, headers)
    lines = line_of(PullStatus("pulling manifest")) + line_of(SUCCESS)
    return web.Response(body=lines, content_type=NDJSON, headers=headers)


async def _is_here(request: web.Request, name: str) -> bool:
    """Whether a name is served by a model whose files are on this machine.

    The model for unknown names does not count: it is another one than that which is wanted.
    """
    try:
        resident = (await find_model(request, name, default=False)).resident
    except ModelNotFoundError:
        return False
    descriptions = request.app[MODELS].descriptions
    return await asyncio.to_thread(descriptions.files, resident) is not None


async def _streamed(
    request: web.Request,
    name: str,
    progress: AsyncGenerator[PullProgress, None],
    headers: dict[str, str],
) -> web.StreamResponse:
    """The progress, line by line. Raises what happens before there is any."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    response = web.StreamResponse(headers={**HEADERS, "Content-Type": NDJSON, **headers})
    try:
        async for each in progress:
            if not response.prepared:
                await response.prepare(request)
                await response.write(line_of(PullStatus("pulling manifest")))
            sizes = {"total": each.total, "completed": each.done}
            status = PullStatus(f"pulling {digest[:12]}", f"sha256:{digest}", **sizes)
            await response.write(line_of(status))
        await response.write(line_of(SUCCESS))
    except BudmlxError as error:
        if not response.prepared:
            raise
        await response.write(line_of(OllamaError(failure_of(error).message)))
    return response


@endpoints.delete(
    "/api/delete",
    "Delete a model from the hub's cache; needs admin rights",
    PullStatus,
    body=OllamaDelete,
)
async def delete(request: web.Request) -> web.Response:
    """Delete a model that is not loaded from the hub's cache."""
    check_admin(request)
    body, _ = await read(request, OllamaDelete.parse)
    headers = warnings_header(body.review(strict=request.app[CONFIG].strict))
    models = request.app[MODELS]
    name = meant(body.model, models)
    log_action(request, f"delete {name}")
    await removed(models, name)
    return as_json(SUCCESS, headers)
