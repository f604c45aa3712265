"""Conversation: the items of a request as messages."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from budmlx.errors import InvalidRequestError
from budmlx.server.dialects.responses.items import (
    CallOutput,
    Content,
    CustomCallInput,
    FilePart,
    FunctionCallInput,
    ImageItemPart,
    MessageItem,
    ReasoningInput,
    RefusalPart,
    TextItemPart,
)
from budmlx.server.dialects.responses.tools import Toolbox, arguments_of
from budmlx.server.sealed import Opener, Sealer
from budmlx.types import ImagePart, Message, Part, TextPart, ToolCall

INSTRUCTIONS = ("system", "developer")


class Conversation:
    """Makes messages of items, one after the other.

    messages: the result. places: of each message, where in the request it begins, such as
    `input[2]`. warnings: one for each item without effect.
    """

    def __init__(self, instructions: str | None, toolbox: Toolbox, sealer: Sealer):
        self.messages: list[Message] = []
        self.places: list[str] = []
        self.warnings: list[str] = []
        self._toolbox = toolbox
        self._opener = Opener(sealer)
        self._reasoning: list[str] = []
        self._place = "instructions"
        if instructions:
            self._add(Message(role="system", content=instructions))

    def add(self, items: Iterable[Any], stored: Sequence[Any] = ()) -> None:
        """Take items. Raises InvalidRequestError naming one that cannot be used.

        stored: those of earlier responses, which go before them.
        """
        for item in stored:
            self._place = "previous_response_id"
            self._take(item)
        for index, item in enumerate(items):
            self._place = f"input[{index}]"
            self._take(item)
        if self._reasoning:
            self._reasoning = []
            self._note("is reasoning without a reply, and was left out.")

    def _take(self, item: Any) -> None:
        if isinstance(item, MessageItem):
            self._message(item)
        elif isinstance(item, ReasoningInput):
            self._reasoning.append(self._thought(item))
        elif isinstance(item, FunctionCallInput):
            name = self._toolbox.name_of(item.name, item.namespace)
            self._call(ToolCall(item.call_id, name, item.arguments))
        elif isinstance(item, CustomCallInput):
            name = self._toolbox.name_of(item.name, item.namespace)
            self._call(ToolCall(item.call_id, name, arguments_of(item.input)))
        elif isinstance(item, CallOutput):
            content = self._content(item.output, "output", said=False)
            self._add(Message(role="tool", content=content, tool_call_id=item.call_id))
        else:
            kind = item.type or "none"
            self._note(f"was left out: items of the type {kind} are not read here.")

    def place(self, param: str) -> str:
        """A place among the messages, such as `messages[2].content`, as the client knows it."""
        match = re.fullmatch(r"messages\[(\d+)\](.*)", param)
        if match is None or int(match[1]) >= len(self.messages):
            return "input" if param == "messages" else param
        place, role = self.places[int(match[1])], self.messages[int(match[1])].role
        if not place.startswith("input"):
            return place
        inner = match[2] if match[2].startswith(".content[") else ""
        within = {"user": inner, "tool": inner.replace(".content", ".output")}.get(role, "")
        return f"{place}{within}"

    def told(self, text: str) -> str:
        """A sentence about messages as one about the request."""
        return re.sub(r"messages\[\d+\](?:\.\w+|\[\d+\])*", lambda m: self.place(m[0]), text)

    def _note(self, problem: str) -> None:
        self.warnings.append(f"`{self._place}` {problem}")

    def _add(self, message: Message) -> None:
        if self._reasoning and message.role != "assistant":
            self._reasoning = []
            self._note("follows reasoning without a reply, which was left out.")
        self.messages.append(message)
        self.places.append(self._place)

    def _message(self, item: MessageItem) -> None:
        content = self._content(item.content, "content", said=item.role == "user")
        if item.role in INSTRUCTIONS and all(m.role == "system" for m in self.messages):
            # Leading instructions are one message: many templates take no more.
            text = Message(role="system", content=content).text
            if self.messages:
                text = f"{self.messages[-1].text}\n\n{text}"
                self.messages[-1] = replace(self.messages[-1], content=text)
            else:
                self._add(Message(role="system", content=text))
        elif item.role == "assistant":
            self._add(Message(role="assistant", content=content, reasoning=self._thoughts()))
        else:
            self._add(Message(role=item.role, content=content))

    def _thoughts(self) -> str | None:
        text = "\n".join(filter(None, self._reasoning))
        self._reasoning = []
        return text or None

    def _call(self, call: ToolCall) -> None:
        """Add a call to the reply before it, unless that ended with its results."""
        last = self.messages[-1] if self.messages else None
        if last is not None and last.role == "assistant" and not self._reasoning:
            self.messages[-1] = replace(last, tool_calls=(*last.tool_calls, call))
        else:
            reasoning = self._thoughts()
            self._add(Message(role="assistant", tool_calls=(call,), reasoning=reasoning))

    def _thought(self, item: ReasoningInput) -> str:
        if item.encrypted_content:
            inner = ".encrypted_content" if self._place.startswith("input") else ""
            sealed = self._opener.opened(item.encrypted_content, f"{self._place}{inner}")
            if sealed is not None:
                return sealed
        return "\n".join(part.text for part in item.content or item.summary)

    def _content(self, content: Content, field: str, *, said: bool) -> str | tuple[Part, ...]:
        """Content as a plain value. said: by the user now, so that every part must be read."""
        if isinstance(content, str):
            return content
        parts: list[Part] = []
        for number, part in enumerate(content):
            place = f"{self._place}.{field}[{number}]"
            try:
                found = _part(part, place)
                if not said and isinstance(found, ImagePart):
                    # A refusal would come back with every later turn.
                    found = replace(found, instead="[image omitted]")
                parts.append(found)
            except InvalidRequestError as error:
                if said:
                    raise
                parts.append(TextPart(f"[{part.type or 'part'} omitted]"))
                self.warnings.append(error.message)
        if all(isinstance(part, TextPart) for part in parts) and len(parts) == 1:
            return parts[0].text if isinstance(parts[0], TextPart) else ""
        return tuple(parts)


def _part(part: Any, place: str) -> Part:
    """A part as a plain value. Raises InvalidRequestError for what cannot be read."""
    if isinstance(part, TextItemPart):
        return TextPart(part.text)
    if isinstance(part, RefusalPart):
        return TextPart(part.refusal)
    if isinstance(part, ImageItemPart):
        if part.image_url is None:
            raise InvalidRequestError(
                f"`{place}.image_url` is missing: files of the service are not kept here.",
                param=f"{place}.image_url",
            )
        detail = "auto" if part.detail == "original" else part.detail
        return ImagePart(part.image_url, detail, place="image_url")
    if isinstance(part, FilePart):
        return TextPart(_file_text(part, place))
    raise InvalidRequestError(
        f"`{place}` is of the type {part.type or 'none'}, which is not read here.",
        param=f"{place}.type",
    )


def _file_text(part: FilePart, place: str) -> str:
    """The text of a file. Raises InvalidRequestError unless it is one of text."""
    if part.file_data is None:
        raise InvalidRequestError(
            f"`{place}.file_data` is missing: files of the service are not kept here.",
            param=f"{place}.file_data",
        )
    head, comma, data = part.file_data.partition(",")
    if not comma:
        head, data = "", part.file_data
    kind = head.removeprefix("data:").partition(";")[0]
    try:
        raw = base64.b64decode(data, validate=True)
        if raw.startswith(b"%PDF") or kind == "application/pdf":
            raise InvalidRequestError(
                f"`{place}` is a PDF, of which no text can be read; send its text.",
                param=f"{place}.file_data",
            )
        text = raw.decode("utf-8")
    except ValueError:
        raise InvalidRequestError(
            f"`{place}.file_data` is not the base64 of a text in UTF-8.", param=f"{place}.file_data"
        ) from None
    return f"{part.filename}:\n{text}" if part.filename else text
