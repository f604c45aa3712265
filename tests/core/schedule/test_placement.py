"""Which rows share a batch, with KV of one size a token and rectangles padded to the longest."""

from __future__ import annotations

from collections.abc import Sequence

from budmlx.core.schedule.view import HEAVY, MERGE_GAIN, Placement

WEIGHTS = 2**27
OVERHEAD = 2**25
PER_TOKEN = 2**14


def rectangle(lengths: Sequence[int]) -> int:
    return PER_TOKEN * max(lengths) * len(lengths)


PLACEMENT = Placement(WEIGHTS, rectangle, OVERHEAD)
# So many tokens cost as much as one more pass.
PASS = (WEIGHTS + OVERHEAD) // PER_TOKEN


def test_padding_is_weighed_against_reading_the_weights_again() -> None:
    assert PLACEMENT.choose([70], [[60] * 15]) == 0
    assert PLACEMENT.choose([4000], [[60] * 15]) is None
    assert PLACEMENT.choose([3900], [[60] * 15, [4000]]) == 1
    assert PLACEMENT.merge([[60], [4000]]) == (0, 1)
    assert PLACEMENT.merge([[60] * 15, [4000]]) is None
    assert PLACEMENT.heavy([[60] * 15, [4000]]) == [False, True]
    assert PLACEMENT.heavy([[60], [4000]]) == [False, False]


def test_without_groups_there_is_nothing_to_choose() -> None:
    assert PLACEMENT.choose([70], []) is None
    assert PLACEMENT.merge([]) is None and PLACEMENT.merge([[60]]) is None
    assert PLACEMENT.heavy([]) == [] and PLACEMENT.heavy([[9]]) == [False]


def test_a_step_costs_the_weights_and_the_rectangle() -> None:
    assert PLACEMENT.cost([10, 30]) == WEIGHTS + OVERHEAD + 60 * PER_TOKEN


def test_a_newcomer_joins_up_to_the_cost_of_a_pass_of_its_own() -> None:
    """A row that is longer by n tokens adds n of padding to the row that is there."""
    assert PLACEMENT.choose([60 + PASS - 1], [[60]]) == 0
    assert PLACEMENT.choose([60 + PASS], [[60]]) is None


def test_the_cheapest_of_all_groups_is_chosen() -> None:
    assert PLACEMENT.choose([100], [[100] * 3, [90], [400]]) == 0
    assert PLACEMENT.choose([400], [[100] * 3, [90], [400]]) == 2


def test_a_merge_must_promise_more_than_a_few_bytes() -> None:
    """Two rows of 60 and 60 + n tokens: together one pass less, and n tokens of padding."""
    edge = next(
        n for n in range(2 * PASS) if PASS + 2 * (60 + n) >= MERGE_GAIN * (2 * PASS + 60 + 60 + n)
    )
    assert edge < PASS
    assert PLACEMENT.merge([[60], [60 + edge - 1]]) == (0, 1)
    assert PLACEMENT.merge([[60], [60 + edge]]) is None


def test_heavy_groups_cost_so_many_times_more_a_row() -> None:
    light = [60] * HEAVY
    assert PLACEMENT.cost([60]) / (PLACEMENT.cost(light) / HEAVY) < HEAVY
    assert PLACEMENT.heavy([light, [60]]) == [False, False]
    least = PLACEMENT.cost(light) / HEAVY
    longest = int((HEAVY * least - PLACEMENT.cost([0])) / PER_TOKEN)
    assert PLACEMENT.heavy([light, [longest]]) == [False, False]
    assert PLACEMENT.heavy([light, [longest + 1]]) == [False, True]
