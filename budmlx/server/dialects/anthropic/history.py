"""History: messages as they stand on the wire become messages of ours."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from budmlx.errors import InvalidRequestError
from budmlx.server.dialects.anthropic.content import (
    Block,
    ConversationMessage,
    DocumentBlock,
    ImageBlock,
    MarkedBlock,
    ResultBlock,
    SearchResultBlock,
    Source,
    TextBlock,
    ThinkingBlock,
    ToolReferenceBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from budmlx.server.dialects.anthropic.tools import definition_text
from budmlx.server.generation_body import renamed
from budmlx.server.sealed import Opener, Sealer
from budmlx.types import Breakpoint, ImagePart, Message, Part, TextPart, Tool, ToolCall

UNPARSED = "__unparsedToolInput"
"""The key under which Claude Code sends back an input that was cut off."""
NO_PICTURE = "[image omitted]"
NO_PDF = "[PDF omitted]"
NO_DOCUMENT = "[document omitted]"
PDF = "application/pdf"
MOST_MARKS = 4
"""Marks of one request that count, the last ones."""

# Whole lines at the very beginning, so that prompts which talk of such lines keep them.
_HEADERS = re.compile(r"\A(?:[ \t]*x-anthropic-[a-z-]+:[^\n]*(?:\n|\Z))+\n*", re.IGNORECASE)
_PLACE = re.compile(
    r"messages\[(\d+)\](?:\.content\[(\d+)\]|\.tool_calls\[(\d+)\](?:\.function\.arguments)?)?"
)


Placed = tuple[Part, str]
"""A part of a message, and the place in the request that it came from."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a message came from. message: its place in the request.

    parts, calls: the places of its parts of content, and of its calls.
    """

    message: str
    parts: Sequence[str] = ()
    calls: Sequence[str] = ()


@dataclass(slots=True)
class History:
    """A conversation. origins: of each message. warnings: on what was left out.

    shown: names of the deferred tools whose definitions stand in it. breakpoints: its marks.
    names: places in the request, by the names of parameters of ours that come from them.
    """

    messages: list[Message] = field(default_factory=list)
    origins: list[Origin] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    shown: set[str] = field(default_factory=set)
    breakpoints: list[Breakpoint] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)

    def add(self, message: Message, origin: Origin) -> None:
        """Add a message."""
        self.messages.append(message)
        self.origins.append(origin)

    def mark(self, seconds: float, parts: int = 0) -> None:
        """Mark the end of the last message, or of its first parts; 0 seconds do nothing."""
        if seconds and self.messages:
            mark = Breakpoint(len(self.messages), parts, seconds)
            self.breakpoints = [*self.breakpoints[1 - MOST_MARKS :], mark]

    def in_request(self, text: str) -> str:
        """A text in which parameters, and places in `messages`, are those of the request."""
        return renamed(_PLACE.sub(self._place, text), self.names)

    def _place(self, match: re.Match[str]) -> str:
        message, part, call = (None if each is None else int(each) for each in match.groups())
        if message is None or message >= len(self.origins):
            return match[0]
        origin = self.origins[message]
        if part is not None and part < len(origin.parts):
            return origin.parts[part]
        if call is not None and call < len(origin.calls):
            return f"{origin.calls[call]}.input"
        return origin.message


def conversation(
    system: str | Sequence[TextBlock],
    messages: Sequence[ConversationMessage],
    tools: Mapping[str, Tool],
    sealer: Sealer,
    marked: float = 0.0,
) -> History:
    """The conversation of a request. marked: how long its instructions are to be kept.

    Raises InvalidRequestError naming what cannot be used.
    """
    history = History()
    if text := instructions(system):
        history.add(Message(role="system", content=text), Origin("system"))
        history.mark(max(0.0 if isinstance(system, str) else _marked(system), marked))
    reader = _Reader(history, tools, sealer)
    for index, message in enumerate(messages):
        reader.read(message, f"messages[{index}]")
    if history.messages and messages[-1].role == "assistant":
        reader.continue_last()
    return history


def instructions(content: str | Sequence[TextBlock]) -> str:
    """The text of a system prompt, without lines that clients write for the service."""
    texts = [content] if isinstance(content, str) else [block.text for block in content]
    return "\n\n".join(text for each in texts if (text := _HEADERS.sub("", each)))


class _Reader:
    """Reads one message after the other into a history."""

    def __init__(self, history: History, tools: Mapping[str, Tool], sealer: Sealer):
        self._history = history
        self._tools = tools
        self._opener = Opener(sealer)

    def read(self, message: ConversationMessage, place: str) -> None:
        content = message.content
        if message.role == "system":
            self._system(content, place)
        elif isinstance(content, str):
            self._history.add(Message(role=message.role, content=content), Origin(place))
        elif message.role == "assistant":
            self._assistant(content, place)
        else:
            self._user(content, place)

    def continue_last(self) -> None:
        """Let the reply continue the last message, if that is text."""
        last = self._history.messages[-1]
        if last.role == "assistant" and not last.tool_calls:
            fields = {name: getattr(last, name) for name in ("content", "reasoning")}
            self._history.messages[-1] = Message(role="assistant", prefix=True, **fields)

    def _system(self, content: str | Sequence[Block], place: str) -> None:
        texts: list[TextBlock] = []
        for index, block in enumerate([] if isinstance(content, str) else content):
            if isinstance(block, TextBlock):
                texts.append(block)
            else:
                self._leave_out(block, f"{place}.content[{index}]")
        if text := instructions(content if isinstance(content, str) else texts):
            self._history.add(Message(role="system", content=text), Origin(place))
            self._history.mark(0.0 if isinstance(content, str) else _marked(content))

    def _assistant(self, blocks: Sequence[Block], place: str) -> None:
        texts: list[str] = []
        thoughts: list[str] = []
        calls: list[ToolCall] = []
        places: list[str] = []
        for index, block in enumerate(blocks):
            if isinstance(block, TextBlock):
                texts.append(block.text)
            elif isinstance(block, ThinkingBlock):
                thoughts.append(self._thought(block, f"{place}.content[{index}].signature"))
            elif isinstance(block, ToolUseBlock):
                calls.append(ToolCall(block.id, block.name, _arguments(block.input)))
                places.append(f"{place}.content[{index}]")
            else:
                self._leave_out(block, f"{place}.content[{index}]")
        message = Message(
            role="assistant",
            content="".join(texts),
            reasoning="\n\n".join(filter(None, thoughts)) or None,
            tool_calls=tuple(calls),
        )
        self._history.add(message, Origin(place, calls=places))
        self._history.mark(_marked(blocks))

    def _thought(self, block: ThinkingBlock, place: str) -> str:
        """The reasoning: as this server wrote it, or else what can be seen of it."""
        sealed = self._opener.opened(block.signature, place) if block.signature else None
        return block.thinking if sealed is None else sealed

    def _user(self, blocks: Sequence[Block], place: str) -> None:
        """Results first, since nothing may stand between a call and its result."""
        said: list[Placed] = []
        marks: list[tuple[float, int]] = []
        results = 0
        for index, block in enumerate(blocks):
            at = f"{place}.content[{index}]"
            if isinstance(block, ToolResultBlock):
                self._result(block, at)
                results += 1
            else:
                said += [(part, at) for part in self._parts(block, at, in_result=False)]
                marks.append((_marked([block]), len(said)))
        if said or not results:
            self._history.add(
                Message(role="user", content=_content(said)), Origin(place, _places(said))
            )
            for seconds, parts in marks:
                self._history.mark(seconds, parts if parts < len(said) else 0)

    def _result(self, block: ToolResultBlock, place: str) -> None:
        found: list[Placed] = [(TextPart("Error: "), place)] if block.is_error else []
        if isinstance(block.content, str):
            found.append((TextPart(block.content), place))
        else:
            for index, each in enumerate(block.content):
                at = f"{place}.content[{index}]"
                found += [(part, at) for part in self._parts(each, at, in_result=True)]
        found = list(_in_lines(found))
        self._history.add(
            Message(role="tool", content=_content(found), tool_call_id=block.tool_use_id),
            Origin(place, _places(found)),
        )
        self._history.mark(block.marked)

    def _parts(self, block: Block | ResultBlock, place: str, *, in_result: bool) -> Iterator[Part]:
        """What a block shows. in_result: nothing is refused, as it comes back with every turn."""
        if isinstance(block, TextBlock):
            yield TextPart(block.text)
        elif isinstance(block, ImageBlock):
            url = _url(block.source)
            if url:
                instead = NO_PICTURE if in_result else ""
                yield ImagePart(url, place="source", instead=instead)
            else:
                yield self._unread(place, NO_PICTURE, in_result=in_result)
        elif isinstance(block, DocumentBlock):
            texts = _document(block)
            if texts is None:
                note = NO_PDF if block.source.media_type == PDF else NO_DOCUMENT
                yield self._unread(place, note, in_result=in_result)
            else:
                if None in texts:
                    self._history.warnings.append(
                        f"{place}.source.content holds what is not text, which was left out."
                    )
                yield TextPart("\n\n".join(filter(None, texts)))
        elif isinstance(block, SearchResultBlock):
            found = (block.title, block.source, *(each.text for each in block.content))
            yield TextPart("\n\n".join(found))
        elif isinstance(block, ToolReferenceBlock) and block.tool_name in self._tools:
            self._history.shown.add(block.tool_name)
            yield TextPart(definition_text(self._tools[block.tool_name]))
        else:
            self._leave_out(block, place)

    def _unread(self, place: str, note: str, *, in_result: bool) -> TextPart:
        """The note in place of what cannot be read. Raises InvalidRequestError outside results."""
        if not in_result:
            raise InvalidRequestError(
                f"{place}.source is none that can be read here: pictures as base64 or by a URL, "
                "documents as text.",
                param=f"{place}.source",
            )
        self._history.warnings.append(f"{place}.source was left out: it cannot be read here.")
        return TextPart(note)

    def _leave_out(self, block: Any, place: str) -> None:
        self._history.warnings.append(f"{place} was left out: it is of the type {block.type}.")


def _marked(blocks: Sequence[Block] | Sequence[TextBlock]) -> float:
    """The longest time for which one of the blocks is marked; 0 if none is."""
    return max((each.marked for each in blocks if isinstance(each, MarkedBlock)), default=0.0)


def _document(block: DocumentBlock) -> list[str | None] | None:
    """The texts of a document, with None for what is not text; None if it is none itself."""
    source = block.source
    head: list[str | None] = [block.title, block.context]
    if source.type == "text":
        return [*head, source.data]
    if source.type != "content":
        return None
    given = source.content
    return [*head, *([given] if isinstance(given, str) else map(_text_of, given))]


def _text_of(block: Any) -> str | None:
    text = block.get("text") if isinstance(block, dict) else None
    return text if isinstance(text, str) else None


def _places(found: Sequence[Placed]) -> list[str]:
    return [place for _, place in found]


def _content(found: Sequence[Placed]) -> str | tuple[Part, ...]:
    """The content of a message, in one form whatever form the client chose."""
    parts = tuple(part for part, _ in found)
    if len(parts) == 1 and isinstance(parts[0], TextPart):
        return parts[0].text
    return parts


def _in_lines(found: Sequence[Placed]) -> Iterator[Placed]:
    """The parts of a result, in which neighbouring texts are lines of one."""
    text: tuple[TextPart, str] | None = None
    for part, place in found:
        if not isinstance(part, TextPart):
            yield from [text] if text is not None else []
            text = None
            yield part, place
        elif text is None:
            text = part, place
        else:
            before = text[0].text
            between = "" if before.endswith((" ", "\n")) else "\n"
            text = TextPart(f"{before}{between}{part.text}"), text[1]
    yield from [text] if text is not None else []


def _arguments(given: Any) -> str:
    """The arguments of a call as text."""
    if isinstance(given, dict) and isinstance(cut := given.get(UNPARSED), dict):
        raw = cut.get("raw")
        return raw if isinstance(raw, str) else "{}"
    return json.dumps(given, ensure_ascii=False)


def _url(source: Source) -> str:
    """The URL of a picture; empty if there is none."""
    if source.type == "base64" and source.data:
        return f"data:{source.media_type};base64,{source.data}"
    return source.url if source.type == "url" else ""
