"""N-gram index: where a text has the ending of another, or an earlier occurrence of its own."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import NamedTuple

# Tokens that must agree, at least; of more than LONGEST it makes no difference how many do.
SHORTEST = 3
LONGEST = 16
# Occurrences of the last tokens that are compared, the latest first.
CANDIDATES = 64
# Tokens at the end of a text that are indexed; what is added later comes to them.
MOST_INDEXED = 2**15
# Tokens that are indexed before something is looked up, so that no step waits for a long prompt.
INDEXED_AT_ONCE = 2**11


class Match(NamedTuple):
    """An occurrence. place: index of what follows it. length: tokens that agree before it."""

    place: int
    length: int


class NgramIndex:
    """The occurrences of every `SHORTEST` successive tokens of a text that may grow.

    Each is chained to the one before, as compressors of the LZ77 family do, so that a token takes
    one entry of a dictionary and 4 bytes. ids: the text; a part of it is read each time that
    something is looked up, and what has not been read yet is not found.
    """

    def __init__(self, ids: Sequence[int], candidates: int = CANDIDATES):
        self.ids = ids
        self._candidates = candidates
        self._latest: dict[tuple[int, ...], int] = {}
        self._begin = max(0, len(ids) - MOST_INDEXED)
        # By the index after an occurrence that of the one before, 0 if there is none.
        self._before = array("i", bytes(4 * SHORTEST))

    def find(self, text: Sequence[int]) -> Match | None:
        """The longest of the latest occurrences of the ending of `text` in `ids`.

        text: `ids` itself gives an earlier occurrence of its own ending.
        """
        self._update()
        if len(text) < SHORTEST:
            return None
        place = self._latest.get(tuple(text[-SHORTEST:]), 0)
        if place == len(text) and text is self.ids:
            place = self._before[place - self._begin]
        best: Match | None = None
        for _ in range(self._candidates):
            if not place:
                break
            length = self._agreeing(text, place)
            if best is None or length > best.length:
                best = Match(place, length)
            if length == LONGEST:
                break
            place = self._before[place - self._begin]
        return best

    def _agreeing(self, text: Sequence[int], place: int) -> int:
        """How many tokens before `place` are the last ones of `text`, up to LONGEST."""
        ids, end, length = self.ids, len(text), SHORTEST
        most = min(LONGEST, place, end)
        while length < most and ids[place - length - 1] == text[end - length - 1]:
            length += 1
        return length

    def _update(self) -> None:
        """Index what has been added to `ids`, or a part of it."""
        ids, latest, before = self.ids, self._latest, self._before
        begin = self._begin + len(before)
        for end in range(begin, min(begin + INDEXED_AT_ONCE, len(ids) + 1)):
            key = tuple(ids[end - SHORTEST : end])
            before.append(latest.get(key, 0))
            latest[key] = end
