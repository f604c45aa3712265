"""Background work runs on what interactive rows leave, and loses no token when it makes way."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budmlx.core.batch.plan import Embed, Plan, Result
from budmlx.core.model.model import Model
from budmlx.core.row import Row
from budmlx.core.schedule.admission import Waiting
from budmlx.core.schedule.prefill import SHARE, BackgroundShare
from budmlx.protocol import GenerateRequest, StepFrame
from tests.amount import examples
from tests.core.batch.test_condemned import reuse_of
from tests.core.driver import Driver, request
from tests.core.reuse.test_blocks import cold, plain, words
from tests.core.schedule.test_texts import LONGEST, queue, step, texts

CROWD = 32
"""Rows of the background."""


def background(*keys: int, tokens: int = 40, owner: str = "") -> list[GenerateRequest]:
    return [
        request(key, words(key, 20 + key), max_tokens=tokens, background=True, owner=owner)
        for key in keys
    ]


def user(key: int, tokens: int = 30, owner: str = "") -> GenerateRequest:
    return request(key, words(key, 25), max_tokens=tokens, owner=owner)


class Priced(Driver):
    """Plans take the seconds of a price list. decoded: rows of each plan that decodes."""

    def __init__(self, model: Model, price: Callable[[Plan, int], float], **settings: int):
        super().__init__(model, reuse=reuse_of(model), **settings)
        self.price = price
        self.plans: list[Plan] = []
        self.took: list[float] = []
        self.run_plan = self.executor.run
        self.executor.run = self.run_priced  # type: ignore[method-assign]

    def run_priced(self, plan: Plan) -> Result:
        going = set(plan.decode)
        groups = [group for group in self.groups if group.id in going]
        seconds = self.price(plan, sum(len(group.rows) for group in groups))
        self.plans.append(plan)
        self.took[-1] += seconds
        result = self.run_plan(plan)
        return msgspec.structs.replace(result, seconds=seconds, first_use=False)

    def turn(self) -> StepFrame:
        self.took.append(0.0)
        return super().turn()


def steps_to_first(driver: Driver, new: GenerateRequest) -> int:
    driver.submit(new)
    for count in range(1, 100):
        driver.turn()
        if driver.tokens[new.id]:
            return count
    raise AssertionError("no token")


@pytest.mark.parametrize("places", [64, CROWD])
@pytest.mark.parametrize("name", ["llama", "gemma3_text"])
def test_the_first_token_of_a_newcomer_does_not_wait_for_the_background(
    name: str, places: int
) -> None:
    model = plain(name)
    alone = steps_to_first(Driver(model), user(99))
    crowd = background(*range(CROWD), tokens=20)
    driver = Driver(model, max_rows=places, reuse=reuse_of(model))
    driver.submit(*crowd)
    driver.turns(8)
    assert driver.frames[-1].running == CROWD
    assert steps_to_first(driver, user(99)) <= alone + 2
    driver.run()
    assert driver.tokens == undisturbed(name)


@cache
def undisturbed(name: str) -> dict[int, list[int]]:
    return cold(plain(name), *background(*range(CROWD), tokens=20), user(99))


def test_a_newcomer_takes_a_place_and_the_kv_of_who_made_way_is_kept() -> None:
    model = plain("llama")
    crowd = background(*range(4))
    driver = Priced(model, lambda plan, rows: 0.01, max_rows=4)
    driver.submit(*crowd)
    driver.turns(8)
    driver.submit(user(99))
    driver.turn()
    displaced = [key for plan in driver.plans for key in plan.requeue]
    assert displaced == [3]
    done = len(driver.plans)
    driver.run()
    back = [plan.prefill for plan in driver.plans[done:] if plan.prefill]
    assert not [each for each in back if each.prompts == [3] and each.tokens]
    assert driver.tokens == cold(model, *crowd, user(99))


def test_the_background_begins_only_where_nobody_else_waits() -> None:
    driver = Driver(plain("llama"), max_rows=2)
    driver.submit(*background(1, 2), user(10), user(11), user(12))
    while len(driver.reasons) < 3:
        driver.turn()
        assert not driver.tokens[2], "a place was left for it while others waited"
    assert set(driver.reasons) == {10, 11, 12}
    driver.run()
    assert set(driver.reasons) == {1, 2, 10, 11, 12}


def test_interactive_rows_are_slowed_down_by_a_share_at_most() -> None:
    def price(plan: Plan, rows: int) -> float:
        pad = 0.001 * bool(plan.decode)
        return pad + 0.001 * rows + 0.0005 * (plan.prefill.tokens if plan.prefill else 0)

    driver = Priced(plain("llama"), price, max_rows=64)
    driver.submit(*background(*range(CROWD), tokens=60))
    driver.turns(12)
    driver.submit(*(user(100 + key, tokens=400) for key in range(4)))
    driver.turns(4)
    begin, before = len(driver.took), sum(map(len, driver.tokens.values()))
    driver.turns(200)
    quiet = price(Plan(decode=[1]), 4)
    took = driver.took[begin:]
    assert sum(took) <= (1 + SHARE) * quiet * len(took) + max(took)
    done = sum(map(len, driver.tokens.values())) - before - 4 * len(took)
    assert done > 100, "the background went on"


def test_what_costs_nothing_takes_part_in_nearly_every_step() -> None:
    driver = Priced(plain("llama"), lambda plan, rows: 0.001 * bool(plan.decode), max_rows=64)
    driver.submit(*background(*range(8), tokens=200))
    driver.turns(6)
    driver.submit(user(100, tokens=400))
    driver.turns(4)
    before = len(driver.tokens[1])
    driver.turns(100)
    assert len(driver.tokens[1]) - before > 75


def test_a_share_is_paid_in_advance() -> None:
    share = BackgroundShare()
    spent = quiet_time = 0.0
    for _ in range(400):
        taken = share.begin(beside=True, ready=True, work=True)
        seconds = 1.0 + 3.0 * taken
        share.learn(seconds, 1.0)
        spent += seconds - 1.0
        quiet_time += 1.0
    assert 0.8 * SHARE * quiet_time < spent <= SHARE * quiet_time + 3.0
    assert not share.begin(beside=True, ready=False, work=True)
    assert share.begin(beside=False, ready=False, work=True)


def test_owners_take_turns_within_their_class() -> None:
    waiting = Waiting()
    flood = [Row.of(each) for each in background(1, 2, 3, owner="a")]
    first, second = Row.of(user(10, owner="a")), Row.of(user(11, owner="b"))
    for row in (first, second):
        waiting.of(row).add(row)
    everything = [*flood, first, second]
    line = waiting.interactive
    assert line.queue.next(line.of_class(everything)) == [first], "its flood is of another class"
    assert waiting.making_way(first, everything) is flood[2]
    assert waiting.making_way(flood[0], everything) is None


def test_texts_of_the_background_come_last_and_what_is_under_way_ends() -> None:
    waiting = queue()
    behind = msgspec.structs.replace(texts(1, [300], "a"), background=True)
    waiting.add(behind, LONGEST)
    assert step(waiting, 128) == [Embed([(1, 0)], 128)]
    waiting.add(texts(2, [20, 300], "a"), LONGEST)
    assert waiting.interactive and waiting.background
    order = [embed.texts[0] for _ in range(8) for embed in step(waiting, 128)]
    assert order[0] == (2, 0)
    assert order.index((1, 0)) < order.index((2, 1)), "what is computed in parts ends first"


ARRIVALS = st.lists(
    st.tuples(st.integers(0, 20), st.booleans(), st.integers(1, 40)), min_size=2, max_size=8
)


@settings(max_examples=examples(4), deadline=None)
@given(places=st.integers(1, 4), arrivals=ARRIVALS)
def test_no_row_loses_or_repeats_a_token(
    places: int, arrivals: list[tuple[int, bool, int]]
) -> None:
    model = plain("llama")
    rows = [
        (turn, (background(key, tokens=tokens)[0] if behind else user(key, tokens=tokens)))
        for key, (turn, behind, tokens) in enumerate(arrivals)
    ]
    driver = Priced(model, lambda plan, rows: 0.01 * (1 + rows), max_rows=places)
    for turn in range(21):
        driver.submit(*(row for when, row in rows if when == turn))
        driver.turn()
    driver.run(3000)
    assert driver.tokens == cold(model, *(row for _, row in rows))
