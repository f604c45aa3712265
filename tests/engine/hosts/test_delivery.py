"""A sink that fails costs the rows of its frame, not the core, and not silently."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from budmlx.engine.hosts.host import Host
from budmlx.engine.hosts.process import ProcessHost
from budmlx.engine.hosts.thread import ThreadHost
from budmlx.protocol import StepFrame
from tests.engine.hosts.core_process import Rows, core_settings, eventually, row


class Failing(Rows):
    """Raises, instead of taking it, for each frame with tokens of a row while `armed`."""

    def __init__(self) -> None:
        super().__init__()
        self.armed: set[int] = set()
        self.endless: set[int] = set()

    def __call__(self, frame: StepFrame) -> None:
        if self.armed & {token.id for token in frame.tokens}:
            raise ZeroDivisionError
        if self.endless & {each.id for each in (*frame.tokens, *frame.failed)}:
            raise ZeroDivisionError
        super().__call__(frame)


@pytest.fixture
def rows() -> Failing:
    return Failing()


HOSTS = {"thread": ThreadHost, "process": ProcessHost}


@pytest.fixture(params=HOSTS)
def host(rows: Failing, request: pytest.FixtureRequest) -> Iterator[Host]:
    host: Host = HOSTS[request.param](core_settings(), rows)
    yield host
    host.close()
    assert rows.errors == []


def test_the_rows_of_a_frame_that_is_lost_fail(
    host: Host, rows: Failing, caplog: pytest.LogCaptureFixture
) -> None:
    rows.armed = {1}
    with caplog.at_level(logging.ERROR):
        host.submit(row(1, length=4000))
        rows.wait_for(1)
    assert rows.outcomes == {1: "request_failed"} and 1 not in rows.texts
    assert caplog.text.count("A frame of the engine could not be delivered") == 1
    eventually(lambda: host.status().running == 0)  # the core does not work on it any more
    host.submit(row(2, length=5))
    rows.wait_for(2)
    assert rows.outcomes[2] == "length" and len(rows.texts[2]) == 5
    assert host.status().ready and host.status().restarts == 0


def test_a_row_that_ends_in_a_lost_frame_fails(host: Host, rows: Failing) -> None:
    rows.armed = {1}
    host.submit(row(1, length=1))
    rows.wait_for(1)
    assert rows.outcomes == {1: "request_failed"}


def test_a_row_that_cannot_even_fail_keeps_no_other_from_it(
    host: Host, rows: Failing, caplog: pytest.LogCaptureFixture
) -> None:
    host.submit(row(1, length=4000))
    host.submit(row(2, length=4000))
    rows.wait_for_tokens(1)
    rows.wait_for_tokens(2)
    rows.endless = {1}
    rows.wait_for(2)  # it is in the same frames
    eventually(lambda: "could not be ended" in caplog.text)
    host.submit(row(3, length=5))
    rows.wait_for(3)
    assert rows.outcomes == {2: "request_failed", 3: "length"}
    eventually(lambda: host.status().running == 0)
