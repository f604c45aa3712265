"""An owner that waits for long takes a place of another's, and no row loses or repeats a token."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budmlx.core.batch.plan import Plan, Result
from budmlx.core.model.model import Model
from budmlx.core.row import Row
from budmlx.core.schedule.admission import FairQueue
from budmlx.core.schedule.claims import CLAIM_SECONDS, TURN, Claims, begin_turn
from budmlx.protocol import GenerateRequest, StepFrame
from tests.amount import examples
from tests.core.batch.test_condemned import reuse_of
from tests.core.driver import Driver, request
from tests.core.reuse.test_blocks import cold, plain, words

PLAN_SECONDS = 0.05


class Timed(Driver):
    """Plans take `PLAN_SECONDS`. plans: those that were run. displaced: rows that made way;
    produced: how many tokens they had then."""

    def __init__(self, model: Model, max_rows: int):
        super().__init__(model, max_rows=max_rows, reuse=reuse_of(model))
        self.plans: list[Plan] = []
        self.displaced: list[int] = []
        self.produced: dict[int, list[int]] = {}
        self.seconds = 0.0
        self.run_plan = self.executor.run
        self.executor.run = self.run_timed  # type: ignore[method-assign]

    def run_timed(self, plan: Plan) -> Result:
        self.plans.append(plan)
        self.displaced += plan.requeue
        for key in plan.requeue:
            self.produced.setdefault(key, []).append(self.scheduler._rows[key].produced)
        self.seconds += PLAN_SECONDS
        return msgspec.structs.replace(self.run_plan(plan), seconds=PLAN_SECONDS)

    def until_started(self, row_id: int) -> float:
        """Turn until a row starts; returns the seconds that took."""
        begin, started = self.seconds, False
        while not started:
            frames = list[StepFrame]()
            frames.append(self.scheduler.step(frames.append))
            for frame in frames:
                started = started or row_id in frame.started
                for token in frame.tokens:
                    self.tokens[token.id].append(token.token)
        return self.seconds - begin


def owned(owner: str, *keys: int, tokens: int = 50) -> list[GenerateRequest]:
    return [request(key, words(key, 20 + key), max_tokens=tokens, owner=owner) for key in keys]


@pytest.mark.parametrize(("name", "places"), [("llama", 3), ("gemma3_text", 1)])
def test_a_second_key_starts_soon_and_the_row_that_made_way_goes_on(name: str, places: int) -> None:
    model = plain(name)
    flood, late = owned("a", *range(places + 1)), owned("b", 50, tokens=30)
    driver = Timed(model, places)
    driver.submit(*flood)
    driver.turns(20)
    driver.submit(*late)
    assert driver.until_started(50) < CLAIM_SECONDS + 5 * PLAN_SECONDS
    assert driver.displaced == [places - 1], "the youngest of those at work"
    done = len(driver.plans)
    driver.run()
    assert driver.tokens == cold(model, *flood, *late)
    back = [plan.prefill for plan in driver.plans[done:] if plan.prefill]
    again = sum(prefill.tokens for prefill in back if prefill.prompts == [places - 1])
    assert again == 0, "the KV of the row that made way was kept"


@pytest.mark.parametrize("name", ["llama", "gemma3_text"])
def test_a_row_that_makes_way_within_its_prompt_keeps_what_was_computed(name: str) -> None:
    model = plain(name)
    driver = Timed(model, 1)
    long = request(1, words(1, 1900), owner="a", max_tokens=4)
    late = request(2, words(2, 20), owner="b", max_tokens=4)
    driver.submit(long, late)
    driver.run()
    assert driver.displaced == [1]
    assert driver.tokens == cold(model, long, late)
    passes = [plan.prefill for plan in driver.plans if plan.prefill]
    assert sum(each.tokens for each in passes if each.prompts == [1]) == 1899


def test_who_has_a_row_at_work_claims_nothing() -> None:
    driver = Timed(plain("llama"), 2)
    driver.submit(*owned("a", 1), *owned("b", 2, 3))
    driver.turns(40)
    assert not driver.displaced and not driver.tokens[3]


def test_a_claimant_gets_the_memory_it_needs_too() -> None:
    model = plain("llama")
    driver = Timed(model, 8)
    driver.submit(*owned("a", 1, 2, 3))
    driver.turns(5)
    admission = driver.scheduler._admission
    fits = admission.fits
    admission.fits = lambda groups: sum(map(len, groups)) <= 2 and fits(groups)  # type: ignore
    driver.turns(1)
    assert driver.displaced == [3]
    driver.submit(*owned("b", 9))
    driver.until_started(9)
    assert driver.displaced == [3, 2]
    driver.run()
    assert driver.tokens == cold(model, *owned("a", 1, 2, 3), *owned("b", 9))


def test_a_row_that_was_sent_back_waits_longer_each_time() -> None:
    """Two keys, one place: they take turns that get longer, so that little is computed again."""
    model = plain("llama")
    driver = Timed(model, 1)
    rows = [*owned("a", 1, tokens=120), *owned("b", 2, tokens=120)]
    driver.submit(*rows)
    driver.run()
    moves = driver.displaced
    assert len(moves) >= 3 and all(a != b for a, b in itertools.pairwise(moves))
    assert len(moves) <= 7  # 240 tokens at PLAN_SECONDS each, in slices of 0.5, 1, 1, 2, 2, ... s
    assert driver.tokens == cold(model, *rows)


def test_a_row_in_its_turn_is_not_taken() -> None:
    rows = [Row.of(each) for each in (*owned("a", 1, 2), *owned("b", 3))]
    claims = Claims(FairQueue())
    assert claims.to_displace(rows) is rows[1]
    begin_turn(rows[1])
    assert claims.to_displace(rows) is rows[0]
    begin_turn(rows[0])
    assert claims.to_displace(rows) is rows[2]
    begin_turn(rows[2])
    assert claims.to_displace(rows) is None
    rows[0].ids += range(TURN)
    assert claims.to_displace(rows) is rows[0]


ARRIVALS = st.lists(
    st.tuples(st.integers(0, 20), st.sampled_from("abc"), st.integers(1, 40)),
    min_size=2,
    max_size=6,
)


@settings(max_examples=examples(3), deadline=None)
@given(places=st.integers(1, 3), arrivals=ARRIVALS)
def test_nobody_starves_and_nobody_thrashes(
    places: int, arrivals: list[tuple[int, str, int]]
) -> None:
    model = plain("llama")
    rows = [
        (turn, owned(owner, key, tokens=tokens)[0])
        for key, (turn, owner, tokens) in enumerate(sorted(arrivals))
    ]
    driver = Timed(model, places)
    for turn in range(21):
        driver.submit(*(row for when, row in rows if when == turn))
        driver.turn()
    driver.run(2000)
    assert driver.tokens == cold(model, *(row for _, row in rows))
    for produced in driver.produced.values():
        moves = itertools.pairwise(produced)
        assert all(after - before >= TURN for before, after in moves), "it had no turn"
