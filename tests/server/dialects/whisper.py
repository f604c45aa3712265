"""A small dialect that shares nothing with the others: NDJSON, its own key and its own errors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from functools import partial
from typing import Any, ClassVar

from aiohttp import web
from msgspec import Struct
from multidict import CIMultiDictProxy
from pydantic import BaseModel

from budmlx.engine.engine import Engine
from budmlx.engine.models.resident import Resident
from budmlx.engine.reply.completion import completion
from budmlx.server import answer
from budmlx.server.body import parsed
from budmlx.server.dialects.base import Dialect
from budmlx.server.endpoints import Endpoint, EndpointTable, Streamed
from budmlx.server.errors import Failure
from budmlx.server.state import MODELS
from budmlx.types import Completion, Event, Request, SamplingParams, TextDelta

TABLE = EndpointTable(body_errors={418: "It is a teapot."})


class Whisper(BaseModel):
    """A request. pause: seconds before the first word."""

    text: str
    words: int = 5
    stream: bool = True
    pause: float = 0.0


class Line(Struct):
    """One line, or the whole reply."""

    number: int
    text: str


class Hush(Struct):
    """An error."""

    hush: str
    id: str


class Lines:
    """Encodes lines that are numbered in the order in which they are written."""

    id = ""
    stream_type = "application/x-ndjson"
    headers: Mapping[str, str] = {"X-Whisper": "yes"}

    def __init__(self, breaks: bool, model: Resident):
        self._breaks = breaks
        self._model = model
        self._number = 0

    def _line(self, **fields: Any) -> bytes:
        self._number += 1
        return json.dumps({"number": self._number, **fields}).encode() + b"\n"

    def opening(self) -> bytes:
        return self._line(text="", opens=True)

    def keep_alive(self) -> bytes:
        return self._line(text="")

    def chunks(self, event: Event) -> bytes:
        if self._breaks:
            raise RuntimeError("a bug of the encoder")
        return self._line(text=event.text) if isinstance(event, TextDelta) else b""

    def end(self) -> bytes:
        return self._line(text="", done=True)

    def failure(self, failure: Failure) -> bytes:
        return self._line(hush=failure.message)

    def whole(self, done: Completion) -> bytes:
        # Encoders may use the engine.
        assert self._model.users == 1
        return self._line(text=done.text)


@TABLE.post(
    "/whisper/v1/say",
    "Whisper",
    Whisper,
    reply=Line,
    streamed=Streamed("application/x-ndjson", "One a line.", Line),
)
async def say(request: web.Request) -> web.StreamResponse:
    asked, _ = await parsed(request, Whisper.model_validate)
    model = await request.app[MODELS].afind("demo")
    sampling = SamplingParams(temperature=0, max_tokens=asked.words)

    async def run(engine: Engine) -> answer.Events:
        return _after(asked.pause, engine.aevents(Request(prompt=asked.text, sampling=sampling)))

    encoder = Lines(breaks=asked.text == "break", model=model.resident)
    if asked.stream:
        return await answer.streamed(request, model, encoder, run)
    return await answer.whole(request, model, encoder, run, partial(completion, "whisper", ()))


async def _after(pause: float, events: AsyncIterator[Event]) -> AsyncIterator[Event]:
    await asyncio.sleep(pause)
    async for event in events:
        yield event


class WhisperDialect(Dialect):
    roots = ("/whisper",)
    introduction = "It also whispers."
    error_reply = Hush
    key_schemes: ClassVar = {
        "whispered": {"type": "apiKey", "in": "header", "name": "x-whisper-key"}
    }
    key_help = "Whisper the key as x-whisper-key."

    @property
    def endpoints(self) -> Iterable[Endpoint]:
        return TABLE

    def keys(self, headers: CIMultiDictProxy[str]) -> Iterable[str]:
        return headers.getall("x-whisper-key", [])

    def error(self, request: web.BaseRequest, failure: Failure) -> web.Response:
        body = {"hush": failure.message, "id": request.headers.get("X-Request-Id", "")}
        return web.json_response(body, status=failure.status, headers=failure.headers)

    def not_found(self, path: str) -> Failure:
        return Failure(404, f"nobody whispers at {path}")
