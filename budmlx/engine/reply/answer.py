"""Answer: what follows the reasoning of a reply, up to the first stop."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence

from budmlx.engine.reply.output_reader import Stage
from budmlx.engine.text.stops import StopScanner
from budmlx.plugins.parsing import Content, Piece, Thought


class AnswerStops:
    """The stops of one choice, which count in its answer alone.

    texts, ids: strings and token ids that stop. min_tokens: nothing stops before that many.
    found: one of them has come.
    """

    def __init__(self, texts: Sequence[str], ids: Collection[int], min_tokens: int):
        self.found = False
        self._scanner = StopScanner(texts) if texts else None
        self._ids = frozenset(ids)
        self._left = min_tokens
        self._early = 0  # Text before this place cannot stop.
        self._marks: deque[int] = deque()
        self._held: deque[Content] = deque()
        self._end: int | None = None  # of the answer so far

    @property
    def text(self) -> str:
        """The string that stopped; empty if none did."""
        return self._scanner.found if self._scanner is not None else ""

    def token(self, token_id: int, begin: int, end: int) -> None:
        """Take a token whose text stands between two places of all the text."""
        self._left -= 1
        if self._left >= 0:
            self._early = end
        elif token_id in self._ids:
            self._marks.append(begin)

    def cut(self, piece: Content) -> list[Content]:
        """The text that is safe to show once this content has come."""
        self._end = piece.start + len(piece.text)
        while self._marks and self._marks[0] < piece.start:
            self._marks.popleft()
        marked = bool(self._marks) and self._marks[0] <= self._end
        if marked:
            piece = Content(piece.text[: self._marks[0] - piece.start], piece.start)
        safe = self._scanned(piece)
        if marked and not self.found:
            self.found = True
            safe += self.rest()
        return safe

    def at_end(self) -> list[Content]:
        """The text held back, if a token without text has ended the answer; see `found`."""
        if self.found or not self._marks or self._marks[0] != self._end:
            return []
        self.found = True
        return self.rest()

    def rest(self) -> list[Content]:
        """The text held back so far, as no more of it will come."""
        held = list(self._held)
        self._held.clear()
        return held

    def _scanned(self, piece: Content) -> list[Content]:
        early = max(0, min(len(piece.text), self._early - piece.start))
        if self._scanner is None or early == len(piece.text):
            return [piece] if piece.text else []
        free = [Content(piece.text[:early], piece.start)] if early else []
        self._held.append(Content(piece.text[early:], piece.start + early))
        text, self.found = self._scanner.scan(piece.text[early:])
        return free + self._taken(len(text))

    def _taken(self, count: int) -> list[Content]:
        """The first `count` characters of what is held."""
        taken = []
        while count:
            first = self._held.popleft()
            if len(first.text) > count:
                self._held.appendleft(Content(first.text[count:], first.start + count))
                first = Content(first.text[:count], first.start)
            count -= len(first.text)
            taken.append(first)
        return taken


class Answer:
    """The stage of an `OutputReader` that takes reasoning out, and ends the text at a stop.

    verbatim: all that follows the reasoning is the answer, whatever it looks like.
    stopped: a stop has come; later text gives nothing.
    """

    def __init__(self, reasoning: Stage, stops: AnswerStops | None, *, verbatim: bool):
        self._reasoning = reasoning
        self._stops = stops
        self._verbatim = verbatim
        self._length = 0
        self._text = ""  # What follows the last piece of reasoning, as long as no answer has begun.
        self._from = 0  # its place
        self._begun = False

    @property
    def stopped(self) -> bool:
        """See the class."""
        return self._stops is not None and self._stops.found

    @property
    def stop(self) -> str:
        """The stop string that ended the text; empty if none did."""
        return self._stops.text if self._stops is not None else ""

    def token(self, token_id: int, begin: int, end: int) -> None:
        """Take a token, before the text that it completes; see `AnswerStops.token`."""
        if self._stops is not None:
            self._stops.token(token_id, begin, end)

    def push(self, text: str, last: bool) -> Sequence[Piece]:
        """See `OutputParser`. Raises PluginError."""
        if self.stopped:
            return ()
        pieces = self._split(text, last)
        if self._stops is None:
            return pieces
        shown: list[Piece] = []
        for piece in pieces:
            shown += self._stops.cut(piece) if isinstance(piece, Content) else [piece]
            if self.stopped:
                return shown
        shown += self._stops.at_end()
        return [*shown, *self._stops.rest()] if last else shown

    def _split(self, text: str, last: bool) -> Sequence[Piece]:
        if not self._verbatim:
            return self._reasoning.push(text, last)
        start = self._length
        self._length += len(text)
        if self._begun:
            return [Content(text, start)] if text else ()
        self._text += text
        pieces: list[Piece] = []
        for piece in self._reasoning.push(text, last):
            if not isinstance(piece, Content | Thought):
                continue
            if isinstance(piece, Content):
                self._begun = True
                piece = Content(self._text[piece.start - self._from :], piece.start)
                return [*pieces, piece]
            pieces.append(piece)
            end = piece.start + len(piece.text)
            self._text, self._from = self._text[end - self._from :], end
        return pieces


class Verbatim:
    """The `OutputParser` of a text that is all content."""

    def __init__(self) -> None:
        self._length = 0

    def push(self, text: str, last: bool) -> Sequence[Piece]:
        """See `OutputParser`."""
        start = self._length
        self._length += len(text)
        return [Content(text, start)] if text else ()
