"""Endpoints of responses that are kept: ask for them, cancel and delete them, list their input."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from aiohttp import web
from msgspec import Struct

from budmlx.errors import InvalidRequestError
from budmlx.server.dialects.responses.create import EVENTS
from budmlx.server.dialects.responses.jobs import stream_frames, stream_job
from budmlx.server.dialects.responses.shapes import Response
from budmlx.server.dialects.responses.state import JOBS, KEPT
from budmlx.server.endpoints import EndpointTable
from budmlx.server.json_reply import as_json
from budmlx.server.state import NAMESPACE

MOST_LISTED = 100
ID = {"response_id": "Of a response that is stored."}

endpoints = EndpointTable("/v1")


class DeletedResponse(Struct, frozen=True):
    """A response that is gone."""

    id: str
    object: Literal["response"] = "response"
    deleted: bool = True


class InputItems(Struct, frozen=True):
    """The items that came with the request of a response."""

    data: Sequence[Mapping[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: Literal["list"] = "list"


@endpoints.get(
    "/v1/responses/{response_id}",
    "A stored response, or the stream of one that was made in the background",
    Response,
    streamed=EVENTS,
    errors=(404,),
    parameters=ID,
    query={
        "stream": {"type": "boolean", "description": "Send the events of its stream."},
        "starting_after": {
            "type": "integer",
            "description": "Only those after the event of this number.",
        },
    },
)
async def get_response(request: web.Request) -> web.StreamResponse:
    """A response as it is now, or its stream from any place."""
    owner, id = request.get(NAMESPACE, ""), request.match_info["response_id"]
    streaming, after = _flag(request, "stream"), _number(request, "starting_after", -1)
    if (job := request.app[JOBS].get(owner, id)) is not None:
        if streaming:
            return await stream_job(request, job, after)
        return as_json(job.builder.response)
    record = await asyncio.to_thread(request.app[KEPT].get, owner, id)
    if not streaming:
        return as_json(record.response)
    if not record.frames:
        raise InvalidRequestError(
            "Only the stream of a response that was made in the background can be asked for again.",
            param="stream",
        )
    return await stream_frames(request, record.frames[after + 1 :])


@endpoints.delete(
    "/v1/responses/{response_id}",
    "Forget a stored response",
    DeletedResponse,
    errors=(404,),
    parameters=ID,
)
async def delete_response(request: web.Request) -> web.Response:
    """Forget a response; one that is being made is cancelled before."""
    owner, id = request.get(NAMESPACE, ""), request.match_info["response_id"]
    await request.app[JOBS].cancel(owner, id)
    await asyncio.to_thread(request.app[KEPT].delete, owner, id)
    return as_json(DeletedResponse(id))


@endpoints.act(
    "/v1/responses/{response_id}/cancel",
    "Cancel a response that is made in the background",
    Response,
    errors=(404,),
    parameters=ID,
)
async def cancel_response(request: web.Request) -> web.Response:
    """End a response early; one that is over stays as it is."""
    owner, id = request.get(NAMESPACE, ""), request.match_info["response_id"]
    await request.app[JOBS].cancel(owner, id)
    record = await asyncio.to_thread(request.app[KEPT].get, owner, id)
    if not record.response.background:
        raise InvalidRequestError(
            "Only a response that is made in the background can be cancelled; to end another one, "
            "close its connection.",
            param="response_id",
        )
    return as_json(record.response)


@endpoints.get(
    "/v1/responses/{response_id}/input_items",
    "The items that came with the request of a response",
    InputItems,
    errors=(404,),
    parameters=ID,
    query={
        "limit": {"type": "integer", "description": f"At most so many, up to {MOST_LISTED}."},
        "order": {"enum": ["asc", "desc"], "description": "The last ones first, unless it is asc."},
        "after": {"type": "string", "description": "Only those after the item of this id."},
    },
)
async def input_items(request: web.Request) -> web.Response:
    """The input of a response, page by page."""
    owner, id = request.get(NAMESPACE, ""), request.match_info["response_id"]
    record = await asyncio.to_thread(request.app[KEPT].get, owner, id)
    items = list(record.input)
    order = request.query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidRequestError("order must be asc or desc.", param="order")
    if order == "desc":
        items.reverse()
    after = request.query.get("after")
    if after is not None:
        place = next((n for n, item in enumerate(items) if item["id"] == after), None)
        if place is None:
            raise InvalidRequestError("after is not the id of an item.", param="after")
        items = items[place + 1 :]
    limit = _number(request, "limit", 20)
    if not 1 <= limit <= MOST_LISTED:
        raise InvalidRequestError(f"limit must be from 1 to {MOST_LISTED}.", param="limit")
    page = items[:limit]
    first, last = (page[0]["id"], page[-1]["id"]) if page else (None, None)
    return as_json(InputItems(page, first, last, len(items) > limit))


def _flag(request: web.Request, name: str) -> bool:
    text = request.query.get(name, "false").lower()
    if text not in ("true", "false", "1", "0"):
        raise InvalidRequestError(f"{name} must be true or false.", param=name)
    return text in ("true", "1")


def _number(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise InvalidRequestError(f"{name} must be a whole number.", param=name)
    return int(text)
