"""Reader of text that arrives in pieces, with the same result however it is cut.

A parser is a generator: it reads with the methods of a `Reader`, which yield when they need
more text. What it has read is unsettled until it is passed on to the client or dropped.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from functools import cache
from typing import TypeVar

from budmlx.plugins.parsing import Content, Piece, Thought

Result = TypeVar("Result")
Steps = Generator[None, None, Result]
"""A coroutine that reads text, pausing wherever more of it is needed, and has a result."""

SPACE = re.compile(r"\s*+")


class Broken(Exception):
    """The text is not what it began to look like, or it ended before it was complete."""


class Markers:
    """Finds the first of several texts. None of them may be the beginning of another."""

    def __init__(self, *texts: str):
        whole = "|".join(re.escape(text) for text in texts)
        self._whole = re.compile(f"({whole})")
        parts = "|".join(_beginning(text) for text in texts if len(text) > 1)
        self._any = re.compile(f"({whole})|(?:{parts})\\Z" if parts else f"({whole})")

    def search(self, text: str, start: int, *, complete: bool) -> re.Match[str] | None:
        """The first marker (group 1), or text at the end that may become one (no group 1).

        complete: no more text follows, so nothing can become a marker.
        """
        return (self._whole if complete else self._any).search(text, start)


markers = cache(Markers)
"""`Markers`, made once for the same texts."""


def _beginning(text: str) -> str:
    """A pattern of all proper beginnings of a text, the longest first."""
    pattern = ""
    for char in reversed(text[1:-1]):
        pattern = f"(?:{re.escape(char)}{pattern})?"
    return re.escape(text[0]) + pattern


class Reader:
    """The text so far, how far it was read (`at` in `buffer`), and the pieces made of it.

    last: no more text follows what is in the buffer. finished: the writer ended it, and nothing
    was cut off.
    """

    def __init__(self) -> None:
        self.buffer = ""
        self.at = 0
        self.last = self.finished = False
        self.after_drop = False
        self._base = 0  # place of the buffer in all the text
        self._from = 0  # place in the buffer up to which text is settled
        self._held: list[str] = []  # unsettled text before the buffer
        self._held_size = 0
        self._run: list[str] = []  # settled text, not yet a piece
        self._run_kind: type[Content] | type[Thought] = Content
        self._run_start = self._run_end = 0
        self._pieces: list[Piece] = []

    def advance(self, steps: Steps[None], text: str, last: bool) -> list[Piece]:
        """Go on with `steps`, which use this reader, and return the pieces they made."""
        at = self.at
        if at > self._from:
            self._held.append(self.buffer[self._from : at])
            self._held_size += at - self._from
        self.buffer = text if at == len(self.buffer) else self.buffer[at:] + text
        self._base += at
        self._from = self.at = 0
        self.last = last
        next(steps, None)
        if self._run:
            self._flush()
        pieces, self._pieces = self._pieces, []
        return pieces

    # What becomes of the text

    def pass_on(self, end: int, kind: type[Content] | type[Thought] = Content) -> None:
        """Settle the text up to `end` in the buffer: it is for the client."""
        start, stop = self._base + self._from - self._held_size, self._base + end
        if start == stop:
            return
        if self._run and (start != self._run_end or kind is not self._run_kind):
            self._flush()
        if not self._run:
            self._run_kind, self._run_start = kind, start
        self._run += self._held
        self._run.append(self.buffer[self._from : end])
        self._run_end = stop
        self._settle(end)
        self.after_drop = False

    def drop(self) -> None:
        """Settle what was read: it was markup."""
        self._settle(self.at)
        self.after_drop = True

    def give(self, piece: Piece) -> None:
        """Add a piece after the text that was passed on."""
        if self._run:
            self._flush()
        self._pieces.append(piece)

    def hold_space(self, end: int) -> None:
        """Pass text on up to `end`, but for white space at its end. Only white space is held."""
        kept = self._from + len(self.buffer[self._from : end].rstrip())
        if kept > self._from:
            self.pass_on(kept)

    @property
    def place(self) -> int:
        """The place in all the text up to which it was read."""
        return self._base + self.at

    def back(self, place: int) -> None:
        """Go back to a place after what was settled last."""
        self.at -= self.place - place
        if self.at < 0:
            again: list[str] = []
            while self.at < 0:
                again.append(self._held.pop())
                self.at += len(again[-1])
                self._held_size -= len(again[-1])
                self._base -= len(again[-1])
            self.buffer = "".join([*reversed(again), self.buffer])

    def _settle(self, end: int) -> None:
        if self._held:
            self._held.clear()
            self._held_size = 0
        self._from = end

    def _flush(self) -> None:
        self._pieces.append(self._run_kind("".join(self._run), self._run_start))
        self._run.clear()

    # Reading: at the end of the text these stop, or raise `Broken` where they must have more.

    def run(self, pattern: re.Pattern[str]) -> Steps[str]:
        """Read all that matches a pattern of the form `[...]*`."""
        parts = []
        while True:
            parts.append(self.buffer[self.at : self._match(pattern)])
            if self.at < len(self.buffer) or self.last:
                return "".join(parts)
            yield

    def space(self) -> Steps[None]:
        """Read white space."""
        while self._match(SPACE) == len(self.buffer) and not self.last:
            yield

    def _match(self, pattern: re.Pattern[str]) -> int:
        match = pattern.match(self.buffer, self.at)
        assert match is not None
        self.at = match.end()
        return self.at

    def peek(self) -> Steps[str]:
        """The next character, which stays unread; the empty string at the end of the text."""
        while self.at == len(self.buffer):
            if self.last:
                return ""
            yield
        return self.buffer[self.at]

    def maybe(self, *markers: str) -> Steps[str]:
        """Read the marker that stands here and return it; the empty string if there is none."""
        while True:
            for marker in markers:
                if self.buffer.startswith(marker, self.at):
                    self.at += len(marker)
                    return marker
            if self.last or not self._may_become(markers):
                return ""
            yield

    def one_of(self, *markers: str) -> Steps[str]:
        """Read white space and a marker, and return the marker. Raises Broken if there is none."""
        while True:
            self._match(SPACE)
            for marker in markers:
                if self.buffer.startswith(marker, self.at):
                    self.at += len(marker)
                    return marker
            if self.last or not self._may_become(markers):
                raise Broken
            yield

    def ending(self, *markers: str) -> Steps[str]:
        """Like `one_of`, but the text may end before the marker or within it. Raises Broken."""
        yield from self.space()
        marker = yield from self.maybe(*markers)
        if not marker:
            if not (self.last and self._may_become(markers)):
                raise Broken
            self.at = len(self.buffer)
        return marker

    def until(self, marker: str) -> Steps[str]:
        """Read through a marker, and return the text before it. Raises Broken if the text ends."""
        parts = []
        while True:
            found = self.buffer.find(marker, self.at)
            if found >= 0:
                parts.append(self.buffer[self.at : found])
                self.at = found + len(marker)
                return "".join(parts)
            keep = 0 if self.last else len(marker) - 1
            end = max(self.at, len(self.buffer) - keep)
            parts.append(self.buffer[self.at : end])
            self.at = end
            if self.last:
                raise Broken
            yield

    def cut_off(self, *markers: str) -> bool:
        """Whether the text ends here, or in a marker that begins here."""
        return self.last and self._may_become(markers)

    def upto(self, marker: str) -> Steps[tuple[str, bool]]:
        """Read through a marker, or to the end of the text without a marker that is cut off.

        Returns the text before the marker, and whether it came whole.
        """
        begun = self.place
        try:
            return (yield from self.until(marker)), True
        except Broken:
            self.back(begun)
        text = self.buffer[self.at :]
        self.at = len(self.buffer)
        found = markers(marker).search(text, 0, complete=False)
        return (text if found is None else text[: found.start()]), False

    def _may_become(self, markers: tuple[str, ...]) -> bool:
        """Whether what is left of the buffer is the beginning of a marker."""
        left = len(self.buffer) - self.at
        for marker in markers:
            if left < len(marker) and marker.startswith(self.buffer[self.at :]):
                return True
        return False
