"""Batches: requests in a file, answered in the background."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from aiohttp import web
from msgspec import Struct
from pydantic import Field

from budmlx.server.batches.record import Batch
from budmlx.server.batches.runner import BATCHES
from budmlx.server.body import parsed
from budmlx.server.dialects.openai.files import LEAST_SECONDS, MOST_SECONDS
from budmlx.server.dialects.openai.quirks import ERRORS
from budmlx.server.endpoints import EndpointTable
from budmlx.server.json_reply import as_json
from budmlx.server.pages import AFTER, ends, limited, page
from budmlx.server.state import NAMESPACE
from budmlx.server.strict_body import StrictBody

MOST_LISTED = 100
USUALLY_LISTED = 20
ID = {"batch_id": "Of a batch."}

endpoints = EndpointTable("/v1", ERRORS)

_Key = Annotated[str, Field(max_length=64)]
_Value = Annotated[str, Field(max_length=512)]


class ExpiresAfter(StrictBody):
    """When the files of replies expire."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=LEAST_SECONDS, le=MOST_SECONDS)]


class BatchRequest(StrictBody):
    """The body."""

    input_file_id: str = Field(description="A file of requests, one in a line.")
    endpoint: str = Field(description="What all of them ask.")
    completion_window: Literal["24h"] = Field(description="Later no further line is answered.")
    metadata: Annotated[dict[_Key, _Value], Field(max_length=16)] | None = Field(
        None, description="Comes back with the batch."
    )
    output_expires_after: ExpiresAfter | None = Field(
        None, description="How long the files of replies are kept; 30 days if absent."
    )


class BatchList(Struct, frozen=True):
    """Batches, the newest first."""

    data: Sequence[Batch]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: Literal["list"] = "list"


@endpoints.post("/v1/batches", "Answer the requests of a file", BatchRequest, Batch, brief=True)
async def create(request: web.Request) -> web.Response:
    """Begin a batch."""
    body, _ = await parsed(request, BatchRequest.parse)
    expires = body.output_expires_after
    batch = await request.app[BATCHES].create(
        request.get(NAMESPACE, ""),
        body.endpoint,
        body.input_file_id,
        metadata=body.metadata,
        output_expires_after=None if expires is None else expires.seconds,
    )
    return as_json(batch)


@endpoints.get(
    "/v1/batches",
    "The batches that there are",
    BatchList,
    query={"limit": limited(MOST_LISTED, USUALLY_LISTED), "after": AFTER},
)
async def list_batches(request: web.Request) -> web.Response:
    """The batches of an API key, page by page."""
    found = await request.app[BATCHES].listed(request.get(NAMESPACE, ""))
    shown, more = page(request, found, MOST_LISTED, USUALLY_LISTED)
    first, last = ends(shown)
    return as_json(BatchList(shown, first, last, more))


@endpoints.get("/v1/batches/{batch_id}", "A batch", Batch, errors=(404,), parameters=ID)
async def get_batch(request: web.Request) -> web.Response:
    """A batch as it is now."""
    owner, id = request.get(NAMESPACE, ""), request.match_info["batch_id"]
    return as_json(await request.app[BATCHES].get(owner, id))


@endpoints.act(
    "/v1/batches/{batch_id}/cancel", "End a batch early", Batch, errors=(404,), parameters=ID
)
async def cancel_batch(request: web.Request) -> web.Response:
    """Answer no further line of a batch; one that is over stays as it is."""
    owner, id = request.get(NAMESPACE, ""), request.match_info["batch_id"]
    return as_json(await request.app[BATCHES].cancel(owner, id))
