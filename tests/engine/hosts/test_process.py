"""A host over a real core in a real child process: serve, kill, stop, starve, close."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator

import msgspec
import pytest

from budmlx.engine.hosts.child import CORE_COMMAND
from budmlx.engine.hosts.process import ProcessHost
from budmlx.engine.hosts.recovery import RecoveryPolicy
from budmlx.errors import EngineClosedError, EngineUnavailableError, RequestFailedError
from budmlx.protocol import StepFrame
from tests.engine.hosts.core_process import (
    FATAL_COMMAND,
    PATIENCE,
    Rows,
    core_process,
    eventually,
    poison,
    row,
    starting,
    undisturbed,
)

pytestmark = pytest.mark.timeout(600)  # many processes are started; a busy machine takes long


@pytest.fixture
def rows() -> Rows:
    return Rows()


@pytest.fixture
def start(rows: Rows) -> Iterator[Callable[..., ProcessHost]]:
    with starting(rows) as make:
        yield make


def test_serves_rows(start: Callable[..., ProcessHost], rows: Rows) -> None:
    host = start(command=CORE_COMMAND)
    assert host.info.vocab_size == 512
    for row_id in range(4):
        host.submit(row(row_id, length=10))
    rows.wait_for(0, 1, 2, 3)
    assert rows.outcomes == dict.fromkeys(range(4), "length")
    assert {len(text) for text in rows.texts.values()} == {10}
    eventually(lambda: host.status().running == 0)
    status = host.status()
    assert (status.ready, status.reason, status.waiting, status.restarts) == (True, "", 0, 0)
    assert status.memory.peak >= status.memory.active > 0
    assert 0 < status.budget.weights < status.budget.limit


def test_cancel_frees_the_row(start: Callable[..., ProcessHost], rows: Rows) -> None:
    host = start()
    host.submit(row(1, length=4000))
    host.submit(row(2, length=20))
    rows.wait_for_tokens(1)
    host.cancel(1)
    host.cancel(99)
    rows.wait_for(2)
    eventually(lambda: host.status().running == 0)
    assert 1 not in rows.outcomes


@pytest.mark.parametrize(
    ("kills", "speculation"),
    [
        (2, 0),
        *(pytest.param(4, drafted, marks=pytest.mark.long) for drafted in (0, 4)),
        *(pytest.param(20, drafted, marks=pytest.mark.soak) for drafted in (0, 4)),
    ],
)
def test_rows_resume_when_the_core_is_killed_under_load(
    kills: int, speculation: int, start: Callable[..., ProcessHost], rows: Rows
) -> None:
    # LIMITS 101, L8
    requests = [row(n, length=60 + 10 * (n % 7)) for n in range(1, 8 * kills)]
    expected = undisturbed(requests)
    assert len({tuple(text) for text in expected.values()}) == len(requests)
    host = start(speculation=speculation)
    waiting = iter(requests)
    for kill in range(kills):
        for _ in range(7):
            host.submit(next(waiting))
        rows.wait(rows.progress())
        core_process().kill()
        eventually(lambda count=kill + 1: host.status().restarts == count)
    rows.wait_for(*range(1, 7 * kills + 1))
    assert set(rows.outcomes.values()) == {"length"}
    assert rows.texts == {n: expected[n] for n in range(1, 7 * kills + 1)}
    assert host.status().restarts == kills


@pytest.mark.parametrize("drafter", [False, True])
def test_rows_that_draft_resume_with_the_same_tokens(
    start: Callable[..., ProcessHost], rows: Rows, drafter: bool
) -> None:
    requests = [row(n, length=40 * n, count=8) for n in range(2, 8)]
    expected = undisturbed(requests)
    host = start(speculation=4, drafter=drafter)
    for request in requests:
        host.submit(request)
    rows.wait(rows.progress())
    core_process().kill()
    rows.wait_for(*range(2, 8))
    assert rows.texts == expected and host.status().restarts == 1
    eventually(lambda: host.status().counts.drafts.accepted > 0)
    if drafter:
        sources = host.status().counts.drafts.sources
        assert sources["draft_model"].accepted > 0.8 * sources["draft_model"].tokens


def test_a_kill_at_any_moment_gives_every_row_one_outcome(
    start: Callable[..., ProcessHost], rows: Rows
) -> None:
    requests = [row(n, length=30) for n in range(1, 25)]
    expected = undisturbed(requests)
    host = start()
    for number, request in enumerate(requests):
        host.submit(request)
        if number % 6 == 5:  # also while it loads and while rows are on probation
            core_process().kill()
    rows.wait_for(*range(1, 25))
    for row_id, outcome in rows.outcomes.items():
        if outcome == "length":
            assert rows.texts[row_id] == expected[row_id]
        else:
            assert outcome in ("request_failed", "engine_unavailable")


def test_a_stopped_core_is_replaced_and_its_rows_resume(
    start: Callable[..., ProcessHost], rows: Rows
) -> None:
    # LIMITS 103, 104
    requests = [row(1, length=120), row(2, length=120)]
    expected = undisturbed(requests)
    host = start(watchdog_seconds=3.0)
    for request in requests:
        host.submit(request)
    rows.wait_for_tokens(2)
    core_process().suspend()
    rows.wait_for(1, 2)
    assert rows.texts == expected
    assert host.status().restarts == 1


def test_submit_does_not_wait_for_a_core_that_does_not_read(
    start: Callable[..., ProcessHost], rows: Rows
) -> None:
    host = start()
    core = core_process()
    core.suspend()
    for row_id in range(1, 101):  # far more than the socket holds
        host.submit(row(row_id, length=2, count=4000 if row_id < 100 else 3))
    for row_id in range(1, 100):
        host.cancel(row_id)
    core.resume()
    rows.wait_for(100)
    assert host.status().restarts == 0


def test_the_core_leaves_signals_to_its_parent(
    start: Callable[..., ProcessHost], rows: Rows
) -> None:
    host = start()
    core = core_process()
    assert os.getpgid(core.pid) != os.getpgid(0)  # Ctrl-C does not get there
    for number, sent in enumerate((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), start=1):
        host.submit(row(number, length=120))
        rows.wait_for_tokens(number)
        core.send_signal(sent)
        rows.wait_for(number)
        assert core_process() == core
        assert host.status().restarts == 0


def test_a_poison_request_is_failed_and_refused(
    start: Callable[..., ProcessHost], rows: Rows
) -> None:
    # LIMITS 102, 124
    requests = [row(n, length=150) for n in range(1, 4)]
    expected = undisturbed(requests)
    host = start(command=FATAL_COMMAND)
    for request in requests:
        host.submit(request)
    rows.wait_for_tokens(3)
    host.submit(poison(50))
    rows.wait_for(1, 2, 3, 50)
    assert rows.outcomes.pop(50) == "request_failed"
    assert set(rows.outcomes.values()) == {"length"}
    assert rows.texts == expected
    with pytest.raises(RequestFailedError):
        host.submit(poison(51))
    # One more where it kills a core that has not heard yet that the others are parked.
    assert host.status().restarts in (3, 4)
    assert host.status().ready


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_request_that_cannot_be_sent_is_failed(
    start: Callable[..., ProcessHost], rows: Rows
) -> None:
    host = start()
    host.submit(msgspec.structs.replace(row(1), seed=2**70))
    rows.wait_for(1)
    assert rows.outcomes == {1: "request_failed"}


def test_the_breaker_opens_and_heals(start: Callable[..., ProcessHost], rows: Rows) -> None:
    policy = RecoveryPolicy(breaker_deaths=2, breaker_delay=0.5)
    host = start(command=FATAL_COMMAND, policy=policy)
    seen: list[object] = []

    def try_again(frame: StepFrame) -> None:
        if frame.failed:
            seen.append(host.status())
            with pytest.raises(EngineUnavailableError) as caught:
                host.submit(row(2))
            seen.append(caught.value.retry_after)

    rows.on_frame = try_again
    host.submit(poison(1))
    rows.wait_for(1)
    eventually(lambda: host.status().ready)
    status, retry_after = seen
    assert not status.ready  # type: ignore[attr-defined]
    assert "ended 2 times" in status.reason  # type: ignore[attr-defined]
    assert retry_after == 1
    host.submit(row(3))
    rows.wait_for(3)
    assert rows.outcomes == {1: "request_failed", 3: "length"}


def test_a_faulty_sink_does_not_stop_the_others(
    start: Callable[..., ProcessHost], rows: Rows
) -> None:
    def fail(frame: StepFrame) -> None:
        raise RuntimeError("sink")

    rows.on_frame = fail
    start().submit(row(1))
    rows.wait_for(1)


def test_close_fails_what_still_runs(start: Callable[..., ProcessHost], rows: Rows) -> None:
    host = start()
    host.submit(row(1, length=4000))
    rows.wait_for_tokens(1)
    host.close()
    assert rows.outcomes == {1: "engine_unavailable"}
    host.close()
    host.cancel(1)
    assert host.status().reason == "The engine is closed."
    with pytest.raises(EngineClosedError):
        host.submit(row(2))


def test_close_ends_a_stopped_core(start: Callable[..., ProcessHost], rows: Rows) -> None:
    host = start()
    host.submit(row(1, length=4000))
    core_process().suspend()
    host.close()
    assert rows.outcomes == {1: "engine_unavailable"}


def test_close_during_a_restart(start: Callable[..., ProcessHost], rows: Rows) -> None:
    host = start()
    host.submit(row(1, length=4000))
    rows.wait_for_tokens(1)
    core_process().kill()
    eventually(lambda: host.status().restarts == 1)
    assert "signal 9" in host.status().reason
    host.close()
    assert rows.outcomes == {1: "engine_unavailable"}


def test_close_from_the_sink(start: Callable[..., ProcessHost], rows: Rows) -> None:
    host = start()
    closed = threading.Event()

    def close(_frame: StepFrame) -> None:
        host.close()
        closed.set()

    rows.on_frame = close
    host.submit(row(1, length=4000))
    assert closed.wait(PATIENCE)
    rows.wait_for(1)
    assert rows.outcomes == {1: "engine_unavailable"}
