"""The ledger: what keys hold and use never exceeds their limits, and outlives the server."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budmlx.config.keys import ApiKey
from budmlx.engine.store.store import Store
from budmlx.errors import QuotaError
from budmlx.server.ledger import DAYS_KEPT, Ledger, Reservation, Tally
from budmlx.types import Usage

LIMIT = 1000
KEY = ApiKey("alice", "0" * 64, tokens_per_day=LIMIT)
OTHER = ApiKey("bob", "1" * 64)


class Clock:
    """A clock that stands still."""

    def __init__(self) -> None:
        self.now = datetime(2030, 5, 17, 22, 30, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


@pytest.fixture
def ledger(file: Path, clock: Clock) -> Iterator[Ledger]:
    store = Store(file)
    ledger = Ledger(store, clock)
    yield ledger
    ledger.close()
    store.close()


def test_what_is_not_used_is_free_again(ledger: Ledger) -> None:
    account = ledger.account(KEY)
    first = account.reserve(100, 700, 700)
    assert first.completion == 700 and ledger.left(KEY) == 200
    with pytest.raises(QuotaError) as caught:
        account.reserve(100, 200, 200)
    assert caught.value.retry_after == 1 and "800 are held for requests" in caught.value.message
    first.settle(Usage(100, 50))
    assert ledger.left(KEY) == 850
    account.reserve(100, 750, 750).settle(None)
    assert ledger.left(KEY) == 850


def test_without_a_limit_of_its_own_a_request_gets_what_there_is(ledger: Ledger) -> None:
    account = ledger.account(KEY)
    first = account.reserve(100, 5000, 1)
    assert first.completion == 900
    with pytest.raises(QuotaError):
        account.reserve(1, 5000, 1)
    first.settle(Usage(100, 899))
    with pytest.raises(QuotaError) as caught:
        account.reserve(1, 5000, 1)
    assert "1 left of 1000" in caught.value.message and "in 5400 s" in caught.value.message
    assert caught.value.retry_after == 5400 and caught.value.code == "insufficient_quota"
    assert ledger.account(OTHER).reserve(10**6, 10**6, 10**6).completion == 10**6


def test_a_limit_that_is_changed_holds_at_once(ledger: Ledger) -> None:
    ledger.account(KEY).reserve(600, 0, 0).settle(Usage(600, 0))
    less = ApiKey(KEY.name, KEY.sha256, tokens_per_day=500)
    more = ApiKey(KEY.name, KEY.sha256, tokens_per_day=2000)
    assert ledger.left(less) == 0 and ledger.left(more) == 1400
    with pytest.raises(QuotaError):
        ledger.account(less).reserve(1, 0, 0)


def test_a_new_day_begins(ledger: Ledger, clock: Clock) -> None:
    account = ledger.account(KEY)
    account.reserve(500, 0, 0).settle(Usage(500, 0))
    running = account.reserve(100, 400, 400)
    assert ledger.left(KEY) == 0
    clock.now += timedelta(hours=2)
    assert ledger.left(KEY) == LIMIT
    running.settle(Usage(100, 300))  # of the day on which it began
    assert ledger.left(KEY) == LIMIT
    account.reserve(10, 0, 0).settle(Usage(10, 0))
    used = {each.day: each.used for each in ledger.uses(None, 2)}
    assert used == {"2030-05-18": Tally(1, 10, 0), "2030-05-17": Tally(2, 600, 300)}
    assert [each.day for each in ledger.uses(None, 1)] == ["2030-05-18"]
    assert ledger.uses({"bob"}, 2) == []


@pytest.mark.parametrize("days", [-40, -1, 1, 40])
@pytest.mark.parametrize("kept", [True, False])
def test_a_clock_that_is_set_and_set_back_forgets_nothing(
    file: Path, clock: Clock, days: int, kept: bool
) -> None:  # LIMITS 135
    store = Store(file if kept else None)
    ledger = Ledger(store, clock)
    account = ledger.account(KEY)
    account.reserve(100, 500, 500).settle(Usage(100, 500))
    running = account.reserve(50, 50, 50)
    clock.now += timedelta(days=days)
    assert ledger.left(KEY) == LIMIT
    account.reserve(10, 0, 0).settle(Usage(10, 0))
    clock.now -= timedelta(days=days)
    assert ledger.left(KEY) == LIMIT - 600 - 100
    running.settle(Usage(50, 20))
    assert ledger.left(KEY) == LIMIT - 600 - 70
    clock.now += timedelta(days=days)
    assert ledger.left(KEY) == LIMIT - 10
    ledger.close()
    store.close()


def test_it_outlives_the_server(file: Path, clock: Clock) -> None:
    for round_ in range(3):
        store = Store(file)
        ledger = Ledger(store, clock)
        assert ledger.left(KEY) == LIMIT - 300 * round_
        lost = ledger.account(KEY).reserve(100, 600 - 300 * round_, 1)
        ledger.account(KEY).reserve(100, 200, 200).settle(Usage(100, 200))
        ledger.close()
        store.close()
        lost.settle(Usage(1, 1))  # Too late to be written, and nothing breaks.
    clock.now += timedelta(days=DAYS_KEPT + 1)
    store = Store(file)
    ledger = Ledger(store, clock)
    clock.now -= timedelta(days=DAYS_KEPT)
    assert ledger.uses(None, DAYS_KEPT) == [] and ledger.left(KEY) == LIMIT
    ledger.close()
    store.close()


def test_servers_of_one_store_share_the_limits(file: Path, clock: Clock) -> None:
    stores = [Store(file), Store(file)]
    one, other = (Ledger(store, clock) for store in stores)
    first = one.account(KEY).reserve(100, 700, 700)
    assert one.left(KEY) == other.left(KEY) == 200
    with pytest.raises(QuotaError) as caught:
        other.account(KEY).reserve(100, 200, 200)
    assert caught.value.code == "rate_limit_exceeded" and "800 are held" in caught.value.message
    second = other.account(KEY).reserve(100, 5000, 1)
    assert second.completion == 100 and one.left(KEY) == 0
    first.settle(Usage(100, 50))
    one.uses(None, 1)  # It is written then.
    assert one.left(KEY) == other.left(KEY) == 650
    second.settle(Usage(100, 100))
    other.uses(None, 1)
    assert one.left(KEY) == other.left(KEY) == 650
    one.account(KEY).reserve(600, 0, 0).settle(Usage(600, 0))
    one.uses(None, 1)
    with pytest.raises(QuotaError) as caught:
        other.account(KEY).reserve(100, 0, 0)
    assert caught.value.code == "insufficient_quota" and "50 left" in caught.value.message
    for ledger, store in zip((one, other), stores, strict=True):
        ledger.close()
        store.close()


KILLED = """
import os, sys
from pathlib import Path
from budmlx.config.keys import ApiKey
from budmlx.engine.store.store import Store
from budmlx.server.ledger import Ledger
key = ApiKey("alice", "0" * 64, tokens_per_day=1000)
Ledger(Store(Path(sys.argv[1]))).account(key).reserve(100, 700, 700)
os._exit(1)
"""


def test_what_a_killed_server_held_is_free_again(file: Path) -> None:
    store = Store(file)
    ledger = Ledger(store)
    subprocess.run([sys.executable, "-c", KILLED, str(file)], check=False)
    assert ledger.left(KEY) == 200
    again = Store(file)
    Ledger(again).close()
    again.close()
    assert ledger.left(KEY) == LIMIT
    ledger.close()
    store.close()


def test_servers_that_compete_never_exceed_a_limit(file: Path) -> None:
    key = ApiKey("alice", "0" * 64, tokens_per_day=3000)
    stores = [Store(file) for _ in range(3)]
    ledgers = [Ledger(store) for store in stores]
    counts: list[int] = []

    def use(ledger: Ledger, seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(40):
            prompt, completion = chance.randint(1, 20), chance.randint(1, 40)
            try:
                held = ledger.account(key).reserve(prompt, completion, 1)
            except QuotaError:
                continue
            done = chance.randint(0, held.completion)
            held.settle(Usage(prompt, done))
            counts.append(prompt + done)

    threads = [threading.Thread(target=use, args=(each, n)) for n, each in enumerate(ledgers * 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for ledger in ledgers:
        ledger.uses(None, 1)
    (found,) = ledgers[0].uses(None, 1)
    assert found.used.tokens == sum(counts) <= 3000 and found.used.tokens > 2900
    assert {ledger.left(key) for ledger in ledgers} == {3000 - sum(counts)}
    for ledger, store in zip(ledgers, stores, strict=True):
        ledger.close()
        store.close()


@given(
    limit=st.integers(1, 300),
    asked=st.lists(
        st.tuples(st.integers(1, 60), st.integers(0, 60), st.floats(0, 1), st.floats(0, 1)),
        max_size=40,
    ),
)
def test_it_is_exact(limit: int, asked: list[tuple[int, int, float, float]]) -> None:
    key = ApiKey("alice", "0" * 64, tokens_per_day=limit)
    store = Store()
    ledger = Ledger(store)
    running: list[tuple[int, int, Reservation]] = []
    used = 0
    for prompt, completion, least, rest in asked:
        held = sum(each + reply for each, reply, _ in running)
        assert ledger.left(key) == limit - used - held
        lower = round(completion * least)
        try:
            found = ledger.account(key).reserve(prompt, completion, lower)
        except QuotaError as error:
            assert used + held + prompt + lower > limit
            waits = used + prompt + lower <= limit
            assert (error.code == "rate_limit_exceeded") is waits
        else:
            assert lower <= found.completion <= completion
            assert used + held + prompt + found.completion <= limit
            running.append((prompt, found.completion, found))
        if running and rest < 0.5:
            prompt, completion, reservation = running.pop(0)
            done = round(completion * rest * 2)
            reservation.settle(Usage(prompt, done))
            used += prompt + done
    ledger.close()
    store.close()


def test_many_threads_never_exceed_it(file: Path) -> None:
    key = ApiKey("alice", "0" * 64, tokens_per_day=5000)
    store = Store(file)
    ledger = Ledger(store)
    counts: list[int] = []

    def use(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(60):
            prompt, completion = chance.randint(1, 20), chance.randint(1, 40)
            try:
                held = ledger.account(key).reserve(prompt, completion, chance.randint(1, 40))
            except QuotaError:
                continue
            done = chance.randint(0, held.completion)
            assert (ledger.left(key) or 0) >= 0
            held.settle(Usage(prompt, done))
            counts.append(prompt + done)

    threads = [threading.Thread(target=use, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (found,) = ledger.uses(None, 2)
    assert found.used.tokens == sum(counts) <= 5000 and found.used.requests == len(counts)
    assert ledger.left(key) == 5000 - sum(counts)
    ledger.close()
    store.close()
