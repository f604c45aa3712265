"""What steps of known length teach about the next one, and what reads from disk do."""

from __future__ import annotations

import pytest

from budmlx.core.batch.states import DiskRead
from budmlx.core.row import Row
from budmlx.core.schedule.disk_read import FORGIVENESS, LONG_READ, SHORT_READ, DiskReadBudget
from budmlx.core.schedule.prefill import (
    CROWD,
    FIRST_CHUNK,
    MARGIN,
    NEWEST,
    OUTLIER,
    PASS_SECONDS,
    WHOLE,
    PassChoice,
    PrefillBudget,
    PromptView,
)
from tests.core.driver import request

CHUNK = 4096
QUIET = 0.05
COST = 0.001  # Seconds of a prompt token.
SLOWDOWN = 3.0
SHARE = MARGIN * (SLOWDOWN - 1)  # Of a quiet step, for prompts.


def learned(chunk: int = CHUNK, **settings: float) -> PrefillBudget:
    """A pace that has seen a step of decoding, and one with 100 prompt tokens beside it."""
    pace = PrefillBudget(chunk, slowdown=SLOWDOWN, **settings)
    pace.learn(QUIET, prefilled=0, decoding=4)
    pace.learn(QUIET + 100 * COST, prefilled=100, decoding=4)
    return pace


def test_alone_a_prompt_takes_chunks_that_are_bounded_in_time() -> None:
    assert PrefillBudget(CHUNK).budget(0, 1) == FIRST_CHUNK
    assert PrefillBudget(100).budget(0, 1) == learned(100).budget(0, 1) == 100
    assert learned().budget(0, 1) == pytest.approx(PASS_SECONDS / COST, abs=1)


def test_nothing_is_known_before_both_kinds_of_step() -> None:
    pace = PrefillBudget(CHUNK)
    assert pace.budget(1, 1) == WHOLE and PrefillBudget(8).budget(1, 1) == 8
    pace.learn(QUIET, prefilled=0, decoding=1)
    assert pace.budget(1, 1) == WHOLE
    pace.learn(QUIET + 10 * COST, prefilled=10, decoding=1)
    assert pace.budget(1, 1) == pytest.approx(SHARE * QUIET / COST, abs=1.5)


@pytest.mark.parametrize(
    ("decoding", "waiting", "factor"),
    [
        (100, 1, 1),
        (4, 0, 1),
        (4, 1, 1),
        (1, 1, 1),
        (32, 2, 1),
        (32, 3, 1),
        (32, 4, 3 * CROWD / 32),
        (16, 2, CROWD / 16),
        (8, 3, 2 * CROWD / 8),
    ],
)
def test_the_more_wait_the_longer_a_step_may_be(decoding: int, waiting: int, factor: float) -> None:
    tokens = factor * SHARE * QUIET / COST
    assert learned().budget(decoding, waiting) == pytest.approx(tokens, abs=1)


def test_however_many_wait_a_pass_is_bounded_in_time() -> None:
    assert learned().budget(1, 100) == pytest.approx(PASS_SECONDS / COST, abs=1)


def test_how_much_streams_are_slowed_down_can_be_chosen() -> None:
    smooth, fast = PrefillBudget(CHUNK, slowdown=1.5), PrefillBudget(CHUNK, slowdown=6.0)
    for pace in (smooth, fast):
        pace.learn(QUIET, prefilled=0, decoding=4)
        pace.learn(QUIET + 100 * COST, prefilled=100, decoding=4)
    assert fast.budget(4, 1) == pytest.approx(10 * smooth.budget(4, 1), rel=0.1)


def test_a_budget_stays_within_a_chunk_and_never_ends() -> None:
    assert learned(chunk=50).budget(4, 1) == 50
    for least, chunk, budget in ((8, CHUNK, 8), (32, CHUNK, 32), (32, 16, 16)):
        pace = PrefillBudget(chunk, least=least)
        pace.learn(QUIET, prefilled=0, decoding=1)
        pace.learn(100.0, prefilled=10, decoding=1)
        assert pace.budget(4, 1) == budget


