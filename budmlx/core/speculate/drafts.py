"""Drafts: the tokens that a row may draw next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from budmlx.core.speculate.ngram import NgramIndex
from budmlx.protocol import MOST_DRAFTED
from budmlx.protocol.counts import Source

# Weight of the newest token in how often drafted tokens came true.
NEWEST = 0.12
# What is assumed of that before anything is known.
FIRST_CHANCE = 0.5
FIRST_CHANCES: Mapping[Source, float] = {
    "ngram": FIRST_CHANCE,
    "prediction": 0.8,
    "jump_ahead": 0.9,
    "transcripts": FIRST_CHANCE,
    "draft_model": FIRST_CHANCE,
}


# Weight of a row's newest token of the draft model in what rows after it assume first, and the
# least that they do: what one text did must not keep all others from trying.
KEPT = 0.02
LEAST_KEPT = 0.25


@dataclass(slots=True)
class Kept:
    """What rows learnt of the draft model, for those after them. chance: see `model_chance`."""

    chance: float = FIRST_CHANCE

    def learn(self, *, right: bool) -> None:
        """Take in whether a token came true."""
        self.chance += KEPT * (right - self.chance)


class Expected(NamedTuple):
    """A place of a text from which on a row is expected to say the same.

    source: what the text is of.
    """

    text: Sequence[int]
    place: int
    source: Source = "ngram"


class Drafts:
    """What a grammar forces, or else what followed the last time that the ending of a row stood
    in its own ids, in a text that the row was said to repeat, or in what others said.

    As long as it comes true, the same occurrence goes on; else another is looked up. Every token
    is compared with what was expected, drafted or not, so that of a row that does not draft it is
    known whether it should.

    ids: prompt and generated tokens of the row; `follow` is called with each that is added.
    prediction: of what is generated, by the client; its beginning is expected first.
    begun: something was generated before. forced: says what must come after the ids, if anything
    must; other tokens may spell the same text. others: has what other rows said, if they did.
    kept: of all rows.
    """

    def __init__(
        self,
        ids: Sequence[int],
        prediction: Sequence[int] = (),
        *,
        begun: bool = False,
        forced: Callable[[], Sequence[int]] | None = None,
        others: Callable[[], NgramIndex | None] | None = None,
        kept: Kept | None = None,
    ):
        self._chances = dict(FIRST_CHANCES)
        self._kept = kept or Kept()
        self._chances["draft_model"] = max(self._kept.chance, LEAST_KEPT)
        self._ids = ids
        self._forced = forced
        self._others = others
        self._prediction = prediction
        self._own: NgramIndex | None = None  # made when it is needed
        self._predicted: NgramIndex | None = None
        self._expected: Expected | None = None
        if prediction and not begun:
            self._expected = Expected(prediction, 0, "prediction")

    @property
    def chance(self) -> float:
        """How likely an expected token is the one that the row draws, from 0 to 1."""
        return self._chances[self.source]

    @property
    def source(self) -> Source:
        """What the expected tokens are of."""
        return "ngram" if self._expected is None else self._expected.source

    @property
    def model_chance(self) -> float:
        """How likely a token of the draft model is the one that the row draws, from 0 to 1."""
        return self._chances["draft_model"]

    @property
    def trusts_model(self) -> bool:
        """Whether the draft model knows better what comes."""
        return self._expected is None or self.model_chance > self.chance

    def learn_model(self, accepted: int, drafted: int) -> None:
        """Take in how many of the tokens that the draft model drafted were drawn."""
        for right in [True] * accepted + [False] * (accepted < drafted):
            self._chances["draft_model"] += NEWEST * (right - self._chances["draft_model"])
            self._kept.learn(right=right)

    def follow(self, token: int) -> None:
        """Compare the token that was just added to the ids with what was expected."""
        expected = self._expected
        if expected is not None:
            text, place, source = expected
            right = text[place] == token
            self._chances[source] += NEWEST * (right - self._chances[source])
            if right and place + 1 < len(text):
                self._expected = Expected(text, place + 1, source)
                return
        self._look_up()

    def draft(self, count: int, ahead: Sequence[int] = ()) -> list[int]:
        """The next tokens: `count` of them at most, and at most `MOST_DRAFTED`.

        ahead: tokens that come before and have not been added to the ids yet.
        """
        if self._own is None and self._expected is None:
            self._look_up()
        if self._expected is None or count < 1:
            return []
        text, place, source = self._expected
        count = min(count, MOST_DRAFTED) + len(ahead)
        found = list(text[place : place + count])
        while source == "ngram" and len(found) < count:
            # The occurrence ends where its repetition begins, and goes on as that does.
            found.append(found[len(found) - (len(text) - place)])
        return found[len(ahead) :] if found[: len(ahead)] == list(ahead) else []

    def _look_up(self) -> None:
        if self._forced is not None and (forced := self._forced()):
            self._expected = Expected(forced, 0, "jump_ahead")
            return
        longest, self._expected = 0, None
        for source, index in self._indexes():
            match = index.find(self._ids)
            if match is not None and match.length > longest and match.place < len(index.ids):
                longest = match.length
                self._expected = Expected(index.ids, match.place, source)

    def _indexes(self) -> Iterator[tuple[Source, NgramIndex]]:
        """What is searched; of occurrences of the same length the first counts."""
        if self._prediction:
            if self._predicted is None:
                self._predicted = NgramIndex(self._prediction)
            yield "prediction", self._predicted
        if self._own is None:
            self._own = NgramIndex(self._ids)
        yield "ngram", self._own
        if self._others is not None and (others := self._others()) is not None:
            yield "transcripts", others
