"""Work and hangs: what a watchdog waits for, what it ends, and what a host says meanwhile."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from budmlx.engine.hosts.child import Child, Watchdog
from budmlx.engine.hosts.host import FRESH_SECONDS
from budmlx.engine.hosts.process import ProcessHost
from budmlx.engine.hosts.thread import ThreadHost
from budmlx.engine.hosts.warm_up_news import WarmUpNews
from budmlx.errors import ModelLoadError
from budmlx.protocol import CoreSettings, PluginTarget, WarmingUp
from budmlx.protocol.note import Note
from tests.engine.hosts.core_process import (
    PATIENCE,
    Rows,
    core_settings,
    eventually,
    row,
)
from tests.engine.hosts.slow_model import SLOW, SLOW_SECONDS, STUCK

SECONDS = 8.0
NAPS = 8


def naps(watchdog: Watchdog, notes: Iterator[Note], most: int = 10_000) -> int:
    """The number of naps until the core counts as hanging; `most` if it never does."""
    return next((n for n in range(1, most) if watchdog.napped(next(notes))), most)


def pulsing(note: Note) -> Iterator[Note]:
    """The notes of a process whose other thread lives."""
    while True:
        note = replace(note, pulses=note.pulses + 1)
        yield note


def test_silence_is_a_hang_after_its_time() -> None:
    assert naps(Watchdog(SECONDS), pulsing(Note())) == NAPS
    watchdog = Watchdog(SECONDS)
    notes = pulsing(Note())
    assert naps(watchdog, notes, NAPS) == NAPS
    watchdog.heard()
    assert naps(watchdog, notes) == NAPS


def test_what_may_take_long_gets_its_time() -> None:
    # The first nap sees a beat.
    assert naps(Watchdog(SECONDS), pulsing(Note(beats=1, allowed=600.0))) == 601
    assert naps(Watchdog(SECONDS), pulsing(Note(beats=1, allowed=0.5))) == NAPS + 1


def test_beats_are_signs_of_life() -> None:
    def beating() -> Iterator[Note]:
        for note in pulsing(Note()):
            yield replace(note, beats=note.pulses // 3)

    assert naps(Watchdog(SECONDS), beating()) == 10_000


def test_a_process_that_is_stopped_gets_no_more_time() -> None:
    stopped = iter(lambda: Note(beats=1, allowed=600.0, pulses=1), None)
    assert naps(Watchdog(SECONDS), stopped) == NAPS + 1
    assert naps(Watchdog(1.0), iter(lambda: Note(1, 600.0, pulses=1), None)) > 5, "a pulse is late"


def test_a_plugin_gets_no_more_time_but_for_what_the_device_computes() -> None:
    inside = Note(beats=1, allowed=600.0, plugin="sleepy")
    assert naps(Watchdog(SECONDS), pulsing(inside)) == NAPS + 1
    assert naps(Watchdog(SECONDS), pulsing(replace(inside, computes=True))) == 601


def test_news_of_a_warm_up_are_told_and_logged_now_and_then(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    told: list[str] = []
    news = WarmUpNews(told.append)
    news.tell(WarmingUp(0, 3))
    news.tell(WarmingUp(1, 3, 11.2))
    news.tell(WarmingUp(2, 3, 5.0))
    assert told == [
        "building kernels 1/3",
        "building kernels 2/3, about 12 s more",
        "building kernels 3/3, about 5 s more",
    ]
    assert news.words == told[-1]
    assert [record.message for record in caplog.records] == [
        "Before the model serves: building kernels 1/3."
    ]
    news.end()
    assert news.words == ""


def test_a_process_is_waited_for() -> None:
    command = (sys.executable, "-c", "import time; time.sleep(100)")
    child, stop = Child(command, core_settings()), threading.Event()
    assert not child.wait_gone(0.0, stop)
    stop.set()
    assert not child.wait_gone(100.0, stop)
    child.kill()
    assert child.wait_gone(100.0, threading.Event())
    child.reap()


def loading(name: str) -> CoreSettings:
    loader = PluginTarget(plugin="p", core=f"tests.engine.hosts.slow_model:{name}")
    return msgspec.structs.replace(core_settings(), loader=loader)


@pytest.mark.timeout(600)
def test_a_first_use_is_waited_for_and_a_hang_is_not() -> None:
    rows = Rows()
    told: list[str] = []
    options: dict[str, Any] = {"watchdog_seconds": 2.0, "notice": told.append}
    host = ProcessHost(loading("slow"), rows, **options)
    try:
        assert_told(told)
        assert SLOW_SECONDS > 2.0
        begin = time.monotonic()
        # A pass of a length that no warm-up runs on a CPU.
        slow = msgspec.structs.replace(row(1), prompt_ids=[20] * 600 + [SLOW] + [20] * 300)
        host.submit(slow)
        rows.wait_for(1)
        assert time.monotonic() - begin > SLOW_SECONDS
        assert rows.outcomes == {1: "length"}
        assert host.status().restarts == 0
        host.submit(msgspec.structs.replace(row(2), prompt_ids=[STUCK] * 30))
        eventually(lambda: "made no step for 2 s" in host.status().reason)
        eventually(lambda: host.status().restarts == 1)
    finally:
        host.close()


def test_a_core_in_a_thread_tells_of_its_warm_up() -> None:
    told: list[str] = []
    ThreadHost(core_settings(), Rows(), notice=told.append).close()
    assert_told(told)


def test_ready_is_as_patient_as_pauses_are_long() -> None:
    rows, blocked, go_on = Rows(), threading.Event(), threading.Event()

    def block(_frame: object) -> None:
        blocked.set()
        go_on.wait()

    rows.on_frame = block  # on the core's thread
    host = ThreadHost(core_settings(), rows)
    try:
        assert blocked.wait(PATIENCE)
        assert host.status().ready
        activity = host._loop.activity
        for change in (0.0, 3 * FRESH_SECONDS):
            host._last_frame_at -= change
            assert host.status().ready, "a beat is a sign of life"
        activity.begun_at -= 3 * FRESH_SECONDS
        assert "no progress" in host.status().reason
        activity.longest = 2 * FRESH_SECONDS
        assert host.status().ready
        activity.begun_at -= 3 * FRESH_SECONDS
        host._last_frame_at -= 3 * FRESH_SECONDS
        activity.new = True
        assert "for the first time" in host.status().reason
    finally:
        go_on.set()
        host.close()


def assert_told(told: list[str]) -> None:
    first, second = told
    assert first == "building kernels 1/2"
    assert second.startswith("building kernels 2/2, about ")


def test_a_core_that_ends_while_it_warms_up_is_reported() -> None:
    with pytest.raises(ModelLoadError, match=r"was building kernels 1/2 \(--warmup off") as caught:
        ProcessHost(loading("fatal"), Rows())
    assert "signal 6" in str(caught.value)
