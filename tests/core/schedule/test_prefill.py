"""What steps of known length teach about the next one, and what reads from disk do."""

from __future__ import annotations

import pytest

from budmlx.core.batch.plan import DiskRead
from budmlx.core.schedule.prefill import (
    FORGIVENESS,
    LARGEST_SLOWDOWN,
    LONG_READ,
    NEWEST,
    SHORT_READ,
    SMALLEST_CHUNK,
    WHOLE,
    DiskReadBudget,
    PrefillBudget,
)

CHUNK = 4096
QUIET = 1.0
COST = 0.02  # Seconds of a prompt token.


def learned(chunk: int = CHUNK) -> PrefillBudget:
    """A pace that has seen a step of decoding, and one with 100 prompt tokens beside it."""
    pace = PrefillBudget(chunk)
    pace.learn(QUIET, prefilled=0, decoding=True)
    pace.learn(QUIET + 100 * COST, prefilled=100, decoding=True)
    return pace


def test_alone_a_prompt_takes_whole_chunks() -> None:
    assert PrefillBudget(CHUNK).budget(0, 1) == CHUNK
    assert learned().budget(0, 1) == CHUNK


def test_alone_a_prompt_takes_passes_of_a_known_length() -> None:
    pace = PrefillBudget(CHUNK, longest_pass=1.5)
    assert pace.budget(0, 1) == CHUNK
    pace.learn(100 * COST, prefilled=100, decoding=False)
    assert pace.budget(0, 1) == 75
    for _ in range(20):
        pace.learn(100 * 1.0, prefilled=100, decoding=False)
    assert pace.budget(0, 1) == WHOLE, "fewer would not be measured any more"
    for _ in range(100):
        pace.learn(WHOLE * 1e-6, prefilled=WHOLE, decoding=False)
    assert pace.budget(0, 1) == CHUNK


def test_nothing_is_known_before_both_kinds_of_step() -> None:
    pace = PrefillBudget(CHUNK)
    assert pace.budget(1, 1) == WHOLE and PrefillBudget(8).budget(1, 1) == 8
    pace.learn(QUIET, prefilled=0, decoding=True)
    assert pace.budget(1, 1) == WHOLE
    pace.learn(QUIET + 1.0, prefilled=10, decoding=True)
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
def test_the_more_wait_the_longer_a_step_may_be(decoding: int, waiting: int, share: float) -> None:
    assert learned().budget(decoding, waiting) == pytest.approx(share * QUIET / COST, abs=1)


def test_a_budget_stays_within_a_chunk_and_never_ends() -> None:
    assert learned(chunk=50).budget(4, 1) == 50
    pace = PrefillBudget(CHUNK)
    pace.learn(QUIET, prefilled=0, decoding=True)
    pace.learn(100.0, prefilled=10, decoding=True)
    assert pace.budget(4, 1) == SMALLEST_CHUNK


def test_the_newest_steps_count_most() -> None:
    pace = PrefillBudget(CHUNK)
    pace.learn(1.0, prefilled=0, decoding=True)
    pace.learn(2.0, prefilled=0, decoding=True)
    quiet = (1 - NEWEST) * 1.0 + NEWEST * 2.0
    pace.learn(quiet + 2.0, prefilled=100, decoding=True)
    pace.learn(quiet + 4.0, prefilled=100, decoding=True)
    per_token = ((1 - NEWEST) * 2.0 + 4.0) / ((1 - NEWEST) * 100 + 100)
    assert pace.budget(4, 1) == pytest.approx(1.2 * quiet / per_token, abs=1)


def test_the_cost_of_a_token_is_measured_in_passes_of_many() -> None:
    pace = PrefillBudget(CHUNK)
    pace.learn(QUIET, prefilled=0, decoding=True)
    pace.learn(QUIET + 5.0, prefilled=WHOLE - 1, decoding=True)
    assert pace.per_token is None
    pace.learn(QUIET + WHOLE * COST, prefilled=WHOLE, decoding=True)
    assert pace.per_token == pytest.approx(COST)
    # Where nobody decodes, the whole step is the prompt's.
    pace.learn(100 * 3 * COST, prefilled=100, decoding=False)
    assert pace.per_token == pytest.approx((1 - NEWEST) * COST + NEWEST * 3 * COST)


def test_a_step_that_did_nothing_teaches_nothing() -> None:
    pace = PrefillBudget(CHUNK)
    pace.learn(50.0, prefilled=0, decoding=False)
    pace.learn(QUIET, prefilled=0, decoding=True)
    pace.learn(QUIET + 100 * COST, prefilled=100, decoding=True)
    assert pace.budget(4, 1) == learned().budget(4, 1)


def test_the_disk_is_tried_with_one_block_and_then_by_its_speed() -> None:
    disk = DiskReadBudget()
    assert disk.allowance(alone=True, per_token=1e-9) == 1
    for _ in range(40):
        disk.learn(DiskRead(0.001, 100))
    assert disk.allowance(alone=False, per_token=1.0) == pytest.approx(SHORT_READ / 1e-5, rel=0.01)
    assert disk.allowance(alone=True, per_token=None) == pytest.approx(LONG_READ / 1e-5, rel=0.01)


def test_a_slow_disk_is_left_alone_and_forgiven() -> None:
    disk = DiskReadBudget()
    disk.learn(DiskRead(1.0, 100))
    assert disk.allowance(alone=True, per_token=0.009) == 0
    disk.learn(DiskRead())
    assert disk.allowance(alone=True, per_token=0.009) == 0
    disk.learn(DiskRead(declined=3))
    assert FORGIVENESS**3 < 0.9
    assert disk.allowance(alone=True, per_token=0.009) > 0
