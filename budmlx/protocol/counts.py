"""Counts of what a core did since it started, and their sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

import msgspec

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Upper bounds of the classes in which the rows of steps are counted."""
GAPS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)
"""The same of seconds between two tokens of a row."""
COMPILING = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0)
"""The same of seconds to compile a grammar."""

T = TypeVar("T")


class Histogram(msgspec.Struct, array_like=True):
    """How many values are in each class. counts: by class, the last for all larger values; empty
    if there are none."""

    counts: list[int] = []
    sum: float = 0.0


class DiskCounts(msgspec.Struct, array_like=True):
    """Counts of the disk tier of the prefix cache.

    hits: blocks that were read. misses: blocks that were there, but could not be used, and
    prompts of which nothing was there. hit_bytes, written_bytes: of payloads.
    quarantined: files that were not what their name says. dropped: blocks that were not written,
    because the disk was slower than the model, or refused. slower: blocks that were computed
    because that is faster than reading.
    """

    hits: int = 0
    hit_bytes: int = 0
    misses: int = 0
    written: int = 0
    written_bytes: int = 0
    quarantined: int = 0
    dropped: int = 0
    slower: int = 0


Source = Literal["ngram", "transcripts", "prediction", "jump_ahead", "draft_model"]
"""What drafts are of: the row's own text, those of others, the request's prediction, what its
grammar leaves no choice in, and the draft model."""


class SourceCounts(msgspec.Struct, array_like=True):
    """Drafts of one source, each of one row in one step.

    checked: by a step, and their tokens, and those of them that the rows drew. parked: drafts that
    rows had in steps without any, since to check them would not have paid.
    """

    checked: int = 0
    tokens: int = 0
    accepted: int = 0
    parked: int = 0


class DraftCounts(msgspec.Struct, omit_defaults=True):
    """What was drafted. steps: with drafts."""

    steps: int = 0
    sources: dict[Source, SourceCounts] = {}

    @property
    def tokens(self) -> int:
        """Tokens that were drafted."""
        return sum(each.tokens for each in self.sources.values())

    @property
    def accepted(self) -> int:
        """Those of them that rows drew."""
        return sum(each.accepted for each in self.sources.values())


class RowDraft(msgspec.Struct, frozen=True, array_like=True):
    """A draft of one row that was checked.

    drafted, accepted: tokens, and those of them that the row drew.
    """

    drafted: int
    accepted: int
    source: Source = "ngram"


def draft_usage(drafts: Sequence[RowDraft]) -> dict[str, Any]:
    """The fields of `Usage` that these drafts make up."""
    found: dict[str, tuple[int, int, int]] = {}
    for draft in drafts:
        steps, drafted, accepted = found.get(draft.source, (0, 0, 0))
        found[draft.source] = (steps + 1, drafted + draft.drafted, accepted + draft.accepted)
    _, predicted, kept = found.get("prediction", (0, 0, 0))
    return {
        "drafted_tokens": sum(drafted for _, drafted, _ in found.values()),
        "accepted_tokens": sum(accepted for _, _, accepted in found.values()),
        "accepted_prediction_tokens": kept,
        "rejected_prediction_tokens": predicted - kept,
        "drafts": tuple(sorted((source, *counts) for source, counts in found.items())),
    }


class CoreCounts(msgspec.Struct, omit_defaults=True):
    """Counts of a core.

    rows: rows that got a token, by step. gaps: seconds of steps, once for each of these rows.
    busy: seconds in steps. preempted: rows that began anew after they had made way for others.
    grammars: seconds to compile each. grammars_kept: rows whose grammar was compiled before.
    images: those that were encoded. faults: of plugins in a core process (boundary.FAULT_COUNTS).
    restarts: of the process, by reason; its host counts them.
    drafts: of speculation.
    """

    rows: Histogram = msgspec.field(default_factory=Histogram)
    gaps: Histogram = msgspec.field(default_factory=Histogram)
    busy: float = 0.0
    preempted: int = 0
    grammars: Histogram = msgspec.field(default_factory=Histogram)
    grammars_kept: int = 0
    images: int = 0
    disk: DiskCounts = msgspec.field(default_factory=DiskCounts)
    faults: Mapping[str, Mapping[str, int]] = {}
    restarts: dict[str, int] = {}
    drafts: DraftCounts = msgspec.field(default_factory=DraftCounts)


class CoreReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a core says of itself. stored: bytes of KV of former prompts and replies."""

    counts: CoreCounts = msgspec.field(default_factory=CoreCounts)
    stored: int = 0


def plus(one: T, other: T) -> T:
    """The sum of two counts of one type, a new value."""
    return _sum(one, other)  # type: ignore[no-any-return]


def _sum(one: Any, other: Any) -> Any:
    if isinstance(one, msgspec.Struct):
        names = one.__struct_fields__
        return type(one)(*(_sum(getattr(one, name), getattr(other, name)) for name in names))
    if isinstance(one, dict):
        alone = {
            key: value for key, value in (one | other).items() if (key in one) != (key in other)
        }
        return alone | {key: _sum(one[key], other[key]) for key in one.keys() & other.keys()}
    if isinstance(one, list):
        if not (one and other):
            return [*one, *other]
        return [_sum(*pair) for pair in zip(one, other, strict=True)]
    return one + other