def test_the_newest_steps_count_most() -> None:
    pace = PrefillBudget(CHUNK, slowdown=SLOWDOWN)
    pace.learn(0.1, prefilled=0, decoding=4)
    pace.learn(0.2, prefilled=0, decoding=4)
    quiet = (1 - NEWEST) * 0.1 + NEWEST * 0.2
    pace.learn(quiet + 0.2, prefilled=100, decoding=4)
    pace.learn(quiet + 0.4, prefilled=100, decoding=4)
    per_token = ((1 - NEWEST) * 0.2 + 0.4) / ((1 - NEWEST) * 100 + 100)
    assert pace.budget(4, 1) == pytest.approx(SHARE * quiet / per_token, abs=1)


def test_a_step_of_many_rows_is_not_taken_for_one_of_few() -> None:
    pace = PrefillBudget(CHUNK, slowdown=SLOWDOWN)
    pace.learn(QUIET, prefilled=0, decoding=1)
    pace.learn(2 * QUIET, prefilled=0, decoding=16)
    pace.learn(2 * QUIET + 100 * COST, prefilled=100, decoding=16)
    assert pace.budget(16, 1) == pytest.approx(2 * pace.budget(1, 1), abs=1)
    assert pace.budget(9, 1) == pace.budget(16, 1) and pace.budget(3, 1) == pace.budget(1, 1)


def test_the_cost_of_a_token_is_measured_in_passes_of_many() -> None:
    pace = PrefillBudget(CHUNK)
    pace.learn(QUIET, prefilled=0, decoding=4)
    pace.learn(QUIET + WHOLE * COST, prefilled=WHOLE - 1, decoding=4)
    assert pace.per_token is None
    pace.learn(QUIET + WHOLE * COST, prefilled=WHOLE, decoding=4)
    assert pace.per_token == pytest.approx(COST)
    # Where nobody decodes, the whole step is the prompt's.
    pace.learn(100 * 3 * COST, prefilled=100, decoding=0)
    assert pace.per_token == pytest.approx((1 - NEWEST) * COST + NEWEST * 3 * COST)


def test_a_pass_that_took_long_by_accident_counts_for_little() -> None:
    pace = learned()
    pace.learn(80.0, prefilled=100, decoding=0)
    slowed = (1 - NEWEST) + OUTLIER
    assert pace.budget(0, 1) == pytest.approx(
        PASS_SECONDS / COST / (slowed / (2 - NEWEST)), rel=0.01
    )


def test_a_first_pass_that_took_long_is_forgotten_after_one_that_did_not() -> None:
    """The first pass of a kind builds its kernel."""
    pace = PrefillBudget(CHUNK, least=32)
    pace.learn(43.0, prefilled=512, decoding=0)
    assert pace.budget(0, 1) == WHOLE
    pace.learn(32 * COST, prefilled=32, decoding=0)
    assert pace.budget(0, 1) == pytest.approx(PASS_SECONDS / COST, abs=1)


def test_a_step_that_did_nothing_teaches_nothing() -> None:
    pace = PrefillBudget(CHUNK, slowdown=SLOWDOWN)
    pace.learn(50.0, prefilled=0, decoding=0)
    pace.learn(QUIET, prefilled=0, decoding=4)
    pace.learn(QUIET + 100 * COST, prefilled=100, decoding=4)
    assert pace.budget(4, 1) == learned().budget(4, 1)


@pytest.mark.parametrize(
    ("left", "budget", "tokens"),
    [(1000, 100, 96), (1000, 20, 20), (100, 100, 100), (50, 40, 50), (1000, 64, 64)],
)
def test_passes_within_a_prompt_fill_tiles(left: int, budget: int, tokens: int) -> None:
    choice = PassChoice(paddable=True, reuses=False, multiple=32)
    prompt = PromptView([Row.of(request(1, range(left + 1)))], 0, left)
    chosen = choice.next([prompt], budget, oldest=True)
    assert (chosen.tokens, chosen.ends) == (tokens, tokens == left)


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
