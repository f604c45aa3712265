"""Plugins that hang or crash a real core: they are named and kept out, and no other row suffers."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import msgspec
import pytest

from budmlx.engine.hosts.process import ProcessHost
from budmlx.errors import PluginError, RequestFailedError
from budmlx.protocol import GenerateRequest, PluginCall, StepFrame
from tests.engine.hosts.core_process import Rows, row, starting, undisturbed

pytestmark = pytest.mark.timeout(600)  # many processes are started; a busy machine takes long

Start = Callable[..., ProcessHost]


def call(name: str, plugin: str, **options: object) -> PluginCall:
    core = f"tests.engine.hosts.hanging_plugins:{name}"
    return PluginCall(plugin=plugin, name=name.lower(), core=core, options=options)


def choosing(row_id: int, **chosen: object) -> GenerateRequest:
    return msgspec.structs.replace(row(row_id), **chosen)


@pytest.fixture
def rows() -> Rows:
    return Rows()


@pytest.fixture
def messages(rows: Rows) -> dict[int, str]:
    """What is said to the rows that fail."""
    said: dict[int, str] = {}

    def note(frame: StepFrame) -> None:
        said.update({failure.id: failure.message for failure in frame.failed})

    rows.on_frame = note
    return said


@pytest.fixture
def start(rows: Rows) -> Iterator[Start]:
    with starting(rows) as make:
        yield lambda watchdog_seconds=30.0: make(watchdog_seconds=watchdog_seconds)


def test_a_plugin_that_hangs_is_named_and_kept_out(
    start: Start, rows: Rows, messages: dict[int, str], caplog: pytest.LogCaptureFixture
) -> None:
    neighbours = [row(1, length=120), row(2, length=120)]
    expected = undisturbed(neighbours)
    host = start(watchdog_seconds=3.0)
    for request in neighbours:
        host.submit(request)
    rows.wait_for_tokens(1)
    rows.wait_for_tokens(2)
    sleeper = call("Sleeper", "sleepy")
    host.submit(choosing(3, processors=[sleeper]))
    rows.wait_for(1, 2, 3)
    assert rows.outcomes == {1: "length", 2: "length", 3: "plugin_error"}
    assert rows.texts[1] == expected[1] and rows.texts[2] == expected[2]
    assert "plugin sleepy" in messages[3] and "no step for 3 s" in messages[3]
    assert "plugin sleepy" in caplog.text
    with pytest.raises(PluginError, match="plugin sleepy"):
        host.submit(msgspec.structs.replace(choosing(3, processors=[sleeper]), id=4))
    host.submit(row(5))
    rows.wait_for(5)
    assert rows.outcomes[5] == "length"
    assert host.status().restarts == 1


def test_a_plugin_that_keeps_the_whole_process_from_running_is_named(
    start: Start, rows: Rows, messages: dict[int, str]
) -> None:
    host = start(watchdog_seconds=3.0)
    host.submit(choosing(1, sampler=call("Holder", "greedy")))
    rows.wait_for(1)
    assert rows.outcomes == {1: "plugin_error"}
    assert "plugin greedy" in messages[1]


def test_a_plugin_that_crashes_is_named(start: Start, rows: Rows, messages: dict[int, str]) -> None:
    host = start()
    host.submit(row(1, length=120))
    rows.wait_for_tokens(1)
    host.submit(choosing(2, sampler=call("Crasher", "wild")))
    rows.wait_for(1, 2)
    assert rows.outcomes == {1: "length", 2: "plugin_error"}
    assert "plugin wild" in messages[2] and "signal 11" in messages[2]
    with pytest.raises(PluginError, match="plugin wild"):
        host.submit(choosing(2, sampler=call("Crasher", "wild")))
    host.submit(choosing(3, sampler=call("Crasher", "wild", signal=0)))
    rows.wait_for(3)
    assert rows.outcomes[3] == "length"
    assert host.status().restarts == 1


# LIMITS 117
def test_a_plugin_that_exits_is_named(start: Start, rows: Rows, messages: dict[int, str]) -> None:
    host = start()
    host.submit(row(1, length=120))
    rows.wait_for_tokens(1)
    host.submit(choosing(2, sampler=call("Crasher", "wild", signal=-3)))
    rows.wait_for(1, 2)
    assert rows.outcomes == {1: "length", 2: "plugin_error"}
    assert "plugin wild" in messages[2] and "exited with status 3" in messages[2]


@pytest.mark.parametrize("name", ["SIGKILL", pytest.param("SIGABRT", marks=pytest.mark.long)])
def test_an_end_that_may_come_from_elsewhere_is_blamed_on_no_plugin(
    start: Start, rows: Rows, name: str
) -> None:
    host = start()
    poison = choosing(1, sampler=call("Crasher", "wild", signal=int(getattr(signal, name))))
    host.submit(poison)
    rows.wait_for(1)
    assert rows.outcomes == {1: "request_failed"}
    with pytest.raises(RequestFailedError, match="crashed twice"):
        host.submit(msgspec.structs.replace(poison, id=2))
    host.submit(choosing(3, sampler=call("Crasher", "wild", signal=0)))
    rows.wait_for(3)
    assert rows.outcomes[3] == "length"
