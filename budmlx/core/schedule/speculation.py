"""Speculation: how many tokens the rows of a group draft in the next step.

It is learned from what results say of steps: no clock is read here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from budmlx.core.batch.plan import Result
from budmlx.core.row import Row
from budmlx.core.schedule.view import GroupView
from budmlx.protocol import MOST_DRAFTED, MOST_PLACES

Setting = Literal["auto"] | int
"""What `--speculation` says: how many tokens are drafted at most; 0 for none."""

COUNTS = (1, 2, 4, 8, MOST_DRAFTED)
"""Numbers of tokens that are considered."""

# A step with drafts must promise so much more than one without.
ADVANTAGE = 1.05
# Weight of the newest measurement of a step.
NEWEST = 0.2
# What a further place is assumed to cost before it is measured, in steps: little, so that it is.
FIRST_SLOPE = 0.1
# The most that one measurement may say: others may have had the machine.
STEEPEST = 2.0
# Steps in which drafts seemed too dear, after which a small one measures again.
PROBE_EVERY = 512
PROBE = 2


@dataclass(slots=True)
class Cost:
    """What steps of some number of rows take.

    plain: seconds of one without drafts; None before it is known. slope: what each further
    place adds, in such steps. parked: steps that would have drafted if a place cost no more than
    is assumed at first.
    """

    plain: float | None = None
    slope: float | None = None
    parked: int = 0

    def learn(self, seconds: float, places: int) -> None:
        """Take in a step in which every row was fed `places` tokens."""
        if places == 1:
            most = 4 * self.plain if self.plain is not None else seconds
            self.plain = _averaged(self.plain, min(seconds, most))
        elif self.plain:
            slope = (seconds / self.plain - 1) / (places - 1)
            self.slope = _averaged(self.slope, min(max(slope, 0.0), STEEPEST))
            self.parked = 0


class Speculation:
    """Says how many tokens are drafted, so that most come in a second.

    A row that drafts n tokens, each of which comes true with the chance p if those before it did,
    gets 1 + p + ... + p**n tokens on average. What such a step costs is measured.

    setting: a number drafts always so many, where there are drafts.
    """

    def __init__(self, setting: Setting):
        self._fixed = 0 if setting == "auto" else setting
        self._costs: dict[int, Cost] = {}
        self._stepped: tuple[frozenset[int], int] | None = None
        self._plain = 0  # successive plain steps of the same rows

    def drafted(self, groups: Sequence[GroupView]) -> list[int]:
        """Most tokens that the rows of each group draft now; empty if none do."""
        drafted = [self._most(group.rows) for group in groups]
        rows = frozenset(row.id for group in groups for row in group.rows)
        alone = len(groups) == 1
        same = self._stepped is not None and self._stepped[0] == rows
        self._plain = self._plain + 1 if same and not any(drafted) else 0
        self._stepped = (rows, len(rows)) if alone else None
        return drafted if any(drafted) else []

    def learn(self, result: Result) -> None:
        """Take in how long the step took that was said last."""
        if self._fixed or result.pace is None or result.first_use or self._stepped is None:
            return
        cost = self._costs.setdefault(self._stepped[1].bit_length(), Cost())
        if result.passes:
            cost.learn(result.pace, result.passes[0].places)
        elif self._plain > 1:
            # The first one after a step with drafts waits for nothing.
            cost.learn(result.pace, 1)

    def _most(self, rows: Sequence[Row]) -> int:
        if not self._fixed:
            return self._best(rows)
        return min(self._fixed, _room(rows)) if any(map(_can_draft, rows)) else 0

    def _best(self, rows: Sequence[Row]) -> int:
        cost = self._costs.setdefault(len(rows).bit_length(), Cost())
        if cost.plain is None or not any(map(_can_draft, rows)):
            return 0
        slope = FIRST_SLOPE if cost.slope is None else cost.slope
        if (best := _best(rows, slope)) or not _best(rows, FIRST_SLOPE):
            return best
        cost.parked += 1
        if cost.parked < PROBE_EVERY:
            return 0
        cost.parked = 0
        return PROBE


def _best(rows: Sequence[Row], slope: float) -> int:
    """The number of drafted tokens with which most tokens come in the time of a plain step."""
    drafting = [
        (row.drafts.chance, len(row.drafts.draft(MOST_DRAFTED))) for row in rows if row.drafts
    ]
    best, most = 0, ADVANTAGE * len(rows)
    for count in (count for count in COUNTS if count <= _room(rows)):
        places = min(count, max(length for _, length in drafting))
        gained = sum(_expected(chance, min(places, length)) for chance, length in drafting)
        if (rate := (len(rows) + gained) / (1 + slope * places)) > most:
            best, most = count, rate
    return best


def _room(rows: Sequence[Row]) -> int:
    """Most tokens that each of these rows may draft."""
    return max(0, MOST_PLACES // len(rows) - 1)


def _expected(chance: float, count: int) -> float:
    """How many of `count` drafted tokens come true, on average."""
    if chance >= 1:
        return count
    return chance * (1 - chance**count) / (1 - chance)


def _can_draft(row: Row) -> bool:
    return row.drafts is not None and bool(row.drafts.draft(1))


def _averaged(old: float | None, new: float) -> float:
    return new if old is None else (1 - NEWEST) * old + NEWEST * new
