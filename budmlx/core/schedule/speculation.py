"""Speculation: how many tokens the rows of a group draft in the next step.

It is learned from what results say of steps: no clock is read here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Self

from budmlx.core.batch.drafting import NO_DRAFTS, Drafting, DraftPass
from budmlx.core.batch.plan import Result
from budmlx.core.row import Row
from budmlx.core.schedule.view import GroupView
from budmlx.core.speculate.drafts import Drafts
from budmlx.protocol import MOST_DRAFTED, MOST_PLACES
from budmlx.protocol.counts import Source
from budmlx.types import ModelInfo

Setting = Literal["auto"] | int
"""What `--speculation` says: how many tokens are drafted at most; 0 for none."""

COUNTS = (1, 2, 4, 8, MOST_DRAFTED)
"""Numbers of tokens that are considered."""

# A step with drafts must promise so much more than one without.
ADVANTAGE = 1.05
# Weight of the newest measurement of a step.
NEWEST = 0.2
# The same of a step without drafts among many with some.
NEWEST_OF_FEW = 0.5
# What a further place is assumed to cost before it is measured, in steps, and a token of the draft
# model: little, so that it is.
FIRST_SLOPE = 0.1
# The most that one measurement may say: others may have had the machine.
STEEPEST = 2.0
# Steps in which drafts seemed too dear, after which a small one measures again.
PROBE_EVERY = 512
PROBE = 2
# Steps with drafts after which some without measure again: the machine may have become slower, and
# all that drafts cost is told in such steps.
PLAIN_EVERY = 128
PLAIN_STEPS = 3


class Prices(NamedTuple):
    """What a place of a step costs, and a token of the draft model, in steps without drafts."""

    place: float = FIRST_SLOPE
    model: float = FIRST_SLOPE


@dataclass(slots=True)
class Cost:
    """What steps of some number of rows take.

    plain: seconds of one without drafts; None before it is known. slope: what each further
    place adds, in such steps; model: what a token of the draft model takes. parked: steps that
    would have drafted if all this cost no more than is assumed at first. drafting: steps with
    drafts since those without.
    """

    plain: float | None = None
    slope: float | None = None
    model: float | None = None
    parked: int = 0
    drafting: int = 0

    def begin(self) -> bool:
        """Count a step; returns whether it must be one without drafts."""
        if self.drafting >= PLAIN_EVERY:
            self.drafting += 1
        if self.drafting > PLAIN_EVERY + PLAIN_STEPS:
            self.drafting = 0
        return self.drafting >= PLAIN_EVERY

    def learn(self, seconds: float) -> None:
        """Take in a step without drafts."""
        most = 4 * self.plain if self.plain is not None else seconds
        weight = NEWEST if self.drafting < PLAIN_EVERY else NEWEST_OF_FEW
        self.plain = _averaged(self.plain, min(seconds, most), weight)

    def learn_drafts(self, seconds: float, step: DraftPass) -> None:
        """Take in a step in which every row was fed `step.places` tokens."""
        if not self.plain:
            return
        self.parked = 0
        self.drafting += 1
        slope = ((seconds - step.model_seconds) / self.plain - 1) / (step.places - 1)
        self.slope = _averaged(self.slope, min(max(slope, 0.0), STEEPEST))
        if step.model and not step.behind:
            each = step.model_seconds / self.plain / step.model
            self.model = _averaged(self.model, min(each, STEEPEST))

    def prices(self) -> Prices:
        """What is known, or assumed of what is not."""
        first = Prices()
        slope = first.place if self.slope is None else self.slope
        return Prices(slope, first.model if self.model is None else self.model)


class Speculation:
    """Says how many tokens are drafted, so that most come in a second.

    A row that drafts n tokens, each of which comes true with the chance p if those before it did,
    gets 1 + p + ... + p**n tokens on average. What such a step costs is measured.

    setting: a number drafts always so many, where there are drafts. model: there is a draft model.
    """

    @classmethod
    def of(cls, setting: Setting, info: ModelInfo) -> Self | None:
        """Of a model; None if no tokens are drafted."""
        return cls(setting, model=bool(info.draft_model)) if setting else None

    def __init__(self, setting: Setting, *, model: bool = False):
        self._model = model
        self._fixed = 0 if setting == "auto" else setting
        self._costs: dict[int, Cost] = {}
        self._stepped: tuple[frozenset[int], int] | None = None
        self._plain = 0  # successive plain steps of the same rows
        self._parked = Counter[Source]()

    def drafted(self, groups: Sequence[GroupView]) -> list[Drafting]:
        """What the rows of each group draft now; empty if none do."""
        drafted = [self._counts(group.rows) for group in groups]
        rows = frozenset(row.id for group in groups for row in group.rows)
        alone = len(groups) == 1
        same = self._stepped is not None and self._stepped[0] == rows
        none = not any(each.counts for each in drafted)
        self._plain = self._plain + 1 if same and none else 0
        self._stepped = (rows, len(rows)) if alone else None
        return [] if none else drafted

    def learn(self, result: Result) -> Mapping[Source, int]:
        """Take in how long the step took that was said last.

        Returns the drafts that rows had in it and that were left, by source.
        """
        self._learn(result)
        parked, self._parked = self._parked, Counter()
        return parked

    def _learn(self, result: Result) -> None:
        if self._fixed or result.pace is None or result.first_use or self._stepped is None:
            return
        cost = self._costs.setdefault(self._stepped[1].bit_length(), Cost())
        if result.passes:
            cost.learn_drafts(result.pace, result.passes[0])
        elif self._plain > 1:
            # The first one after a step with drafts waits for nothing.
            cost.learn(result.pace)

    def _counts(self, rows: Sequence[Row]) -> Drafting:
        able = {row.id: source for row in rows if (source := self._source(row)) is not None}
        if not able:
            return NO_DRAFTS
        most = _room(rows)
        if self._fixed:
            counts = dict.fromkeys(able, min(self._fixed, most)) if most else {}
            drafting = Drafting(counts, self._model)
        else:
            drafting = self._best(rows, able)
        self._parked.update(able[row_id] for row_id in able.keys() - drafting.counts.keys())
        return drafting

    def _source(self, row: Row) -> Source | None:
        """What a row's draft would be of; None if it has none."""
        if row.drafts is None:
            return None
        if row.drafts.draft(1):
            return row.drafts.source
        return "draft_model" if self._model else None

    def _best(self, rows: Sequence[Row], able: Collection[int]) -> Drafting:
        cost = self._costs.setdefault(len(rows).bit_length(), Cost())
        if cost.plain is None or cost.begin():
            return NO_DRAFTS
        best = _best(rows, cost.prices(), model=self._model)
        if best.counts or not (first := _best(rows, Prices(), model=self._model)).counts:
            return best
        cost.parked += 1
        if cost.parked < PROBE_EVERY:
            return best
        cost.parked = 0
        return Drafting(dict.fromkeys(able, min(PROBE, _room(rows))), first.model)


