"""Values between tags, which may hold the tags of their own format."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from budmlx.builtin.reader import Broken, Reader, Steps, markers
from budmlx.builtin.tool_parsers.tags import Tags

MAX_GUESSES = 64
"""Values of one call whose closing tags are missing or do not match."""

KEY = re.compile(r"[^<>\"]*+")


class _Next(Enum):
    """What follows a tag that may end a value."""

    OTHER = "other"
    KEY = "key"
    END = "the end of the call"
    HALF = "a key or the end of a call, but hardly of this one"


class Values:
    """Reads the values of one call.

    A value ends at a closing tag after which the format goes on, with a key or with the end of
    the call. Keys in it are taken for those of a call that it quotes, and have closing tags of
    their own. Where no closing tag fits, a value ends at the first place where it may.

    marked: there was an opening tag around the call, which must be closed.
    keys: the keys that may come next; None if any may.
    """

    def __init__(self, reader: Reader, tags: Tags, marked: bool, keys: set[str] | None):
        self._reader = reader
        self._tags = tags
        opening, closing = tags.outer
        self._closing = closing if marked else ""
        self._ends = tuple(filter(None, (tags.end, self._closing)))
        self._keys = keys
        self._after_call = tuple(filter(None, (closing, opening, tags.begin)))
        self._markers = markers(tags.valued, tags.key, tags.end, tags.begin)
        self._guesses = 0

    def read(self) -> Steps[str]:
        """Read a value, and its closing tag if it has one.

        Raises:
            Broken: it does not end.
        """
        reader, tags = self._reader, self._tags
        value = _Value(reader.place)
        while True:
            tag = yield from self._tag(value)
            if not tag:
                return self._guessed(value)
            if tag == tags.begin:
                value.quotes = True
                continue
            after = reader.place
            follows = yield from self._follows(tag, value)
            reader.back(after)
            if tag == tags.valued and not value.depth and follows in (_Next.KEY, _Next.END):
                return value.cut(after - len(tag))
            if tag != tags.key or follows is _Next.KEY:
                value.note(tag, tag == tags.valued, follows, after)
            if tag == tags.valued and follows is _Next.END and not value.quotes:
                return self._guessed(value)
            if tag == tags.key:
                value.depth += follows is not _Next.OTHER
            elif tag == tags.valued and value.depth:
                value.depth -= 1

    def _tag(self, value: _Value) -> Steps[str]:
        """Read text and a tag; the empty string at the end of the text."""
        reader = self._reader
        while True:
            found = self._markers.search(reader.buffer, reader.at, complete=reader.last)
            tag = found[1] if found is not None and found[1] else ""
            end = len(reader.buffer) if found is None else found.start() + len(tag)
            value.parts.append(reader.buffer[reader.at : end])
            reader.at = end
            if tag or reader.last:
                return tag
            yield

    def _follows(self, tag: str, value: _Value) -> Steps[_Next]:
        """Read on after a tag, to see what follows it."""
        reader, tags = self._reader, self._tags
        if tag == tags.key:
            lined = not tags.padded or value.parts[-1][: -len(tag)].endswith("\n")
            key = yield from self._key()
            known = bool(key) and (self._keys is None or key in self._keys)
            return _Next.KEY if lined and known else _Next.HALF if key else _Next.OTHER
        if tag == tags.valued:
            yield from reader.space()
            next_tag = yield from reader.maybe(tags.key, *self._ends)
            if next_tag == tags.key:
                return _Next.KEY if (yield from self._key()) else _Next.OTHER
            if not next_tag:
                return _Next.END if reader.cut_off(tags.key, *self._ends) else _Next.OTHER
            return (yield from self._after_end(bool(self._closing) and next_tag == tags.end))
        return (yield from self._after_end(bool(self._after_call)))

    def _key(self) -> Steps[str]:
        """Read a key up to its value; the empty string if it is none."""
        reader, tags = self._reader, self._tags
        key = yield from reader.run(KEY)
        for text in tags.keyed:
            yield from reader.space()
            if not (yield from reader.maybe(text)):
                return key.strip() if reader.cut_off(text) else ""
        if tags.padded and (yield from reader.peek()) not in ("\n", ""):
            return ""
        return key.strip()

    def _after_end(self, more: bool) -> Steps[_Next]:
        """Read on after a tag that ends a call, to see whether it is this one's.

        more: the call ends for sure only if its closing tag or another call follows.
        """
        reader, tags = self._reader, self._tags
        yield from reader.space()
        whole = True
        if more:
            whole = bool((yield from reader.maybe(*self._after_call)))
            whole = whole or reader.cut_off(*self._after_call)
            yield from reader.space()
        # A closing tag that belongs to nothing else is this value's.
        if (yield from reader.maybe(tags.valued)):
            return _Next.OTHER
        return _Next.END if whole else _Next.HALF

    def _guessed(self, value: _Value) -> str:
        """End a value whose closing tag is missing, or one that seems to have too few."""
        reader = self._reader
        self._guesses += 1
        place = value.guess or value.half
        if self._guesses > MAX_GUESSES:
            raise Broken
        if place is not None and (reader.finished or place.sure):
            reader.back(place.after)
            return value.cut(place.text, self._tags.line)
        if not reader.finished:
            raise Broken
        rest = markers(self._tags.valued).search(text := "".join(value.parts), 0, complete=False)
        begun = len(text) - rest.start() if rest is not None else 0
        return value.cut(reader.place - (begun if begun > 1 else 0), self._tags.line)


@dataclass(frozen=True, slots=True)
class _Place:
    """A place where a value may end, and where reading goes on then.

    sure: no call begins in the value before it.
    """

    text: int
    after: int
    sure: bool


class _Value:
    """A value that is being read.

    depth: keys in it whose closing tags have not come. quotes: a call begins in it.
    guess: the first place where it may end; half: the same, but the end of the call is not whole.
    """

    def __init__(self, start: int):
        self.parts: list[str] = []
        self.depth = 0
        self.quotes = False
        self.guess: _Place | None = None
        self.half: _Place | None = None
        self._start = start

    def note(self, tag: str, closes: bool, follows: _Next, after: int) -> None:
        """Note what follows a tag that ends at the place `after`."""
        before = after - len(tag)
        place = _Place(before, after if closes else before, not self.quotes)
        if follows is _Next.HALF and not closes:
            self.half = self.half or place
        elif follows is not _Next.OTHER:
            self.guess = self.guess or place

    def cut(self, end: int, line: str = "") -> str:
        """Its text up to a place. line: what is no part of it at its end."""
        return "".join(self.parts)[: end - self._start].removesuffix(line)
