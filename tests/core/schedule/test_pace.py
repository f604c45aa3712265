"""What a step may prefill and read, learnt from steps of known cost."""

from __future__ import annotations

import pytest

from budmlx.core.batch.plan import DiskRead
from budmlx.core.schedule.pace import (
    FORGIVENESS,
    LARGEST_SLOWDOWN,
    LONG_READ,
    SHORT_READ,
    SLOWDOWN,
    SMALLEST_CHUNK,
    WHOLE,
    DiskPace,
    Pace,
)

CHUNK = 2048
QUIET, PER_TOKEN = 0.020, 0.0001


def learnt(per_token: float = PER_TOKEN) -> Pace:
    """A pace that knows a step of 20 ms without prefill, and what a prompt token costs."""
    pace = Pace(CHUNK)
    for _ in range(60):
        pace.learn(QUIET, prefilled=0, decoding=True)
        pace.learn(QUIET + 100 * per_token, prefilled=100, decoding=True)
    return pace


def test_nobody_waits_for_a_chunk_when_nobody_generates() -> None:
    assert Pace(CHUNK).budget(0, 3) == learnt().budget(0, 3) == CHUNK


def test_what_is_unknown_is_tried_with_little() -> None:
    pace = Pace(CHUNK)
    assert pace.budget(4, 1) == WHOLE
    assert pace.per_token is None
    pace.learn(0.5, prefilled=WHOLE - 1, decoding=False)
    assert pace.per_token is None, "a short pass is mostly its fixed cost"


def test_prefill_lengthens_a_step_by_its_share() -> None:
    pace = learnt()
    assert pace.per_token == pytest.approx(PER_TOKEN)
    assert pace.budget(16, 1) == pytest.approx(SLOWDOWN * QUIET / PER_TOKEN, abs=1)


def test_the_share_grows_with_those_who_wait() -> None:
    pace = learnt()
    budgets = [pace.budget(16, waiting) for waiting in (4, 8, 16, 1000)]
    shares = [budget * PER_TOKEN / QUIET for budget in budgets]
    want = [SLOWDOWN, 2 * SLOWDOWN, 4 * SLOWDOWN, LARGEST_SLOWDOWN]
    assert shares == pytest.approx(want, rel=0.01)


def test_a_budget_has_bounds() -> None:
    assert learnt(1.0).budget(16, 1) == SMALLEST_CHUNK
    assert learnt(1e-8).budget(16, 1) == CHUNK


def test_the_disk_is_tried_with_one_block_and_then_by_its_speed() -> None:
    disk = DiskPace()
    assert disk.allowance(alone=True, per_token=1e-9) == 1
    for _ in range(40):
        disk.learn(DiskRead(0.001, 100))
    assert disk.allowance(alone=False, per_token=1.0) == pytest.approx(SHORT_READ / 1e-5, rel=0.01)
    assert disk.allowance(alone=True, per_token=None) == pytest.approx(LONG_READ / 1e-5, rel=0.01)


def test_a_slow_disk_is_left_alone_and_forgiven() -> None:
    disk = DiskPace()
    disk.learn(DiskRead(1.0, 100))
    assert disk.allowance(alone=True, per_token=0.009) == 0
    disk.learn(DiskRead())
    assert disk.allowance(alone=True, per_token=0.009) == 0
    disk.learn(DiskRead(declined=3))
    assert FORGIVENESS**3 < 0.9
    assert disk.allowance(alone=True, per_token=0.009) > 0
