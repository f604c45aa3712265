"""Kept responses: what was asked and answered, for later requests of the same API key."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from pydantic import TypeAdapter, ValidationError

from budmlx.engine.store.ids import new_id
from budmlx.engine.store.store import Limits, Shelf, Store
from budmlx.errors import InvalidRequestError
from budmlx.server.dialects.responses.items import Item
from budmlx.server.dialects.responses.shapes import Response, ResponseError
from budmlx.server.errors import HttpError

log = logging.getLogger(__name__)

PREFIXES = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "custom_tool_call": "ctc",
    "function_call_output": "fco",
    "custom_tool_call_output": "ctco",
}
ITEMS = TypeAdapter(list[Item])
TOO_LARGE = "it is larger than all that an API key may keep"
FAILED = "the store failed"
RUNNING = ("queued", "in_progress")
INTERRUPTED = ResponseError("server_error", "The server ended before the response was complete.")


class Record(Struct, frozen=True):
    """A response that is kept.

    input: the items that came with its request. frames: the events of its stream, as they are
    sent, if it was made in the background.
    """

    response: Response
    input: Sequence[Mapping[str, Any]]
    frames: Sequence[str] = ()

    def items(self) -> list[Mapping[str, Any]]:
        """Input and output as items of a later request."""
        return [*self.input, *json.loads(msgspec.json.encode(self.response.output))]


class KeptResponses:
    """The responses that API keys keep. Its methods wait for the store, so call them in a thread.

    limits: of what one API key may keep. owner: identifies the API key.
    """

    def __init__(self, store: Store, limits: Limits):
        self._shelf = Shelf(store, "response", limits)
        self._limits = limits

    def put(self, owner: str, record: Record) -> str:
        """Keep a response, in place of what it was before.

        Returns why it is not kept, `TOO_LARGE` or `FAILED`, or an empty string.
        """
        names = [str(item["id"]) for item in record.items()]
        data = msgspec.json.encode(record)
        if self._shelf.put(owner, record.response.id, data, names):
            return ""
        problem = TOO_LARGE if len(data) > self._limits.size else FAILED
        log.warning("The response %s is not stored: %s.", record.response.id, problem)
        return problem

    def get(self, owner: str, id: str) -> Record:
        """A response. Raises HttpError if it is not kept."""
        data = self._shelf.get(owner, id)
        if data is None:
            raise no_response(id)
        try:
            record = msgspec.json.decode(data, type=Record)
        except msgspec.MsgspecError as error:
            log.error("The stored response %s cannot be read: %s", id, error)
            raise no_response(id) from None
        if record.response.status in RUNNING:
            # What runs is known elsewhere, so that this one ended with its server.
            failed = {"status": "failed", "error": INTERRUPTED}
            response = msgspec.structs.replace(record.response, **failed)
            record = msgspec.structs.replace(record, response=response)
        return record

    def delete(self, owner: str, id: str) -> None:
        """Forget a response. Raises HttpError if it is not kept."""
        if not self._shelf.delete(owner, id):
            raise no_response(id)

    def conversation(self, owner: str, id: str) -> list[Any]:
        """The items of a response and of all before it, as they go before a new input.

        Raises InvalidRequestError if one of them is not kept.
        """
        parts: list[list[Any]] = []
        before: str | None = id
        while before is not None:
            try:
                record = self.get(owner, before)
                parts.append(_read(record.items(), before))
            except HttpError:
                raise InvalidRequestError(
                    f"Previous response with id {before[:128]!r} not found: it is not stored for "
                    "this API key, or not any more.",
                    param="previous_response_id",
                    code="previous_response_not_found",
                ) from None
            before = record.response.previous_response_id
        return [item for part in reversed(parts) for item in part]

    def item(self, owner: str, id: str, place: str) -> tuple[Mapping[str, Any], Any]:
        """The item of a response, as it is kept and as one of a request. place: of the id.

        Raises InvalidRequestError if there is none.
        """
        holder = self._shelf.find(owner, id)
        try:
            found = self.get(owner, holder).items() if holder is not None else []
            item = next(each for each in found if each["id"] == id)
            return item, _read([item], str(holder))[0]
        except (HttpError, StopIteration):
            raise InvalidRequestError(
                f"{place} is {id[:128]!r}, which is no item of a stored response.", param=place
            ) from None


def _read(items: Sequence[Mapping[str, Any]], id: str) -> list[Any]:
    """Items of a response that is kept, as those of a request. Raises HttpError for others."""
    try:
        return ITEMS.validate_python(items)
    except ValidationError as error:
        log.error("%d items of the stored response %s cannot be read", error.error_count(), id)
        raise no_response(id) from None


def no_response(id: str) -> HttpError:
    """The error for a response that is not kept."""
    return HttpError(
        404, f"No response with id {id[:128]!r} is stored for this API key.", code="not_found"
    )


def listed(raw: Any, found: Mapping[int, Mapping[str, Any]], tag: str) -> list[Mapping[str, Any]]:
    """The input of a request as items with ids, as they are listed later.

    found: those that the request only refers to, by their places. tag: see `new_id`.
    """
    if isinstance(raw, str):
        raw = [{"role": "user", "content": raw}]
    return [found.get(place) or _item(item, tag) for place, item in enumerate(raw or ())]


def _item(item: Mapping[str, Any], tag: str) -> dict[str, Any]:
    kind = item.get("type") or "message"
    id = item.get("id") or new_id(f"{PREFIXES.get(kind, 'item')}_", tag)
    whole = {"id": id, **{key: value for key, value in item.items() if key != "id"}}
    whole["type"] = kind
    if kind == "message":
        content = item.get("content")
        if isinstance(content, str):
            said = {"type": "output_text", "text": content, "annotations": []}
            asked = {"type": "input_text", "text": content}
            whole["content"] = [said if item.get("role") == "assistant" else asked]
        whole.setdefault("status", "completed")
    return whole
