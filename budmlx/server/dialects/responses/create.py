"""`POST /v1/responses`: answers the items of a conversation."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any, cast

import msgspec
from aiohttp import web

from budmlx.engine.engine import Engine
from budmlx.engine.reply.completion import completion
from budmlx.errors import InvalidRequestError
from budmlx.server import answer
from budmlx.server.body import off_loop, parsed
from budmlx.server.dialects.responses.body import ResponsesRequest
from budmlx.server.dialects.responses.conversation import Conversation
from budmlx.server.dialects.responses.reply import ReplyBuilder, framed, new_id, now
from budmlx.server.dialects.responses.shapes import Response, ResponseEvent
from budmlx.server.dialects.responses.tools import Toolbox
from budmlx.server.endpoints import EndpointTable, Streamed
from budmlx.server.errors import Failure
from budmlx.server.records import ORIGIN
from budmlx.server.sealed import Sealer
from budmlx.server.state import CONFIG, MODELS, NAMESPACE, SEALER
from budmlx.server.warnings_header import warnings_header
from budmlx.types import Completion, Event, Request

EVENTS = Streamed(
    "text/event-stream",
    "Server-sent events, each with its type as `event:` and the JSON of a ResponseEvent as "
    "`data:`. The last one is `response.completed`, `response.incomplete` or `response.failed`. "
    "While nothing happens, `response.in_progress` is repeated.",
    ResponseEvent,
)

endpoints = EndpointTable("/v1")


class Asked:
    """A request for a response: what was asked, in the client's terms and in the engine's.

    Raises InvalidRequestError naming what is wrong.
    """

    def __init__(self, raw: Mapping[str, Any], sealer: Sealer):
        self.raw = raw
        self.body = body = ResponsesRequest.parse(raw)
        self.toolbox = Toolbox(body.tools)
        choice = self.toolbox.choice(body.tool_choice)
        self.conversation = Conversation(body.instructions, self.toolbox, sealer)
        self.conversation.add(body.input)
        if not self.conversation.messages:
            raise InvalidRequestError("`input` must hold something.", param="input")
        self.request = Request(
            messages=tuple(self.conversation.messages),
            sampling=body.to_sampling(),
            given=body.given,
            tools=self.toolbox.tools,
            tool_choice=choice,
            parallel_tool_calls=body.parallel_tool_calls,
            response_format=body.text.to_format(),
            chat_template_kwargs=body.template_kwargs,
            cache=body.cache,
            cache_salt=body.cache_salt,
            explain_cache=body.explain_cache,
        )

    def warnings(self, *, strict: bool, streaming: bool) -> list[str]:
        """Warnings about what has no effect. Raises InvalidRequestError, see `Body.review`."""
        found = self.body.review(strict=strict, streaming=streaming)
        return [*found, *self.toolbox.warnings, *self.conversation.warnings]

    def response(self) -> Response:
        """The response before anything is written."""
        body, raw = self.body, self.raw
        text = raw.get("text") or {}
        return Response(
            id=new_id(),
            object="response",
            created_at=now(),
            status="in_progress",
            background=False,
            error=None,
            incomplete_details=None,
            instructions=body.instructions,
            max_output_tokens=body.max_output_tokens,
            metadata=body.metadata,
            model=body.model,
            output=(),
            parallel_tool_calls=body.parallel_tool_calls,
            previous_response_id=None,
            reasoning={"effort": body.reasoning.effort, "summary": body.reasoning.summary},
            service_tier="default",
            store=False,
            temperature=self.request.sampling.temperature,
            text={**text, "format": text.get("format") or {"type": "text"}},
            tool_choice=raw.get("tool_choice") or "auto",
            tools=_flat(raw.get("tools") or ()),
            top_p=self.request.sampling.top_p,
            truncation="disabled",
            usage=None,
            user=body.user,
        )


def _flat(tools: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Tools as the protocol has them: without an object around a function."""
    flat = []
    for tool in tools:
        function = tool.get("function")
        rest = {key: value for key, value in tool.items() if key != "function"}
        flat.append({**rest, **function} if isinstance(function, dict) else tool)
    return flat


class Reply:
    """The `ReplyEncoder` of one response. warnings: known so far; `loaded` adds to this list."""

    stream_type = "text/event-stream"

    def __init__(self, builder: ReplyBuilder, warnings: list[str]):
        self._builder = builder
        self._warnings = warnings
        self._events: list[ResponseEvent] = []
        self._sent = 0

    @property
    def id(self) -> str:
        """The id of the response."""
        return self._builder.response.id

    @property
    def headers(self) -> Mapping[str, str]:
        """The header with the warnings, of which the protocol knows nothing."""
        return warnings_header(self._warnings)

    def loaded(self, engine: Engine, request: Request) -> None:
        """Learn what the loaded model says of the request."""
        self._warnings += engine.warnings(request)

    async def following(self, events: AsyncIterator[Event]) -> AsyncIterator[Event]:
        """The events of the engine, each when the response has taken it."""
        async with aclosing(cast("AsyncGenerator[Event, None]", events)):
            async for event in events:
                self._events += self._builder.add(event)
                yield event

    def opening(self) -> bytes:
        """The events with which a stream begins."""
        return self._framed(self._builder.begin())

    def keep_alive(self) -> bytes:
        """The event that says that nothing has ended: clients do not count comments."""
        return self._framed([self._builder.still_in_progress()])

    def chunks(self, event: Event) -> bytes:
        """The events for one event of the engine."""
        events, self._events = self._events, []
        return self._framed(events)

    def _framed(self, events: Iterable[ResponseEvent]) -> bytes:
        frames = [framed(event, number) for number, event in enumerate(events, self._sent)]
        self._sent += len(frames)
        return b"".join(frames)

    def end(self) -> bytes:
        """Nothing: the last event says that it is the last."""
        return b""

    def failure(self, failure: Failure) -> bytes:
        """The last event of a response that failed."""
        return self._framed([self._builder.fail(failure)])

    def whole(self, done: Completion) -> bytes:
        """The JSON of a response that is not streamed."""
        return msgspec.json.encode(self._builder.response)


@endpoints.post("/v1/responses", "Answer items", ResponsesRequest, Response, EVENTS)
async def create(request: web.Request) -> web.StreamResponse:
    """Answer the items of a conversation, as JSON or as a stream of events."""
    config = request.app[CONFIG]
    asked, size = await parsed(request, partial(Asked, sealer=request.app[SEALER]))
    body = asked.body
    streaming = body.wants_stream(request.headers)
    warnings = asked.warnings(strict=config.strict, streaming=streaming)
    model = request.app[MODELS].find(body.model)
    generation = replace(
        asked.request,
        incremental_calls=config.incremental_tool_calls,
        namespace=request.get(NAMESPACE, ""),
        adapter=body.adapter_of(model),
    )
    builder = ReplyBuilder(
        asked.response(),
        asked.toolbox,
        request.app[SEALER],
        summarised=body.reasoning.as_summary,
        incremental=config.incremental_tool_calls,
        asks_cache=body.cache is not None,
    )
    reply = Reply(builder, warnings)

    async def run(engine: Engine) -> answer.Events:
        await off_loop(size, reply.loaded, engine, generation)
        return reply.following(engine.aevents(generation, request.get(ORIGIN)))

    try:
        if streaming:
            return await answer.streamed(request, model, reply, run)
        collect = partial(completion, model.name, warnings)
        return await answer.whole(request, model, reply, run, collect)
    except InvalidRequestError as error:
        if error.param is not None:
            place = asked.conversation.place(error.param)
            error.message = error.message.replace(error.param, place)
            error.param = place
        raise
