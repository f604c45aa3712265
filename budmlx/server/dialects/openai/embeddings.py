"""`POST /v1/embeddings`: the vectors of texts."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web
from msgspec import UNSET, Struct, UnsetType
from pydantic import Field

from budmlx.engine.embed.embeddings import MOST_TEXTS, Embeddings
from budmlx.engine.embed.job import Array
from budmlx.engine.embed.texts import Text
from budmlx.server.body import off_loop, parsed
from budmlx.server.dialects.openai.body import Body, PromptId
from budmlx.server.dialects.openai.quirks import ERRORS
from budmlx.server.endpoints import EndpointTable
from budmlx.server.line_request import AnyRequest, LineRequest
from budmlx.server.priority_body import PriorityBody
from budmlx.server.records import ORIGIN
from budmlx.server.security import find_model
from budmlx.server.state import CONFIG, IN_FLIGHT, NAMESPACE
from budmlx.server.wire import ErrorMessage, Int

endpoints = EndpointTable("/v1", ERRORS)

_Text = Annotated[str, Field(json_schema_extra={"minLength": 1})]
_Ids = Annotated[list[PromptId], Field(min_length=1)]
_Texts = Annotated[list[_Text | _Ids], Field(min_length=1, max_length=MOST_TEXTS)]
_EXPECTED = ErrorMessage(
    f"Input should be a string, a list of token ids, or a list of up to {MOST_TEXTS} of either",
    kind="input",
)
Vector = list[float] | str


class EmbeddingRequest(PriorityBody, Body):
    """The body."""

    input: Annotated[_Text | _Ids | _Texts, _EXPECTED] = Field(
        description="Text or token ids, or a list of either, each with a vector of its own."
    )
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="Vectors as lists of numbers, or as little-endian float32 in base64."
    )
    dimensions: Annotated[Int, Field(ge=1)] | None = Field(
        None, description="Cut vectors to so many numbers; they have length 1 again."
    )
    prompt_name: str | None = Field(
        None, description="The model's own prompt that goes before each text, such as `query`."
    )
    input_type: str | None = Field(
        None,
        description="The same as `prompt_name`, which takes precedence; may be `search_query`.",
    )
    truncate: bool = Field(
        False, description="Cut what is longer than the model takes, with a warning."
    )

    def overridden(self) -> Iterator[str]:
        """A warning for each field that another one overrides, if they differ."""
        return self.other_name("input_type", "prompt_name")

    @property
    def is_one(self) -> bool:
        """Whether the input is a single text."""
        return isinstance(self.input, str) or isinstance(self.input[0], int)

    @property
    def texts(self) -> Sequence[Text]:
        """Every text."""
        return [self.input] if self.is_one else self.input  # type: ignore[return-value, list-item]

    @property
    def param(self) -> str:
        """What errors call a text."""
        return "input" if self.is_one else "input[{}]"


class Embedding(Struct, frozen=True, tag="embedding", tag_field="object"):
    """The vector of one text."""

    index: int
    embedding: Vector


class EmbeddingUsage(Struct, frozen=True):
    """Tokens of all texts."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Struct, frozen=True, tag="list", tag_field="object"):
    """The vectors, in the order of the texts."""

    data: Sequence[Embedding]
    model: str
    usage: EmbeddingUsage
    warnings: Sequence[str] | UnsetType = UNSET


@endpoints.post("/v1/embeddings", "Vectors of texts", EmbeddingRequest, EmbeddingList)
async def embeddings(request: web.Request) -> web.Response:
    """The vectors of texts."""
    body, _ = await parsed(request, EmbeddingRequest.parse)
    return await _answered(request, body)


async def answer_line(request: LineRequest, body: dict[str, Any], size: int) -> web.Response:
    """The vectors of texts that came in a file."""
    return await _answered(request, await off_loop(size, EmbeddingRequest.parse, body))


async def _answered(request: AnyRequest, body: EmbeddingRequest) -> web.Response:
    warnings = body.review(strict=request.app[CONFIG].strict)
    model, key = await find_model(request, body.model), request.get(NAMESPACE, "")
    origin = request.get(ORIGIN)
    slot = request.app[IN_FLIGHT].slot(1, key, model=model.name, origin=origin)
    async with slot, model.aengine() as engine:
        found = await engine.aembed(
            body.texts,
            origin=origin,
            dimensions=body.dimensions,
            prompt_name=body.prompt_name or body.input_type,
            truncate=body.truncate,
            owner=key,
            priority=body.priority_in(request),
            adapter=model.adapter,
            param=body.param,
        )
    data = await asyncio.to_thread(_encoded, body, found, model.name, warnings)
    return web.Response(body=data, content_type="application/json")


def _encoded(
    body: EmbeddingRequest, found: Embeddings, model: str, warnings: Sequence[str]
) -> bytes:
    """The JSON of the reply, which takes time with many vectors."""
    reply = EmbeddingList(
        data=[
            Embedding(
                index, _encode(vector) if body.encoding_format == "base64" else vector.tolist()
            )
            for index, vector in enumerate(found.vectors)
        ],
        model=model,
        usage=EmbeddingUsage(found.usage.prompt_tokens, found.usage.total_tokens),
        warnings=[*warnings, *found.warnings] or UNSET,
    )
    return msgspec.json.encode(reply)


def _encode(vector: Array) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
