"""Drafts: the tokens that a row may draw next."""

from __future__ import annotations

from collections.abc import Sequence

from budmlx.core.speculate.ngram import Match, NgramIndex
from budmlx.protocol import MOST_DRAFTED

# Weight of the newest token in how often drafted tokens came true.
NEWEST = 0.12
# What is assumed of that before anything is known.
FIRST_CHANCE = 0.5


class Drafts:
    """What followed the last time that the ending of a row stood in its own ids.

    As long as it comes true, the same occurrence goes on; else another is looked up. Every token
    is compared with what was expected, drafted or not, so that of a row that does not draft it is
    known whether it should.

    ids: prompt and generated tokens of the row; `follow` is called with each that is added.
    chance: how likely an expected token is the one that the row draws, from 0 to 1.
    """

    def __init__(self, ids: Sequence[int]):
        self.chance = FIRST_CHANCE
        self._ids = ids
        self._index: NgramIndex | None = None  # made when it is needed
        self._expected: Match | None = None

    def follow(self, token: int) -> None:
        """Compare the token that was just added to the ids with what was expected."""
        if self._index is None:
            self._look_up()
            return
        expected = self._expected
        if expected is not None:
            right = self._ids[expected.place] == token
            self.chance += NEWEST * (right - self.chance)
            if right:
                self._expected = Match(expected.place + 1, expected.length + 1)
                return
        self._look_up()

    def draft(self, count: int, ahead: Sequence[int] = ()) -> list[int]:
        """The next tokens: `count` of them at most, and at most `MOST_DRAFTED`.

        ahead: tokens that come before and have not been added to the ids yet.
        """
        if self._index is None:
            self._look_up()
        if self._expected is None or count < 1:
            return []
        place, end = self._expected.place, len(self._ids)
        count = min(count, MOST_DRAFTED) + len(ahead)
        found = list(self._ids[place : place + count])
        while len(found) < count:
            # The occurrence ends where its repetition begins, and goes on as that does.
            found.append(found[len(found) - (end - place)])
        return found[len(ahead) :] if found[: len(ahead)] == list(ahead) else []

    def _look_up(self) -> None:
        if self._index is None:
            self._index = NgramIndex(self._ids)
        self._expected = self._index.find(self._ids)
