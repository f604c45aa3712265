"""Drafting: what plans say of drafts, and what results say of them."""

from __future__ import annotations

import msgspec

from budmlx.protocol.counts import Source, SourceCounts


class Drafting(msgspec.Struct, frozen=True, array_like=True):
    """What a group drafts. counts: tokens of each row that drafts at most, by its id.

    model: the draft model drafts, too.
    """

    counts: dict[int, int] = {}
    model: bool = False

    @property
    def most(self) -> int:
        """Most tokens of a row."""
        return max(self.counts.values(), default=0)


NO_DRAFTS = Drafting()


class DraftPass(msgspec.Struct, frozen=True, array_like=True):
    """A step of a group with drafts.

    places: tokens that each row was fed, one of them not drafted. sources: what was drafted.
    model: passes of the draft model, each over one further token of all rows. model_seconds: what
    they took. behind: tokens of rows that it had to take in before.
    """

    places: int
    sources: dict[Source, SourceCounts] = {}
    model: int = 0
    model_seconds: float = 0.0
    behind: int = 0
