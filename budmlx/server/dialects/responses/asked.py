"""Asked: a request for a response, in the client's terms and in the engine's."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import Any, cast

from budmlx.engine.store.ids import new_id
from budmlx.errors import InvalidRequestError
from budmlx.server.dialects.responses.body import ResponsesRequest
from budmlx.server.dialects.responses.conversation import Conversation
from budmlx.server.dialects.responses.items import ItemReference
from budmlx.server.dialects.responses.kept import KeptResponses, Record, listed
from budmlx.server.dialects.responses.reply import now
from budmlx.server.dialects.responses.shapes import Response
from budmlx.server.dialects.responses.tools import Toolbox
from budmlx.server.sealed import Sealer
from budmlx.server.wire import bounded
from budmlx.types import Event, Request


class Asked:
    """A request for a response. raw: its body. tag: see `new_id`.

    request: for the engine; complete when `remember` was called.

    Raises InvalidRequestError naming what is wrong.
    """

    def __init__(self, raw: Mapping[str, Any], sealer: Sealer, tag: str = ""):
        self.raw, self._tag = raw, tag
        self.body = body = ResponsesRequest.parse(raw)
        if body.background and not body.store:
            raise InvalidRequestError("`background` needs `store`.", param="background")
        self.toolbox = Toolbox(body.tools)
        choice = self.toolbox.choice(body.tool_choice)
        self.conversation = Conversation(body.instructions, self.toolbox, sealer)
        self._found: dict[int, Mapping[str, Any]] = {}
        self.request = Request(
            messages=(),
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
            speculation=body.speculation,
        )

    def remember(self, kept: KeptResponses, owner: str) -> None:
        """Complete the request with what it refers to, which may wait for the disk.

        Raises InvalidRequestError naming what is wrong.
        """
        previous = self.body.previous_response_id
        before = kept.conversation(owner, previous) if previous is not None else []
        items = list(self.body.input)
        for index, item in enumerate(self.body.input):
            if isinstance(item, ItemReference):
                found = kept.item(owner, item.id, f"input[{index}].id")
                self._found[index], items[index] = found
        self.conversation.add(items, before)
        if not self.conversation.messages:
            raise InvalidRequestError("`input` must hold something.", param="input")
        self.request = replace(self.request, messages=tuple(self.conversation.messages))

    @property
    def refers(self) -> bool:
        """Whether `remember` must look for something."""
        references = any(isinstance(item, ItemReference) for item in self.body.input)
        return references or self.body.previous_response_id is not None

    @contextmanager
    def in_its_terms(self) -> Iterator[None]:
        """Errors about messages are raised as errors about items."""
        try:
            yield
        except InvalidRequestError as error:
            if error.param is not None:
                error.param = self.conversation.place(error.param)
            error.message = self.conversation.told(error.message)
            raise

    async def told(self, events: AsyncIterator[Event]) -> AsyncIterator[Event]:
        """The events of the engine, whose errors are about items."""
        async with aclosing(cast("AsyncGenerator[Event, None]", events)):
            with self.in_its_terms():
                async for event in events:
                    yield event

    def record(self, response: Response) -> Record:
        """What is kept of a response."""
        return Record(response, listed(self.raw.get("input"), self._found, self._tag))

    def warnings(self, *, strict: bool, streaming: bool) -> list[str]:
        """Warnings about what has no effect. Raises InvalidRequestError, see `Body.review`."""
        found = self.body.review(strict=strict, streaming=streaming)
        return [*found, *bounded(self.toolbox.warnings), *bounded(self.conversation.warnings)]

    def response(self) -> Response:
        """The response before anything is written."""
        body, raw = self.body, self.raw
        text = raw.get("text") or {}
        return Response(
            id=new_id("resp_", self._tag),
            object="response",
            created_at=now(),
            status="queued" if body.background else "in_progress",
            background=body.background,
            error=None,
            incomplete_details=None,
            instructions=body.instructions,
            max_output_tokens=body.max_output_tokens,
            metadata=body.metadata,
            model=body.model,
            output=(),
            parallel_tool_calls=body.parallel_tool_calls,
            previous_response_id=body.previous_response_id,
            reasoning={"effort": body.reasoning.effort, "summary": body.reasoning.summary},
            service_tier="flex" if body.service_tier == "flex" else "default",
            store=body.store,
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
