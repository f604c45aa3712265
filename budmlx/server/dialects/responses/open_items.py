"""Open items: the items of a response while they are written, and the events that tell them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec import UNSET

from budmlx.engine.store.ids import new_id
from budmlx.server.dialects.responses.shapes import (
    CustomCallItem,
    FunctionCallItem,
    ItemStatus,
    OutputItem,
    OutputMessage,
    OutputText,
    ReasoningItem,
    ReasoningText,
    ResponseEvent,
    SummaryText,
    TextLogprob,
)
from budmlx.server.dialects.responses.tools import CalledTool, input_of
from budmlx.server.sealed import Sealer
from budmlx.types import ToolCallDelta

Events = Iterator[ResponseEvent]


def event(kind: str, **fields: Any) -> ResponseEvent:
    """An event, which gets its number when it is sent."""
    return ResponseEvent(f"response.{kind}", **fields)


class OpenItem:
    """An item that is being written. place: among the items of the response. tag: see `new_id`."""

    prefix = "msg"
    item: OutputItem

    def __init__(self, place: int, tag: str):
        self._place = place
        self._text: list[str] = []
        self.id = new_id(f"{self.prefix}_", tag)

    def open(self) -> Events:
        """The events with which the item begins."""
        yield event("output_item.added", output_index=self._place, item=self.item)

    def add(self, text: str, logprobs: Sequence[TextLogprob] = ()) -> Events:
        """The events for a piece of the item's text."""
        raise NotImplementedError

    def close(self, status: ItemStatus, sealer: Sealer) -> Events:
        """The events with which the item ends, which it has then."""
        raise NotImplementedError

    def _within(self, kind: str, **fields: Any) -> ResponseEvent:
        return event(kind, item_id=self.id, output_index=self._place, **fields)

    def _done(self) -> ResponseEvent:
        return event("output_item.done", output_index=self._place, item=self.item)


class OpenText(OpenItem):
    """Text of the reply."""

    def __init__(self, place: int, tag: str):
        super().__init__(place, tag)
        self._logprobs: list[TextLogprob] = []
        self.item = OutputMessage(self.id)

    def open(self) -> Events:
        """See `OpenItem`."""
        yield from super().open()
        yield self._within("content_part.added", content_index=0, part=OutputText(""))

    def add(self, text: str, logprobs: Sequence[TextLogprob] = ()) -> Events:
        """See `OpenItem`."""
        self._text.append(text)
        self._logprobs += logprobs
        yield self._within("output_text.delta", content_index=0, delta=text, logprobs=logprobs)

    def close(self, status: ItemStatus, sealer: Sealer) -> Events:
        """See `OpenItem`."""
        part = OutputText("".join(self._text), logprobs=self._logprobs)
        yield self._within(
            "output_text.done", content_index=0, text=part.text, logprobs=part.logprobs
        )
        yield self._within("content_part.done", content_index=0, part=part)
        self.item = OutputMessage(self.id, status=status, content=(part,))
        yield self._done()


class OpenReasoning(OpenItem):
    """Reasoning, told as it is."""

    prefix = "rs"

    def __init__(self, place: int, tag: str):
        super().__init__(place, tag)
        self.item: ReasoningItem = ReasoningItem(self.id)

    def add(self, text: str, logprobs: Sequence[TextLogprob] = ()) -> Events:
        """See `OpenItem`."""
        self._text.append(text)
        yield self._within("reasoning_text.delta", content_index=0, delta=text)

    def close(self, status: ItemStatus, sealer: Sealer) -> Events:
        """See `OpenItem`."""
        text = "".join(self._text)
        yield self._within("reasoning_text.done", content_index=0, text=text)
        self.item = ReasoningItem(
            self.id,
            content=(ReasoningText(text),),
            encrypted_content=sealer.seal(text),
            status=status,
        )
        yield self._done()


class OpenSummary(OpenReasoning):
    """Reasoning, told as a summary."""

    def open(self) -> Events:
        """See `OpenItem`."""
        yield from super().open()
        yield self._within("reasoning_summary_part.added", summary_index=0, part=SummaryText(""))

    def add(self, text: str, logprobs: Sequence[TextLogprob] = ()) -> Events:
        """See `OpenItem`."""
        self._text.append(text)
        yield self._within("reasoning_summary_text.delta", summary_index=0, delta=text)

    def close(self, status: ItemStatus, sealer: Sealer) -> Events:
        """See `OpenItem`."""
        part = SummaryText("".join(self._text))
        yield self._within("reasoning_summary_text.done", summary_index=0, text=part.text)
        yield self._within("reasoning_summary_part.done", summary_index=0, part=part)
        self.item = ReasoningItem(
            self.id,
            summary=(part,),
            encrypted_content=sealer.seal(part.text),
            status=status,
        )
        yield self._done()


class OpenCall(OpenItem):
    """A call. The input of a custom tool is known when its arguments are whole.

    called: the tool. piece: the first one of the call.
    """

    def __init__(self, place: int, tag: str, called: CalledTool, piece: ToolCallDelta):
        self.prefix = "ctc" if called.custom else "fc"
        super().__init__(place, tag)
        self.index = piece.index
        kind = CustomCallItem if called.custom else FunctionCallItem
        self.item = kind(self.id, piece.id, called.name, namespace=called.namespace or UNSET)

    def add(self, text: str, logprobs: Sequence[TextLogprob] = ()) -> Events:
        """See `OpenItem`."""
        self._text.append(text)
        if isinstance(self.item, FunctionCallItem) and text:
            yield self._within("function_call_arguments.delta", delta=text)

    def close(self, status: ItemStatus, sealer: Sealer) -> Events:
        """See `OpenItem`."""
        text = "".join(self._text)
        if isinstance(self.item, FunctionCallItem):
            name = self.item.name
            yield self._within("function_call_arguments.done", name=name, arguments=text)
            self.item = msgspec.structs.replace(self.item, arguments=text, status=status)
        elif isinstance(self.item, CustomCallItem):
            text = input_of(text)
            yield self._within("custom_tool_call_input.delta", delta=text)
            yield self._within("custom_tool_call_input.done", input=text)
            self.item = msgspec.structs.replace(self.item, input=text, status=status)
        yield self._done()
