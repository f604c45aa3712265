"""What is retained is evicted last, for a time, and within a share of all."""

from __future__ import annotations

import pytest

from budmlx.core.reuse.checkpoints import CheckpointReuse
from budmlx.core.reuse.tree import PrefixTree
from budmlx.lookup import Bounded


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def filled(limit: int, clock: Clock) -> PrefixTree:
    made = PrefixTree(limit, block=2, clock=clock)
    made.insert("", [1, 1, 2, 2, 3, 3], 0, [("a", 10), ("b", 10), ("c", 10)])
    return made


def fill(made: PrefixTree, first: int) -> None:
    """Enough other prompts to evict everything that may go."""
    for number in range(first, first + 20):
        made.insert("", [number, number], 0, [(number, 10)])


def test_blocks_outlive_others_until_their_time_is_over(clock: Clock) -> None:
    made = filled(100, clock)
    made.retain("", [1, 1, 2, 2, 9], 60)
    fill(made, 10)
    assert made.match("", [1, 1, 2, 2, 3, 3]).length == 4
    fill(made, 40)
    assert made.match("", [1, 1, 2, 2]).length == 4
    clock.now += 61
    fill(made, 70)
    assert made.match("", [1, 1]).length == 0


def test_a_later_request_prolongs_the_time(clock: Clock) -> None:
    made = filled(100, clock)
    made.retain("", [1, 1], 60)
    clock.now += 50
    made.retain("", [1, 1], 60)
    made.retain("", [1, 1], 1)
    clock.now += 50
    fill(made, 10)
    assert made.match("", [1, 1]).length == 2


def test_at_most_half_is_retained(clock: Clock) -> None:
    made = filled(40, clock)
    made.retain("", [1, 1, 2, 2, 3, 3], 60)
    fill(made, 10)
    # The beginning counts most.
    assert made.match("", [1, 1, 2, 2, 3, 3]).length == 4


def test_rows_in_need_of_memory_come_before_it(clock: Clock) -> None:
    made = filled(100, clock)
    made.retain("", [1, 1, 2, 2, 3, 3], 60)
    made.resize(10)
    assert made.nbytes == 10 and made.match("", [1, 1, 2, 2]).length == 2
    made.resize(0)
    assert made.nbytes == 0


def test_the_last_used_of_others_go_first() -> None:
    kept: Bounded[str, int] = Bounded(count=2, rank=lambda value: int(value < 0))
    kept.put("a", -1)
    kept.put("b", 1)
    kept.put("c", 2)
    assert kept.values() == [-1, 2]
    kept.put("d", -2)
    kept.put("e", -3)
    assert kept.values() == [-2, -3]


def test_marked_places_are_kept_between_the_ends_of_turns() -> None:
    reuse = CheckpointReuse(4 * 1600)
    wanted = [10, *range(100, 1000, 100), 950]
    assert reuse.places(wanted, lambda tokens: tokens, [300]) == [10, 300, 700, 800, 950]
