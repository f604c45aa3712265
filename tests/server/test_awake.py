"""The machine is kept awake while requests run, and no longer."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from pathlib import Path

import pytest

from budmlx.server.awake import Awake
from tests.server.conftest import Start
from tests.server.tools import body, exchange, post, until

PROGRAM = "import sys, time; open(sys.argv[1], 'a').write('x'); time.sleep(100)"


def starts(path: Path) -> int:
    return len(path.read_text()) if path.exists() else 0


async def test_it_is_awake_while_requests_run(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "starts"
    server = await start()
    server.in_flight.watch = awake = Awake([sys.executable, "-c", PROGRAM, str(path)], linger=0.2)
    raw = post(json.dumps(body(max_tokens=600, ignore_eos=True)).encode())
    await asyncio.gather(*(exchange(server, raw) for _ in range(3)))
    process = awake._process
    assert process is not None and process.poll() is None
    await until(lambda: awake._process is None)
    assert process.poll() is not None and starts(path) <= 1
    await exchange(server, post(json.dumps(body(max_tokens=1)).encode()))
    assert awake._process is not None
    awake.close()
    awake.close()


async def test_short_pauses_start_no_other_program(tmp_path: Path) -> None:
    path = tmp_path / "starts"
    awake = Awake([sys.executable, "-c", PROGRAM, str(path)], linger=100)
    for busy in (True, False, True, False, True):
        awake(busy)
    await until(lambda: starts(path) == 1)
    awake.close()
    assert starts(path) == 1


async def test_a_program_that_is_not_there(caplog: pytest.LogCaptureFixture) -> None:
    awake = Awake(["/nowhere/caffeinate"])
    awake(True)
    assert "may fall asleep" in caplog.text and caplog.records[-1].levelno == logging.WARNING
    awake(False)
    awake.close()


def test_only_a_mac_needs_it() -> None:
    assert (Awake.of_this_machine() is not None) == (sys.platform == "darwin")
