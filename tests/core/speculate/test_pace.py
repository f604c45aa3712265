"""How many tokens are drafted, by what steps are said to take. No clock is involved."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from budmlx.core.batch.drafting import NO_DRAFTS, Drafting, DraftPass
from budmlx.core.batch.plan import Result
from budmlx.core.batch.states import DiskRead
from budmlx.core.row import Row
from budmlx.core.schedule.speculation import (
    PLAIN_EVERY,
    PLAIN_STEPS,
    PROBE,
    PROBE_EVERY,
    Speculation,
)
from budmlx.core.schedule.view import GroupView
from budmlx.protocol import MOST_DRAFTED, MemoryUse
from tests.core.driver import request


class Expecting:
    """Drafts of a row that always has as many as are wanted."""

    source = "ngram"

    def __init__(self, chance: float, length: int = MOST_DRAFTED, model: float = 0.0):
        self.chance = chance
        self.model_chance = model
        self.trusts_model = model > chance
        self._length = length

    def draft(self, count: int, ahead: Sequence[int] = ()) -> list[int]:
        return [7] * min(count, self._length)

    def follow(self, token: int) -> None:
        """It keeps its opinion."""


def group(*drafts: Expecting | None) -> GroupView:
    rows = [Row.of(request(i, [1, 2])) for i in range(len(drafts))]
    for row, each in zip(rows, drafts, strict=True):
        row.drafts = each
    return GroupView(rows, len(rows), 2, empty=False)


def result(seconds: float | None, places: int) -> Result:
    """A step that took so long."""
    return Result(
        tokens=[],
        failed=[],
        faults=[],
        prompts=[],
        groups=[],
        seconds=0.0,
        disk=DiskRead(),
        memory=MemoryUse(),
        pace=seconds,
        passes=[DraftPass(places)] if places > 1 else [],
    )


def play(
    speculation: Speculation, rows: GroupView, steps: int, cost: Callable[[int], float]
) -> list[int]:
    """How many tokens were drafted in each of some steps, whose cost is that of their places."""
    said = []
    for _ in range(steps):
        [drafting] = speculation.drafted([rows]) or [NO_DRAFTS]
        speculation.learn(result(cost(drafting.most + 1), drafting.most + 1))
        said.append(drafting.most)
    return said


def test_rows_draft_where_places_are_cheap_and_not_where_they_cost_a_step_each() -> None:
    likely = group(Expecting(0.9))
    assert set(play(Speculation("auto"), likely, 60, lambda places: 1 + 0.1 * places)[20:]) == {8}
    dear = play(Speculation("auto"), likely, 60, lambda places: 1.0 * places)
    assert 0 < sum(map(bool, dear)) <= 2
    unlikely = play(Speculation("auto"), group(Expecting(0.05)), 60, lambda places: 1.0)
    assert not any(unlikely)


def with_model(place: float, token: float) -> Drafting:
    """What is drafted in the end where a place and a token of the draft model cost so much."""
    speculation = Speculation("auto", model=True)
    rows = group(Expecting(0.5, 4, model=0.9))
    drafting = NO_DRAFTS
    for _ in range(60):
        [drafting] = speculation.drafted([rows]) or [NO_DRAFTS]
        model = drafting.most if drafting.model else 0
        step = DraftPass(drafting.most + 1, {}, model, token * model)
        told = result(1 + place * drafting.most + token * model, drafting.most + 1)
        speculation.learn(msgspec.structs.replace(told, passes=[step] if drafting.counts else []))
    return drafting


def test_a_draft_model_drafts_where_its_tokens_are_cheap() -> None:
    cheap, dear, nothing = with_model(0.05, 0.05), with_model(0.05, 0.9), with_model(0.9, 0.9)
    assert cheap.model and cheap.most >= 4
    assert not dear.model and dear.most > 0
    assert nothing == NO_DRAFTS


def test_long_drafts_need_good_chances() -> None:
    counts = [
        play(Speculation("auto"), group(Expecting(chance)), 30, lambda places: 1 + 0.08 * places)[
            -1
        ]
        for chance in (0.3, 0.6, 0.8, 0.99)
    ]
    assert counts == sorted(counts) and counts[0] <= 2 and counts[-1] == MOST_DRAFTED


def test_rows_without_drafts_count_too() -> None:
    def steep(places: int) -> float:
        return 1 + 0.3 * (places - 1)

    alone = play(Speculation("auto"), group(Expecting(0.8)), 40, steep)
    among = play(Speculation("auto"), group(Expecting(0.8), *[None] * 9), 40, steep)
    assert alone[-1] > 0 and among[-1] == 0
    assert not any(play(Speculation("auto"), group(None, None), 10, steep))


def test_each_row_drafts_what_is_worth_its_share() -> None:
    speculation = Speculation("auto")
    rows = group(Expecting(0.98), Expecting(0.6), Expecting(0.02), None, Expecting(0.9, 3))
    play(speculation, rows, 60, lambda places: 1 + 0.15 * (places - 1))
    [drafting] = speculation.drafted([rows])
    assert drafting.counts.keys() == {0, 1, 4}
    assert drafting.most == drafting.counts[0] > drafting.counts[1] > 0
    assert drafting.counts[4] == 3
    # The fourth has none; that of the third is left.
    assert speculation.learn(result(1.0, 2)) == {"ngram": 1}
    assert speculation.learn(result(1.0, 2)) == {}


def test_rows_that_are_parked_are_counted() -> None:
    speculation, rows = Speculation("auto"), group(Expecting(0.3), None, Expecting(0.3))
    play(speculation, rows, 60, lambda places: 1.0 * places)
    assert speculation.drafted([rows]) == []
    assert speculation.learn(result(1.0, 1)) == {"ngram": 2}


def test_what_was_too_dear_is_measured_again() -> None:
    speculation, likely = Speculation("auto"), group(Expecting(0.9))
    play(speculation, likely, 50, lambda places: 1.0 * places)
    later = play(speculation, likely, PROBE_EVERY + 50, lambda places: 1 + 0.01 * places)
    first = next(place for place, count in enumerate(later) if count)
    assert later[first] == PROBE and first > PROBE_EVERY - 60
    assert later[-1] >= 8


def test_what_steps_without_drafts_take_is_measured_again() -> None:
    speculation, likely, slower = Speculation("auto"), group(Expecting(0.9)), 1.0

    def cost(places: int) -> float:
        return slower * (1 + 0.1 * (places - 1))

    said = play(speculation, likely, 60, cost)
    slower = 0.3
    said = play(speculation, likely, 4 * PLAIN_EVERY, cost)
    plain = [place for place, count in enumerate(said) if not count]
    assert len(plain) == 3 * PLAIN_STEPS or len(plain) == 4 * PLAIN_STEPS
    # Cheaper steps made places seem free, as long as only those with drafts were seen.
    assert max(said[: plain[0]]) == MOST_DRAFTED and said[-1] == 8


def test_a_number_is_always_drafted() -> None:
    assert play(Speculation(3), group(Expecting(0.01)), 5, lambda places: 9.0 * places) == [3] * 5
    assert play(Speculation(3), group(Expecting(0.01, 0)), 5, lambda places: 1.0) == [0] * 5


def test_steps_that_say_nothing_teach_nothing() -> None:
    speculation, likely = Speculation("auto"), group(Expecting(0.9))
    for seconds, first_use in ((None, False), (1.0, True)):
        for _ in range(9):
            assert speculation.drafted([likely]) == []
            told = msgspec.structs.replace(result(seconds, 1), first_use=first_use)
            speculation.learn(told)
    # Several groups share a plan, and what it takes.
    for _ in range(9):
        assert speculation.drafted([likely, group(None)]) == []
        speculation.learn(result(1.0, 1))