def _best(rows: Sequence[Row], prices: Prices, *, model: bool) -> Drafting:
    """What brings most tokens in the time of a plain step."""
    ids = [row.id for row in rows if row.drafts is not None]
    drafting = [row.drafts for row in rows if row.drafts is not None]
    texts = [(each.chance, len(each.draft(MOST_DRAFTED))) for each in drafting]
    best, most = NO_DRAFTS, ADVANTAGE * len(rows)
    for by_model in (False, True) if model else (False,):
        chances = texts
        if by_model:
            chances = [_with_model(each, text) for each, text in zip(drafting, texts, strict=True)]
        for count in (count for count in COUNTS if count <= _room(rows)):
            places = min(count, max(length for _, length in chances))
            gained = sum(_expected(chance, min(places, length)) for chance, length in chances)
            price = 1 + prices.place * places + prices.model * count * by_model
            if (rate := (len(rows) + gained) / price) > most:
                share = rate * (prices.place + prices.model * by_model) / len(rows)
                own = [_worth(chance, min(count, length), share) for chance, length in chances]
                counts = {row: number for row, number in zip(ids, own, strict=True) if number}
                best, most = Drafting(counts, by_model), rate
    return best


def _worth(chance: float, most: int, price: float) -> int:
    """How many tokens of a row's draft are worth their share of what the step costs.

    price: of a token of one row, in tokens.
    """
    counts = [*(count for count in COUNTS if count < most), most]
    best = max(counts, key=lambda count: _expected(chance, count) - price * count)
    return best if _expected(chance, best) > price * best else 0


def _with_model(drafts: Drafts, text: tuple[float, int]) -> tuple[float, int]:
    """How likely a token of a row's draft is, and how many there are, if the draft model drafts."""
    if text[1] and not drafts.trusts_model:
        return text
    return drafts.model_chance, MOST_DRAFTED


def _room(rows: Sequence[Row]) -> int:
    """Most tokens that each of these rows may draft."""
    return max(0, MOST_PLACES // len(rows) - 1)


def _expected(chance: float, count: int) -> float:
    """How many of `count` drafted tokens come true, on average."""
    if chance >= 1:
        return count
    return chance * (1 - chance**count) / (1 - chance)


def _averaged(old: float | None, new: float, weight: float = NEWEST) -> float:
    return new if old is None else (1 - weight) * old + weight * new
