"""Files: clients upload what batches read, and fetch what batches have written."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Literal, TypeVar

import aiohttp
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from msgspec import Struct

from budmlx.engine.store.files import StoredFile
from budmlx.errors import InvalidRequestError
from budmlx.server.batches.runner import BATCHES
from budmlx.server.dialects.openai.quirks import ERRORS
from budmlx.server.endpoints import EndpointTable
from budmlx.server.errors import HttpError
from budmlx.server.json_reply import as_json
from budmlx.server.pages import AFTER, ends, limited, page
from budmlx.server.state import FILES, LIMITS, NAMESPACE

PURPOSES = ("batch", "user_data")
MOST_LISTED = 10_000
MOST_NAME = 255
MOST_FIELD = 1024
"""Bytes of a field of an upload."""
PIECE = 2**18
LEAST_SECONDS, MOST_SECONDS = 3600, 30 * 86_400
ID = {"file_id": "Of a file."}

Piece = TypeVar("Piece")

FORM = {
    "type": "object",
    "required": ["purpose", "file"],
    "properties": {
        "purpose": {"enum": list(PURPOSES), "description": "What the file is for."},
        "file": {"type": "string", "format": "binary", "description": "Its content."},
        "expires_after[anchor]": {"enum": ["created_at"]},
        "expires_after[seconds]": {
            "type": "integer",
            "minimum": LEAST_SECONDS,
            "maximum": MOST_SECONDS,
            "description": "How long it is kept; for good if absent.",
        },
    },
    "additionalProperties": False,
}

endpoints = EndpointTable("/v1", ERRORS)


class File(Struct, frozen=True):
    """A file. Times are seconds since 1970."""

    id: str
    bytes: int
    created_at: int
    filename: str
    purpose: str
    expires_at: int | None
    object: Literal["file"] = "file"
    status: Literal["processed"] = "processed"

    @classmethod
    def of(cls, file: StoredFile) -> File:
        """The same file on the wire."""
        return cls(file.id, file.size, file.created, file.name, file.purpose, file.expires)


class FileList(Struct, frozen=True):
    """Files, the newest first."""

    data: Sequence[File]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: Literal["list"] = "list"


MALFORMED = (
    ValueError,
    AssertionError,
    aiohttp.ClientPayloadError,
    HttpProcessingError,
    web.HTTPBadRequest,
)
"""What aiohttp raises where a form is none."""


class DeletedFile(Struct, frozen=True):
    """A file that is gone."""

    id: str
    object: Literal["file"] = "file"
    deleted: bool = True


@endpoints.upload("/v1/files", "Keep a file", FORM, File)
async def upload(request: web.Request) -> web.Response:
    """Keep a file."""
    if request.content_type != "multipart/form-data":
        raise HttpError(415, "Send files as multipart/form-data.", code="unsupported_media_type")
    try:
        return as_json(File.of(await _uploaded(request)))
    except MALFORMED as error:
        raise InvalidRequestError("The body is no multipart/form-data.") from error


async def _uploaded(request: web.Request) -> StoredFile:
    fields: dict[str, str] = {}
    reader = await request.multipart()
    kept = None
    with request.app[FILES].upload(request.get(NAMESPACE, "")) as output:
        while (part := await _timed(request, reader.next())) is not None:
            if not isinstance(part, aiohttp.BodyPartReader):
                raise InvalidRequestError("A field must not have parts.", param="file")
            name = part.name or ""
            if name in fields or (name == "file" and kept is not None):
                raise InvalidRequestError(f"{name[:64]} is there twice.", param=name[:64])
            if name != "file":
                data = await _timed(request, part.read_chunk(MOST_FIELD + 1))
                if len(data) > MOST_FIELD or not part.at_eof():
                    raise InvalidRequestError("A field is too long.", param=name[:64])
                fields[name] = data.decode("utf-8")
                continue
            kept = _name(part.filename)
            while data := await _timed(request, part.read_chunk(PIECE)):
                await asyncio.to_thread(output.write, data)
        purpose, seconds = _checked(fields)
        if kept is None:
            raise InvalidRequestError("`file` is missing.", param="file")
        return await asyncio.to_thread(output.keep, kept, purpose, seconds)


async def _timed(request: web.Request, waiting: Awaitable[Piece]) -> Piece:
    """The next piece of the body."""
    try:
        async with asyncio.timeout(request.app[LIMITS].body_idle_seconds):
            return await waiting
    except TimeoutError:
        raise HttpError(408, "The request body arrived too slowly.", code="body_timeout") from None


def _checked(fields: dict[str, str]) -> tuple[str, int | None]:
    """The purpose, and for how many seconds the file is kept; None for good."""
    purpose = fields.pop("purpose", None)
    if purpose not in PURPOSES:
        raise InvalidRequestError(
            f"`purpose` must be one of {', '.join(PURPOSES)}.", param="purpose"
        )
    anchor = fields.pop("expires_after[anchor]", "created_at")
    if anchor != "created_at":
        raise InvalidRequestError(
            "`expires_after.anchor` must be created_at.", param="expires_after.anchor"
        )
    seconds = fields.pop("expires_after[seconds]", None)
    if fields:
        name = min(fields)[:64]
        raise InvalidRequestError(f"{name} is no field of a file.", param=name)
    if seconds is None:
        return purpose, None
    number = int(seconds) if seconds.isascii() and seconds.isdigit() and len(seconds) < 9 else 0
    if not LEAST_SECONDS <= number <= MOST_SECONDS:
        raise InvalidRequestError(
            f"`expires_after.seconds` must be from {LEAST_SECONDS} to {MOST_SECONDS}.",
            param="expires_after.seconds",
        )
    return purpose, number


def _name(given: str | None) -> str:
    """What a client calls a file; it is only shown."""
    kept = "".join(each for each in given or "" if each.isprintable())
    return kept.encode("utf-8", "replace").decode()[:MOST_NAME] or "file"


@endpoints.get(
    "/v1/files",
    "The files that are kept",
    FileList,
    query={
        "purpose": {"type": "string", "description": "Only those of this purpose."},
        "order": {"enum": ["asc", "desc"], "description": "The newest first, unless it is asc."},
        "limit": limited(MOST_LISTED, MOST_LISTED),
        "after": AFTER,
    },
)
async def list_files(request: web.Request) -> web.Response:
    """The files of an API key, page by page."""
    found = await asyncio.to_thread(request.app[FILES].listed, request.get(NAMESPACE, ""))
    purpose, order = request.query.get("purpose"), request.query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidRequestError("order must be asc or desc.", param="order")
    files = [File.of(file) for file in found if purpose in (None, file.purpose)]
    files = files if order == "asc" else files[::-1]
    shown, more = page(request, files, MOST_LISTED, MOST_LISTED)
    first, last = ends(shown)
    return as_json(FileList(shown, first, last, more))


@endpoints.get("/v1/files/{file_id}", "A file", File, errors=(404,), parameters=ID)
async def get_file(request: web.Request) -> web.Response:
    """What is known of a file."""
    return as_json(File.of(await _found(request)))


@endpoints.get(
    "/v1/files/{file_id}/content",
    "The content of a file",
    content_types=("application/octet-stream",),
    errors=(404,),
    parameters=ID,
)
async def content(request: web.Request) -> web.StreamResponse:
    """The bytes of a file."""
    path = request.app[FILES].path(await _found(request))
    return web.FileResponse(path, headers={"Content-Type": "application/octet-stream"})


@endpoints.delete("/v1/files/{file_id}", "Forget a file", DeletedFile, errors=(404,), parameters=ID)
async def delete_file(request: web.Request) -> web.Response:
    """Forget a file, unless a batch reads it."""
    file = await _found(request)
    if request.app[BATCHES].uses(file.id):
        raise InvalidRequestError(
            "A batch reads this file; cancel it first, or wait for its end.", code="file_in_use"
        )
    await asyncio.to_thread(request.app[FILES].remove, file)
    return as_json(DeletedFile(file.id))


async def _found(request: web.Request) -> StoredFile:
    id = request.match_info["file_id"]
    file = await asyncio.to_thread(request.app[FILES].get, request.get(NAMESPACE, ""), id)
    if file is None:
        raise HttpError(404, "There is no such file.", code="not_found")
    return file
