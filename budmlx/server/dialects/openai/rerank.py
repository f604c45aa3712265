"""`POST /v1/rerank`, `/v2/rerank` and `/rerank`: documents sorted by how well they answer."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from itertools import chain
from typing import Annotated

from aiohttp import web
from msgspec import UNSET, Struct, UnsetType
from pydantic import Field

from budmlx.engine.embed.embeddings import MOST_TEXTS
from budmlx.engine.embed.rerank import INSTRUCT
from budmlx.server.body import parsed
from budmlx.server.dialects.openai.body import Body
from budmlx.server.dialects.openai.quirks import ERRORS
from budmlx.server.endpoints import EndpointTable
from budmlx.server.json_reply import as_json
from budmlx.server.priority_body import PriorityBody
from budmlx.server.records import ORIGIN
from budmlx.server.security import find_model
from budmlx.server.state import CONFIG, IN_FLIGHT, NAMESPACE
from budmlx.server.wire import Int, WireModel

_first = EndpointTable("/v1", ERRORS)
_second = EndpointTable("", ERRORS)


class Document(WireModel):
    """A document as an object."""

    text: str = Field(description="Its text.")


class RerankRequest(PriorityBody, Body):
    """The body."""

    query: Annotated[str, Field(min_length=1, description="What the documents should answer.")]
    documents: Annotated[
        list[str | Document],
        Field(min_length=1, max_length=MOST_TEXTS, description="Texts, or objects with a `text`."),
    ]
    top_n: Annotated[Int, Field(ge=1)] | None = Field(
        None, description="Tell so many of the best; all if it is left out."
    )
    instruction: str = Field(
        INSTRUCT, description="What relevant means, for models that are asked in words."
    )
    truncate: bool = Field(
        False, description="Cut documents that are longer than the model takes, with a warning."
    )
    return_documents: bool = Field(False, description="Tell the text of each document, too.")

    @property
    def texts(self) -> list[str]:
        """The text of each document."""
        return [each if isinstance(each, str) else each.text for each in self.documents]


class DocumentText(Struct, frozen=True):
    """A document's text, where it was asked for."""

    text: str


class RankedDocument(Struct, frozen=True):
    """A document by its place in the request. relevance_score: from 0 to 1."""

    index: int
    relevance_score: float
    document: DocumentText | UnsetType = UNSET


class RerankUsage(Struct, frozen=True):
    """Tokens of all prompts."""

    total_tokens: int


class RerankReply(Struct, frozen=True):
    """The documents, the best first."""

    id: str
    model: str
    results: Sequence[RankedDocument]
    usage: RerankUsage
    warnings: Sequence[str] | UnsetType = UNSET


async def rerank(request: web.Request) -> web.Response:
    """Sort documents by how well they answer a query."""
    body, _ = await parsed(request, RerankRequest.parse)
    warnings = body.review(strict=request.app[CONFIG].strict)
    model, key = await find_model(request, body.model), request.get(NAMESPACE, "")
    origin = request.get(ORIGIN)
    slot = request.app[IN_FLIGHT].slot(1, key, model=model.name, origin=origin)
    async with slot, model.aengine() as engine:
        found = await engine.arerank(
            body.query,
            body.texts,
            origin=origin,
            top_n=body.top_n,
            instruction=body.instruction,
            truncate=body.truncate,
            owner=key,
            priority=body.priority_in(request),
            adapter=model.adapter,
        )
    texts = [DocumentText(text) if body.return_documents else UNSET for text in body.texts]
    reply = RerankReply(
        id=f"rerank-{secrets.token_hex(12)}",
        model=model.name,
        results=[RankedDocument(n, score, texts[n]) for n, score in found.results],
        usage=RerankUsage(found.usage.total_tokens),
        warnings=[*warnings, *found.warnings] or UNSET,
    )
    return as_json(reply)


_SUMMARY = "Documents sorted by how well they answer"
_first.post("/v1/rerank", _SUMMARY, RerankRequest, RerankReply)(rerank)
_second.post("/v2/rerank", _SUMMARY, RerankRequest, RerankReply)(rerank)
endpoints = [*chain(_first, _second)]
