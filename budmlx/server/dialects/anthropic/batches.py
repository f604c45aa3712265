"""Batches of messages: many requests in one, answered in the background."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web
from msgspec import UNSET, Struct, UnsetType
from pydantic import Field

from budmlx.engine.store.files import FileStore, StoredFile
from budmlx.errors import InvalidRequestError
from budmlx.server.answer import EventStream
from budmlx.server.batches.record import (
    KEPT_SECONDS,
    MOST_ID,
    MOST_LINES,
    Batch,
    InputLine,
    RequestCounts,
    check_lines,
    read_lines,
)
from budmlx.server.batches.runner import BATCHES, OWN_INPUT
from budmlx.server.body import parsed
from budmlx.server.dialects.anthropic.errors import STATUSES, ErrorOfMessages, MessagesError
from budmlx.server.endpoints import EndpointTable
from budmlx.server.errors import Failure, HttpError
from budmlx.server.json_reply import as_json
from budmlx.server.pages import ends, limited, page
from budmlx.server.state import CONFIG, FILES, LIMITS, NAMESPACE
from budmlx.server.strict_body import StrictBody

MESSAGES = "/v1/messages"
MOST_LISTED = 1000
USUALLY_LISTED = 20
PIECE = 2**18
"""Bytes of results that are read at once, about."""
ID = {"batch_id": "Of a batch."}
JSON_LINES = "application/x-jsonl"

endpoints = EndpointTable("/v1", STATUSES)


class BatchedRequest(StrictBody):
    """One request."""

    custom_id: Annotated[str, Field(min_length=1, max_length=MOST_ID)] = Field(
        description="Its name, another one for each request."
    )
    params: dict[str, Any] = Field(description="What `/v1/messages` takes, without `stream`.")


class MessageBatchRequest(StrictBody):
    """The body."""

    requests: Annotated[list[BatchedRequest], Field(min_length=1, max_length=MOST_LINES)] = Field(
        description="What is asked."
    )


class MessageBatchCounts(Struct, frozen=True):
    """Numbers of requests, by what became of them."""

    processing: int
    succeeded: int
    errored: int
    canceled: int
    expired: int

    @classmethod
    def of(cls, batch: Batch) -> MessageBatchCounts:
        """Those of a batch."""
        counts, status = batch.request_counts, batch.status
        left = counts.total - counts.completed - counts.failed
        if status == "failed":
            return cls(0, 0, counts.total, 0, 0)
        canceled = left if status == "cancelled" else 0
        expired = left if status == "expired" else 0
        processing = left - canceled - expired
        return cls(processing, counts.completed, counts.failed, canceled, expired)


class MessageBatch(Struct, frozen=True, kw_only=True, tag_field="type", tag="message_batch"):
    """A batch of messages. Times are of UTC. results_url: a path of this server."""

    id: str
    processing_status: Literal["in_progress", "canceling", "ended"]
    request_counts: MessageBatchCounts
    created_at: str
    expires_at: str
    ended_at: str | None
    cancel_initiated_at: str | None
    archived_at: str | None = None
    results_url: str | None

    @classmethod
    def of(cls, batch: Batch) -> MessageBatch:
        """The same batch on the wire."""
        ended = batch.completed_at or batch.cancelled_at or batch.expired_at or batch.failed_at
        running: Literal["in_progress", "canceling"] = (
            "canceling" if batch.status == "cancelling" else "in_progress"
        )
        return cls(
            id=batch.id,
            processing_status="ended" if batch.over else running,
            request_counts=MessageBatchCounts.of(batch),
            created_at=_time(batch.created_at),
            expires_at=_time(batch.expires_at),
            ended_at=_time(ended) if ended else None,
            cancel_initiated_at=_time(batch.cancelling_at) if batch.cancelling_at else None,
            results_url=f"{MESSAGES}/batches/{batch.id}/results" if batch.over else None,
        )


class MessageBatchList(Struct, frozen=True):
    """Batches of messages, the newest first."""

    data: Sequence[MessageBatch]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedMessageBatch(Struct, frozen=True, tag_field="type", tag="message_batch_deleted"):
    """A batch that is gone."""

    id: str


class Succeeded(Struct, frozen=True, tag_field="type", tag="succeeded"):
    """A reply. warnings: what had no effect."""

    message: msgspec.Raw
    warnings: Sequence[str] | UnsetType = UNSET


class Errored(Struct, frozen=True, tag_field="type", tag="errored"):
    """A request that failed. error: the body of the reply."""

    error: msgspec.Raw | MessagesError


class Canceled(Struct, frozen=True, tag_field="type", tag="canceled"):
    """A request that was not answered before its batch was cancelled."""


class Expired(Struct, frozen=True, tag_field="type", tag="expired"):
    """A request that was not answered in time."""


class Result(Struct, frozen=True):
    """A line of the results."""

    custom_id: str
    result: Succeeded | Errored | Canceled | Expired


class _Reply(Struct, frozen=True):
    status_code: int
    body: msgspec.Raw
    warnings: Sequence[str] | UnsetType = UNSET


class _Problem(Struct, frozen=True):
    code: str
    message: str


class _Line(Struct, frozen=True):
    """A line of a file that a batch has written."""

    custom_id: str
    response: _Reply | None
    error: _Problem | None

    def result(self) -> Result:
        """The same on the wire."""
        if (reply := self.response) is not None:
            if reply.status_code < 400:
                return Result(self.custom_id, Succeeded(reply.body, reply.warnings))
            return Result(self.custom_id, Errored(reply.body))
        assert self.error is not None
        if self.error.code == "batch_cancelled":
            return Result(self.custom_id, Canceled())
        return Result(self.custom_id, Expired())


class _Results:
    """The `StreamEncoder` of results."""

    headers: Mapping[str, str] = {}
    stream_type = JSON_LINES

    def opening(self) -> bytes:
        """Nothing."""
        return b""

    def keep_alive(self) -> bytes:
        """Nothing: the lines are there already."""
        return b""


@endpoints.post(
    "/v1/messages/batches", "Answer many conversations", MessageBatchRequest, MessageBatch
)
async def create(request: web.Request) -> web.Response:
    """Begin a batch. Nothing of it is answered if one of its requests is none."""
    body, _ = await parsed(request, MessageBatchRequest.parse)
    files, owner = request.app[FILES], request.get(NAMESPACE, "")
    file, count = await asyncio.to_thread(_kept, files, owner, body.requests)
    try:
        batch = await request.app[BATCHES].create(
            owner, MESSAGES, file.id, request_counts=RequestCounts(count)
        )
    except InvalidRequestError:
        await asyncio.to_thread(files.remove, file)
        raise
    return as_json(MessageBatch.of(batch))


def _kept(
    files: FileStore, owner: str, requests: Sequence[BatchedRequest]
) -> tuple[StoredFile, int]:
    """A file of the requests, and their number. Raises InvalidRequestError."""
    with files.upload(owner) as output:
        for each in requests:
            line = {"custom_id": each.custom_id, "method": "POST", "url": MESSAGES}
            text = json.dumps({**line, "body": each.params}, ensure_ascii=False)
            output.write(text.encode() + b"\n")
        file = output.keep("requests.jsonl", OWN_INPUT, KEPT_SECONDS)
    count, errors = check_lines(files.path(file), MESSAGES)
    if errors is None:
        return file, count
    files.remove(file)
    problem = errors.data[0]
    place = f"requests[{(problem.line or 1) - 1}]"
    param = place if problem.param is None else f"{place}.{problem.param}"
    raise InvalidRequestError(problem.message, param=param)


@endpoints.get(
    "/v1/messages/batches",
    "The batches of messages that there are",
    MessageBatchList,
    query={
        "limit": limited(MOST_LISTED, USUALLY_LISTED),
        "after_id": {"type": "string", "description": "Only those after the batch of this id."},
        "before_id": {"type": "string", "description": "Only those before it."},
    },
)
async def list_batches(request: web.Request) -> web.Response:
    """The batches of an API key, page by page."""
    found = await request.app[BATCHES].listed(request.get(NAMESPACE, ""))
    own = [MessageBatch.of(batch) for batch in found if batch.endpoint == MESSAGES]
    shown, more = page(
        request, own, MOST_LISTED, USUALLY_LISTED, after="after_id", before="before_id"
    )
    first, last = ends(shown)
    return as_json(MessageBatchList(shown, first, last, more))


@endpoints.get(
    "/v1/messages/batches/{batch_id}",
    "A batch of messages",
    MessageBatch,
    errors=(404,),
    parameters=ID,
)
async def get_batch(request: web.Request) -> web.Response:
    """A batch as it is now."""
    return as_json(MessageBatch.of(await _found(request)))


@endpoints.act(
    "/v1/messages/batches/{batch_id}/cancel",
    "End a batch of messages early",
    MessageBatch,
    errors=(404,),
    parameters=ID,
)
async def cancel_batch(request: web.Request) -> web.Response:
    """Answer no further request of a batch; one that has ended stays as it is."""
    owner, batch = request.get(NAMESPACE, ""), await _found(request)
    return as_json(MessageBatch.of(await request.app[BATCHES].cancel(owner, batch.id)))


@endpoints.delete(
    "/v1/messages/batches/{batch_id}",
    "Forget a batch of messages",
    DeletedMessageBatch,
    errors=(404,),
    parameters=ID,
)
async def delete_batch(request: web.Request) -> web.Response:
    """Forget a batch that has ended, and its results."""
    batch = await _found(request)
    await request.app[BATCHES].delete(request.get(NAMESPACE, ""), batch.id)
    return as_json(DeletedMessageBatch(batch.id))


@endpoints.get(
    "/v1/messages/batches/{batch_id}/results",
    "The results of a batch of messages",
    content_types=(JSON_LINES,),
    errors=(404,),
    parameters=ID,
)
async def results(request: web.Request) -> web.StreamResponse:
    """What became of each request of a batch that has ended, one in a line, in any order."""
    batch = await _found(request)
    if not batch.over:
        raise HttpError(404, "The batch has not ended.", code="not_found")
    lines = _lines(batch, await asyncio.to_thread(_files, request, batch))
    sender = EventStream(request, _Results(), request.app[CONFIG], request.app[LIMITS])
    async with sender:
        await sender.start()
        while piece := await asyncio.to_thread(_piece, lines):
            await sender.send(piece)
    assert sender.response is not None
    return sender.response


async def _found(request: web.Request) -> Batch:
    owner, id = request.get(NAMESPACE, ""), request.match_info["batch_id"]
    batch = await request.app[BATCHES].get(owner, id)
    if batch.endpoint != MESSAGES:
        raise HttpError(404, "There is no such batch of messages.", code="not_found")
    return batch


def _files(request: web.Request, batch: Batch) -> Sequence[Path]:
    """The files that tell the results. Raises HttpError if one is gone."""
    failed = batch.status == "failed"
    ids = (batch.input_file_id,) if failed else (batch.output_file_id, batch.error_file_id)
    files, owner = request.app[FILES], request.get(NAMESPACE, "")
    found = [files.get(owner, id) for id in ids if id is not None]
    paths = [files.path(file) for file in found if file is not None]
    if len(paths) < len(found):
        raise HttpError(404, "The results are not kept any more.", code="not_found")
    return paths


def _lines(batch: Batch, paths: Sequence[Path]) -> Iterator[bytes]:
    """The lines of the results. Raises OSError."""
    if batch.status == "failed":
        message = batch.errors.data[0].message if batch.errors else "The batch failed."
        error = MessagesError(ErrorOfMessages.of(Failure(500, message)))
        for line in read_lines(paths[0], MESSAGES):
            if isinstance(line, InputLine):
                yield msgspec.json.encode(Result(line.custom_id, Errored(error))) + b"\n"
        return
    for path in paths:
        with path.open("rb") as file:
            for raw in file:
                result = msgspec.json.decode(raw, type=_Line).result()
                yield msgspec.json.encode(result) + b"\n"


def _piece(lines: Iterator[bytes]) -> bytes:
    piece = bytearray()
    for line in lines:
        piece += line
        if len(piece) >= PIECE:
            break
    return bytes(piece)


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
