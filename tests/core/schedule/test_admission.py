"""Who runs next: owners take turns, and no row is lost."""

from __future__ import annotations

import itertools
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from budmlx.core.row import Row
from budmlx.core.schedule.admission import FairQueue
from tests.core.driver import Driver, load, request


def row(key: int, owner: str = "a", fork: int = 0) -> Row:
    return Row.of(request(key, [5], owner=owner, fork=fork))


def queue_of(*rows: Row) -> FairQueue:
    queue = FairQueue()
    for each in rows:
        queue.add(each)
    return queue


def ids(rows: list[Row]) -> list[int]:
    return [each.request.id for each in rows]


def take_all(queue: FairQueue, *at_work: Row) -> list[list[int]]:
    """The turns in which rows begin when none ends."""
    rows, turns = [*at_work, *queue], []
    while queue:
        turns.append(queue.next(rows))
        queue.take(turns[-1])
    return [ids(turn) for turn in turns]


def test_one_owner_is_served_in_order() -> None:
    assert take_all(queue_of(*map(row, range(5)))) == [[0], [1], [2], [3], [4]]


def test_who_has_less_goes_first_and_then_by_turns() -> None:
    flood = [row(key) for key in range(4)]
    queue = queue_of(*flood, row(10, "b"), row(20, "c"), row(11, "b"))
    busy = [row(90, "a"), row(91, "a"), row(92, "c")]
    assert take_all(queue, *busy) == [[10], [20], [11], [0], [1], [2], [3]]


def test_what_was_sent_back_goes_before_all_others_in_its_order() -> None:
    queue = queue_of(row(1, "b"), row(2))
    queue.put_back([row(3, "c"), row(4)])
    queue.put_back([row(5, "c")])
    assert take_all(queue) == [[5], [3], [4], [1], [2]]


def test_choices_of_one_request_prefill_together() -> None:
    choices = [row(key, fork=7) for key in (1, 2, 3)]
    queue = queue_of(row(9, "b"), choices[0], row(8), *choices[1:])
    assert take_all(queue) == [[9], [1, 2, 3], [8]]
    queue = queue_of(*choices)
    queue.take(queue.next(choices)[:1])
    assert ids(queue.next(choices)) == [2, 3]


def test_the_owner_with_most_gives_way() -> None:
    rows = [row(1), row(2, "b"), row(3), row(4, "b"), row(5), row(6, "c"), row(7)]
    queue = queue_of(rows[-1])
    assert queue.to_preempt(rows) is rows[4]
    assert queue.to_preempt(rows[3:]) is rows[5]


class Rows:
    """Rows that wait and rows at work, with what must hold whenever one begins."""

    def __init__(self) -> None:
        self.queue = FairQueue()
        self.all: list[Row] = []
        self.running: list[Row] = []
        self.begun: set[Row] = set()
        self.passed = Counter[tuple[str, str]]()  # an idle owner who waits, who went before it
        self.keys = itertools.count()

    def add(self, owner: str) -> None:
        self.all.append(row(next(self.keys), owner))
        self.queue.add(self.all[-1])

    def begin(self) -> None:
        waiting = list(self.queue)
        [new] = self.queue.next(self.all)
        self.queue.take([new])
        if new not in self.begun:
            self.check(new, waiting)
        self.begun.add(new)
        self.running.append(new)
        self.forget(new.request.owner)

    def check(self, new: Row, waiting: list[Row]) -> None:
        assert self.begun.isdisjoint(waiting), "what was sent back did not go first"
        owner, busy = new.request.owner, Counter(each.request.owner for each in self.running)
        assert new is next(each for each in waiting if each.request.owner == owner)
        for other in {each.request.owner for each in waiting} - {owner}:
            assert busy[owner] <= busy[other], "who has more went first"
            if not busy[other]:
                self.passed[other, owner] += 1
                assert self.passed[other, owner] == 1, "two turns before an idle owner's"

    def forget(self, owner: str) -> None:
        for pair in [pair for pair in self.passed if pair[0] == owner]:
            del self.passed[pair]

    def send_back(self, rows: list[Row]) -> None:
        self.running = [each for each in self.running if each not in rows]
        self.queue.put_back(rows)

    def end(self, gone: Row) -> None:
        self.all.remove(gone)
        if gone in self.running:
            self.running.remove(gone)
        else:
            self.queue.remove(gone)
        if gone.request.owner not in {each.request.owner for each in self.queue}:
            self.forget(gone.request.owner)


STEPS = st.sampled_from(["a", "a", "b", "c", "begin", "begin", "end", "end", "cancel", "back"])


@given(st.lists(STEPS, min_size=20), st.data())
def test_nobody_waits_for_more_than_one_turn_of_each_other(
    steps: list[str], data: st.DataObject
) -> None:
    rows = Rows()
    for step in steps:
        if step in "abc":
            rows.add(step)
        elif step == "begin" and rows.queue:
            rows.begin()
        elif step == "end" and rows.running:
            rows.end(rows.running[0])
        elif step == "cancel" and rows.all:
            rows.end(data.draw(st.sampled_from(rows.all)))
        elif step == "back" and rows.running:
            rows.send_back(data.draw(st.lists(st.sampled_from(rows.running), unique=True)))
        assert sorted(ids([*rows.queue, *rows.running])) == ids(rows.all)
        assert len(rows.queue) == len(list(rows.queue))
    while rows.queue:
        rows.begin()
    assert sorted(ids(rows.running)) == ids(rows.all)


def test_a_flood_delays_others_by_one_of_its_rows_only() -> None:
    driver = Driver(load(), max_rows=4)
    driver.submit(*(request(k, [k + 3] * 5, max_tokens=20 + 5 * k, owner="a") for k in range(12)))
    driver.turns(5)
    driver.submit(request(99, [7] * 5, max_tokens=40, owner="b"))
    while not driver.tokens[99]:
        driver.turn()
    assert len(driver.reasons) == 1 and not driver.failed
    driver.run()
    assert [len(driver.tokens[k]) for k in range(12)] == [20 + 5 * k for k in range(12)]
