"""What turns of known length teach about the next one."""

from __future__ import annotations

import pytest

from budmlx.core.schedule.pace import LARGEST_SLOWDOWN, NEWEST, SMALLEST_CHUNK, WHOLE, Pace

CHUNK = 4096
QUIET = 1.0
COST = 0.02  # Seconds of a prompt token.


class Clock:
    """Time that only a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def take(pace: Pace, clock: Clock, seconds: float, *, prefilled: int, decoding: bool) -> None:
    """One turn."""
    with pace.turn(decoding=decoding) as turn:
        clock.now += seconds
        turn.prefilled = prefilled


def learned(chunk: int = CHUNK) -> Pace:
    """A pace that has seen a turn of decoding, and one with 100 prompt tokens beside it."""
    clock = Clock()
    pace = Pace(chunk, clock)
    take(pace, clock, QUIET, prefilled=0, decoding=True)
    take(pace, clock, QUIET + 100 * COST, prefilled=100, decoding=True)
    return pace


def test_alone_a_prompt_takes_whole_chunks() -> None:
    assert Pace(CHUNK).budget(0, 1) == CHUNK
    assert learned().budget(0, 1) == CHUNK


def test_nothing_is_known_before_both_kinds_of_turn() -> None:
    clock = Clock()
    pace = Pace(CHUNK, clock)
    assert pace.budget(1, 1) == WHOLE and Pace(8).budget(1, 1) == 8
    take(pace, clock, QUIET, prefilled=0, decoding=True)
    assert pace.budget(1, 1) == WHOLE
    take(pace, clock, QUIET + 1.0, prefilled=10, decoding=True)
    assert pace.budget(1, 0) == pytest.approx(12, abs=1)


@pytest.mark.parametrize(
    ("decoding", "waiting", "share"),
    [
        (100, 1, 1.2),
        (4, 0, 1.2),
        (4, 1, 1.2),
        (4, 2, 2.4),
        (4, 5, 6.0),
        (2, 1, 2.4),
        (1, 1, 4.8),
        (4, 8, LARGEST_SLOWDOWN),
        (1, 100, LARGEST_SLOWDOWN),
    ],
)
def test_the_more_wait_the_longer_a_turn_may_be(decoding: int, waiting: int, share: float) -> None:
    assert learned().budget(decoding, waiting) == pytest.approx(share * QUIET / COST, abs=1)


def test_a_budget_stays_within_a_chunk_and_never_ends() -> None:
    assert learned(chunk=50).budget(4, 1) == 50
    clock = Clock()
    pace = Pace(CHUNK, clock)
    take(pace, clock, QUIET, prefilled=0, decoding=True)
    take(pace, clock, 100.0, prefilled=10, decoding=True)
    assert pace.budget(4, 1) == SMALLEST_CHUNK


def test_the_newest_turns_count_most() -> None:
    clock = Clock()
    pace = Pace(CHUNK, clock)
    take(pace, clock, 1.0, prefilled=0, decoding=True)
    take(pace, clock, 2.0, prefilled=0, decoding=True)
    quiet = (1 - NEWEST) * 1.0 + NEWEST * 2.0
    take(pace, clock, quiet + 2.0, prefilled=100, decoding=True)
    take(pace, clock, quiet + 4.0, prefilled=100, decoding=True)
    per_token = ((1 - NEWEST) * 2.0 + 4.0) / ((1 - NEWEST) * 100 + 100)
    assert pace.budget(4, 1) == pytest.approx(1.2 * quiet / per_token, abs=1)


def test_the_cost_of_a_token_is_measured_in_passes_of_many() -> None:
    clock = Clock()
    pace = Pace(CHUNK, clock)
    take(pace, clock, QUIET, prefilled=0, decoding=True)
    take(pace, clock, QUIET + 5.0, prefilled=WHOLE - 1, decoding=True)
    assert pace.per_token is None
    take(pace, clock, QUIET + WHOLE * COST, prefilled=WHOLE, decoding=True)
    assert pace.per_token == pytest.approx(COST)
    # Where nobody decodes, the whole turn is the prompt's.
    take(pace, clock, 100 * 3 * COST, prefilled=100, decoding=False)
    assert pace.per_token == pytest.approx((1 - NEWEST) * COST + NEWEST * 3 * COST)


def test_a_turn_that_did_nothing_teaches_nothing() -> None:
    clock = Clock()
    pace = Pace(CHUNK, clock)
    take(pace, clock, 50.0, prefilled=0, decoding=False)
    take(pace, clock, QUIET, prefilled=0, decoding=True)
    take(pace, clock, QUIET + 100 * COST, prefilled=100, decoding=True)
    assert pace.budget(4, 1) == learned().budget(4, 1)
