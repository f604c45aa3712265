"""Output reader: content, reasoning and tool calls out of the text that a model wrote."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from budmlx.plugins.boundary import calling, checked_text, wrong_type
from budmlx.plugins.parsing import (
    Call,
    CallArguments,
    CallBegun,
    Content,
    FinishedParser,
    OutputParser,
    Piece,
    Thought,
)
from budmlx.types import ReasoningDelta, ToolCallDelta

PIECES = (Content, Thought, Call, CallBegun, CallArguments)


@dataclass(frozen=True, slots=True)
class Stage:
    """A parser, and its name in messages."""

    parser: OutputParser
    plugin: str
    what: str

    def push(self, text: str, last: bool) -> Sequence[Piece]:
        """The parser's pieces. Raises PluginError."""
        with calling(self.plugin, self.what):
            pieces = self.parser.push(text, last)
        if not isinstance(pieces, list | tuple) or not all(isinstance(p, PIECES) for p in pieces):
            raise wrong_type(self.plugin, self.what, pieces, "pieces of output")
        for piece in pieces:
            for each in _texts(piece):
                checked_text(self.plugin, self.what, each)
        return pieces

    def finish(self) -> None:
        """Tell a parser that wants to know it. Raises PluginError."""
        if isinstance(self.parser, FinishedParser):
            with calling(self.plugin, self.what):
                self.parser.finish()


def _texts(piece: Piece) -> Iterator[object]:
    """The texts of a piece, as far as it has them."""
    if isinstance(piece, Content | Thought | CallArguments):
        yield piece.text
        return
    yield piece.name
    if piece.id is not None:
        yield piece.id
    if isinstance(piece, Call):
        yield piece.arguments


class Splitter(Protocol):
    """What takes reasoning out of the text."""

    def push(self, text: str, last: bool) -> Sequence[Piece]:
        """See `OutputParser`. Raises PluginError."""


class OutputReader:
    """Splits the text of one choice. Reasoning is taken out first, then tool calls.

    drafts: makes a parser of calls in a block of reasoning; None if they are no calls there.
    A call that is made again after the reasoning, as it was drafted, counts once.
    one_call: whatever follows the first call is dropped. ended: that call has come.
    calls: how many calls have begun. Pieces of content and reasoning carry their place in
    all the text that was pushed. new_id: an id for a call whose own is missing, or was used.
    """

    def __init__(
        self,
        reasoning: Splitter | None,
        calls: Stage | None,
        *,
        drafts: Callable[[], Stage] | None = None,
        one_call: bool = False,
        new_id: Callable[[], str],
    ):
        self.ended = False
        self.calls = 0
        self._reasoning = reasoning
        self._calls = calls
        self._drafts = drafts
        self._one_call = one_call
        self._new_id = new_id
        self._ids: set[str] = set()
        self._places = _Places()
        self._draft: Stage | None = None
        self._draft_places = _Places()
        self._draft_end = 0
        self._drafted: list[tuple[str, str]] = []

    def push(self, text: str, *, last: bool, finished: bool = False) -> Iterator[Piece]:
        """The pieces that are now certain. finished: the model ended the reply itself.

        Raises PluginError.
        """
        if finished and self._calls is not None:
            self._calls.finish()
        if self._reasoning is None:
            yield from self._called(text, last)
            return
        for piece in self._reasoning.push(text, last):
            if isinstance(piece, Thought):
                yield from self._thought(piece)
            elif isinstance(piece, Content):
                yield from self._thought(None)
                self._places.add(piece)
                yield from self._called(piece.text, False)
        if last:
            yield from self._thought(None)
            yield from self._called("", True)

    def _thought(self, piece: Thought | None) -> Iterator[Piece]:
        """More of a block of reasoning; None: it is over."""
        if self._drafts is None:
            if piece is not None:
                yield piece
            return
        if piece is not None:
            if self._draft is not None and piece.start != self._draft_end:
                yield from self._thought(None)  # another block begins
            if self._draft is None:
                self._draft, self._draft_places = self._drafts(), _Places()
            self._draft_end = piece.start + len(piece.text)
            self._draft_places.add(piece)
        draft, places = self._draft, self._draft_places
        if draft is None or self.ended:
            return
        if piece is None:
            self._draft = None
        for found in draft.push(piece.text if piece is not None else "", piece is None):
            if isinstance(found, Call):
                self._drafted.append((found.name, found.arguments))
            yield from self._counted(found, Thought, places)

    def _called(self, text: str, last: bool) -> Iterator[Piece]:
        if self.ended:
            return
        if self._calls is None:
            if text:
                yield Content(text, self._places.next_start(text))
            return
        for piece in self._calls.push(text, last):
            if isinstance(piece, Call) and (piece.name, piece.arguments) in self._drafted:
                self._drafted.remove((piece.name, piece.arguments))
                continue
            yield from self._counted(piece, Content, self._places)

    def _counted(
        self, piece: Piece, kind: type[Content] | type[Thought], places: _Places
    ) -> Iterator[Piece]:
        """A piece of a tool parser, unless it follows the only call. kind: what its text is."""
        if self._one_call and self.calls and not isinstance(piece, CallArguments):
            self.ended = True
        if self.ended:
            return
        if isinstance(piece, Content):
            for text, start in places.parts(piece.start, piece.text):
                yield kind(text, start)
            return
        if isinstance(piece, Call | CallBegun):
            self.calls += 1
        yield piece
        self.ended = self._one_call and isinstance(piece, Call)

    def id_of(self, piece: Call | CallBegun) -> str:
        """The id of a call: its own, or a new one if another call of this text has the same."""
        call_id = piece.id
        if not call_id or call_id in self._ids:
            call_id = self._new_id()
        self._ids.add(call_id)
        return call_id


class _Places:
    """Map from the text outside of reasoning to places in the whole text."""

    def __init__(self) -> None:
        self._inner = [0]
        self._outer = [0]
        self._length = 0
        self._given = 0

    def add(self, piece: Content | Thought) -> None:
        if piece.start != self._outer[-1] + self._length - self._inner[-1]:
            self._inner.append(self._length)
            self._outer.append(piece.start)
        self._length += len(piece.text)

    def outer(self, inner: int) -> int:
        """The place in the whole text of a place in the text outside of reasoning."""
        index = bisect_right(self._inner, inner) - 1
        return self._outer[index] + inner - self._inner[index]

    def parts(self, inner: int, text: str) -> Iterator[tuple[str, int]]:
        """The pieces of a text that begins at `inner`, with their places in the whole text.

        There are several if reasoning stood within it.
        """
        while text:
            following = bisect_right(self._inner, inner)
            ends = self._inner[following : following + 1]
            own = text[: ends[0] - inner] if ends else text
            yield own, self.outer(inner)
            inner, text = inner + len(own), text[len(own) :]

    def next_start(self, text: str) -> int:
        """The place of text that is given out in order."""
        start = self.outer(self._given)
        self._given += len(text)
        return start


def event_of(output: OutputReader, piece: Piece, choice: int) -> ReasoningDelta | ToolCallDelta:
    """The event for a piece other than content, which the reader has just given."""
    if isinstance(piece, Thought):
        return ReasoningDelta(piece.text, choice)
    call = output.calls - 1
    if isinstance(piece, CallArguments):
        return ToolCallDelta(call, "", "", piece.text, choice)
    assert isinstance(piece, Call | CallBegun)
    arguments = piece.arguments if isinstance(piece, Call) else ""
    return ToolCallDelta(call, output.id_of(piece), piece.name, arguments, choice)
