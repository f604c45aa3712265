"""`POST /api/embed`, and `/api/embeddings`, its older name: the vectors of texts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar

from aiohttp import web
from msgspec import Struct
from pydantic import Field

from budmlx.engine.embed.embeddings import MOST_TEXTS, Embeddings
from budmlx.server.dialects.ollama.keep_alive import KeepAlive, granted
from budmlx.server.dialects.ollama.names import meant
from budmlx.server.dialects.ollama.reply import nanoseconds
from budmlx.server.dialects.ollama.request_body import read
from budmlx.server.endpoints import EndpointTable
from budmlx.server.json_reply import as_json
from budmlx.server.priority_body import PriorityBody
from budmlx.server.records import ORIGIN
from budmlx.server.security import find_model
from budmlx.server.state import CONFIG, IN_FLIGHT, MODELS, NAMESPACE
from budmlx.server.unknown_fields import KnownFields
from budmlx.server.warnings_header import warnings_header
from budmlx.server.wire import Body, ErrorMessage, Int, Text

_EXPECTED = ErrorMessage(
    f"Input should be a string or a list of up to {MOST_TEXTS} strings", kind="input"
)

endpoints = EndpointTable()


class _EmbedBody(PriorityBody, Body):
    known: ClassVar = KnownFields(without_effect=frozenset({"truncate"}))

    keep_alive: KeepAlive | None = Field(
        None, description="See the body of a chat; needs admin rights."
    )
    options: dict[str, Any] = Field({}, description="Changes nothing.")

    def overridden(self) -> Iterator[str]:
        """A warning for each option."""
        for name, value in self.options.items():
            if value is not None:
                yield f"`options.{name}` has no effect on vectors."


class OllamaEmbed(_EmbedBody):
    """The body."""

    input: Annotated[Text | Annotated[list[Text], Field(max_length=MOST_TEXTS)], _EXPECTED] = Field(
        "", description="Text, or a list of texts; without any, the model is only loaded."
    )
    truncate: bool = Field(True, description="Cut what is longer than the model takes.")
    dimensions: Annotated[Int, Field(ge=1)] | None = Field(
        None, description="Cut vectors to so many numbers; they have length 1 again."
    )
    prompt_name: str | None = Field(
        None, description="The model's own prompt that goes before each text, such as `query`."
    )


class OllamaEmbeddings(_EmbedBody):
    """The body of the older name."""

    prompt: Text = Field("", description="Text; without any, the model is only loaded.")


class EmbedReply(Struct, frozen=True):
    """The vectors, in the order of the texts. Durations are in nanoseconds.

    load_duration: in the queue, or while the model was loaded.
    """

    model: str
    embeddings: Sequence[Sequence[float]]
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class EmbeddingsReply(Struct, frozen=True):
    """The vector."""

    embedding: Sequence[float]


@endpoints.post("/api/embed", "Vectors of texts, as Ollama makes them", OllamaEmbed, EmbedReply)
async def embed(request: web.Request) -> web.Response:
    """The vectors of texts."""
    body, _ = await read(request, OllamaEmbed.parse)
    texts = [body.input] if isinstance(body.input, str) else body.input
    options = {
        "dimensions": body.dimensions,
        "prompt_name": body.prompt_name,
        "truncate": body.truncate,
        "param": "input" if isinstance(body.input, str) else "input[{}]",
    }
    begin = time.monotonic()
    found, warnings = await _found(request, body, [] if texts == [""] else texts, options)
    total = time.monotonic() - begin
    busy = found.timing.total - found.timing.queue if found else 0.0
    reply = EmbedReply(
        model=body.model,
        embeddings=await _numbers(found),
        total_duration=nanoseconds(total),
        load_duration=nanoseconds(max(0.0, total - busy)),
        prompt_eval_count=found.usage.prompt_tokens if found else 0,
    )
    return await asyncio.to_thread(as_json, reply, warnings_header(warnings))


@endpoints.post("/api/embeddings", "The vector of a text", OllamaEmbeddings, EmbeddingsReply)
async def embeddings(request: web.Request) -> web.Response:
    """The vector of a text."""
    body, _ = await read(request, OllamaEmbeddings.parse)
    texts = [body.prompt] if body.prompt else []
    found, warnings = await _found(request, body, texts, {"truncate": True, "param": "prompt"})
    vectors = await _numbers(found)
    reply = EmbeddingsReply(vectors[0] if vectors else [])
    return await asyncio.to_thread(as_json, reply, warnings_header(warnings))


async def _found(
    request: web.Request, body: _EmbedBody, texts: Sequence[str], options: dict[str, Any]
) -> tuple[Embeddings | None, list[str]]:
    """The vectors, or None without texts, and warnings."""
    warnings = body.review(strict=request.app[CONFIG].strict)
    key = request.get(NAMESPACE, "")
    model = await find_model(request, meant(body.model, request.app[MODELS]))
    keep = granted(request, body.keep_alive, warnings)
    if not texts and body.keep_alive == 0:
        if keep is not None:
            model.keep(keep)
        return None, warnings
    found = None
    origin = request.get(ORIGIN)
    slot = request.app[IN_FLIGHT].slot(1, key, model=model.name, origin=origin)
    async with slot, model.aengine() as engine:
        if keep is not None:
            model.keep(keep)
        if texts:
            own = {
                "owner": key,
                "priority": body.priority_in(request),
                "adapter": model.adapter,
                **options,
            }
            found = await engine.aembed(texts, origin=origin, **own)
    return found, [*warnings, *(found.warnings if found else ())]


async def _numbers(found: Embeddings | None) -> list[list[float]]:
    """The vectors as lists, which takes time with many."""
    return await asyncio.to_thread(found.vectors.tolist) if found else []
